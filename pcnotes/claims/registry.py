"""What a claim is, and the list of all of them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .draw import Draw

# A negative control must miss its bound by this factor at least.
MARGIN = 10.0

_ROOT = Path(__file__).resolve().parents[2]


class Measurement(NamedTuple):
    """What was measured on one instance, and what the theorem promises there."""

    error: float
    bound: float

    @property
    def ratio(self) -> float:
        """error / bound; not a number counts as infinitely wrong."""
        if math.isnan(self.error) or not self.bound > 0:
            return math.inf
        return self.error / self.bound

    @property
    def ok(self) -> bool:
        """Whether the promise is kept."""
        return self.ratio <= 1


Measure = Callable[[Draw], Measurement]


@dataclass
class Claim:
    """A theorem of the book as a measurement, with a negative control.

    measure: draws an instance and measures both sides of the statement independently.
    controls: the same measurement with one assumption dropped or the rule mutated; each
    must fail on every instance, by the factor MARGIN at least. quantity, instances:
    what the error is and what was drawn, in words for a reader.
    """

    measure: Measure
    instances: str
    quantity: str
    controls: list[Measure] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The label of the theorem in the book."""
        return self.measure.__name__.replace("_", "-")

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return _summary(self.measure)

    @property
    def source(self) -> str:
        """The file, relative to the repository."""
        path = Path(inspect.getfile(self.measure)).resolve()
        return path.relative_to(_ROOT).as_posix()

    @property
    def line(self) -> int:
        """Where the function starts in that file."""
        return self.measure.__code__.co_firstlineno

    def control(self, measure: Measure) -> Measure:
        """Register a negative control (a decorator)."""
        self.controls.append(measure)
        return measure

    def __call__(self, draw: Draw) -> Measurement:
        """Measure one instance."""
        return self.measure(draw)

    def __reduce__(self) -> tuple[Callable[[str], Claim], tuple[str]]:
        """To another process a claim goes by its label."""
        return _of_label, (self.label,)


CLAIMS: dict[str, Claim] = {}


def _of_label(label: str) -> Claim:
    return CLAIMS[label]


def claim(instances: str, quantity: str) -> Callable[[Measure], Claim]:
    """Register a function as the claim of the theorem that it is named after."""

    def register(measure: Measure) -> Claim:
        new = Claim(measure, instances, quantity)
        CLAIMS[new.label] = new
        return new

    return register


def worst(*measurements: Measurement) -> Measurement:
    """Of several promises on one instance the one that is closest to being broken."""
    return max(measurements, key=lambda m: m.ratio)


def _summary(measure: Measure) -> str:
    return (inspect.getdoc(measure) or "").partition("\n")[0]
