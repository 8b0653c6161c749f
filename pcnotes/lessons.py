"""What the parameters learn during one call: collected first, handed over at the end.

Until then `.grad` is untouched, so that a rule that fails half-way leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .evaluation import Errors, Gradients, Sums


class Lessons:
    """Gradients by leaf of autograd, and from which errors they came.

    factor: multiplies every gradient where it enters the local graphs. keep_errors:
    whether `errors` holds what each vertex learned from; backward has no use for them.
    """

    def __init__(
        self, factor: float | Tensor | None = None, keep_errors: bool = False
    ) -> None:
        self.factor = factor
        self.keep_errors = keep_errors
        self.errors: dict[str, Tensor] = {}
        self._leaves: dict[int, Tensor] = {}
        self._sums = Sums[int]()

    @property
    def gradients(self) -> dict[Tensor, Tensor]:
        """What was learned so far, by leaf."""
        return {self._leaves[k]: gradient for k, gradient in self._sums.items()}

    def add(self, errors: Errors, gradients: Gradients) -> None:
        """These vertices have learned from these errors."""
        if self.keep_errors:
            self.errors |= errors
        for leaf, gradient in gradients:
            self._leaves[id(leaf)] = leaf
            self._sums.add_one(id(leaf), gradient)

    def hand_over(self) -> None:
        """Add everything to `.grad` in one pass of autograd, so that hooks run once."""
        leaves, gradients = list(self._leaves.values()), _apart(self._sums.values())
        self._leaves, self._sums = {}, Sums[int]()
        if leaves:
            _HandOver.apply(gradients, *leaves).backward()


def _apart(gradients: Iterable[Tensor]) -> list[Tensor]:
    """No two in one memory: what is `.grad` of one parameter is changed in place."""
    seen: set[int] = set()
    found = []
    for gradient in gradients:
        if gradient.layout == torch.strided:
            memory = gradient.untyped_storage()._cdata
            gradient = gradient.clone() if memory in seen else gradient
            seen.add(memory)
        found.append(gradient)
    return found


class _HandOver(torch.autograd.Function):
    """Ends in the leaves with gradients that are known already.

    Given to torch.autograd.backward as the leaves' own gradients they would be copied;
    what a Function lets go of becomes `.grad` as it is.
    """

    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return torch.zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients = tuple(ctx.gradients)
        ctx.gradients.clear()
        return (None, *gradients)
