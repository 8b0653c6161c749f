"""Where a claim gets its random instance from.

A claim asks a `Draw` for numbers and does not know who answers: a seeded generator
(`verify`, where a seed repeats an instance), or Hypothesis (the tests, where a failing
instance shrinks).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch

T = TypeVar("T")


class Draw(Protocol):
    """A source of decisions; equal decisions give an equal instance."""

    def integer(self, low: int, high: int) -> int:
        """A whole number between low and high, both included."""
        ...

    def uniform(self, low: float, high: float) -> float:
        """A real number between low and high."""
        ...

    def choice(self, options: Sequence[T]) -> T:
        """One of the options; the first is the simplest."""
        ...

    def generator(self) -> torch.Generator:
        """A seeded generator for weights and data."""
        ...


class SeededDraw:
    """Decisions from one seed.

    >>> SeededDraw(7).integer(1, 100) == SeededDraw(7).integer(1, 100)
    True
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        """A whole number between low and high, both included."""
        return self._random.randint(low, high)

    def uniform(self, low: float, high: float) -> float:
        """A real number between low and high."""
        return self._random.uniform(low, high)

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        return self._random.choice(options)

    def generator(self) -> torch.Generator:
        """A seeded generator for weights and data."""
        return torch.Generator().manual_seed(self._random.getrandbits(31))


class HypothesisDraw:
    """Decisions by Hypothesis: `HypothesisDraw(data.draw)` inside a test.

    Only tests need it, so Hypothesis is imported when the first decision falls.
    """

    def __init__(self, draw: Callable[..., Any]) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        """A whole number between low and high, both included."""
        from hypothesis import strategies

        return int(self._draw(strategies.integers(low, high)))

    def uniform(self, low: float, high: float) -> float:
        """A real number between low and high."""
        from hypothesis import strategies

        return float(self._draw(strategies.floats(low, high)))

    def choice(self, options: Sequence[T]) -> T:
        """One of the options; shrinks to the first."""
        from hypothesis import strategies

        chosen: T = self._draw(strategies.sampled_from(options))
        return chosen

    def generator(self) -> torch.Generator:
        """A seeded generator for weights and data."""
        return torch.Generator().manual_seed(self.integer(0, 2**31 - 1))
