"""Counts: matrix products of each rule on a chain, against the formulas.

What is counted is what PyTorch dispatches, not what the package says of itself: a
product with a weight matrix forward (W·v), with its transpose (Wᵀ·v), and the outer
product that makes a weight's gradient (ΔW).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

MATMUL = {torch.ops.aten.mm.default: 0, torch.ops.aten.addmm.default: 1}


class Products(NamedTuple):
    """Matrix products by kind."""

    forward: int
    transpose: int
    weight: int

    @property
    def total(self) -> int:
        return sum(self)


class Counting(TorchDispatchMode):
    """Count the products with the weights of these linear layers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.weights = {
            m.weight.data_ptr() for m in model.modules() if isinstance(m, nn.Linear)
        }
        self.forward = self.transpose = self.weight = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in MATMUL:
            self._count(args[MATMUL[function] + 1])
        return function(*args, **(kwargs or {}))

    def _count(self, right: torch.Tensor) -> None:
        # x·Wᵀ is the forward product of a batch of rows, δ·W the transposed one; the
        # same memory, told apart by how it is strided.
        if right.data_ptr() not in self.weights:
            self.weight += 1
        elif right.is_contiguous():
            self.transpose += 1
        else:
            self.forward += 1


def products(model: nn.Module, call: Callable[[], object]) -> Products:
    """The products of one call."""
    with Counting(model) as counted:
        call()
    return Products(counted.forward, counted.transpose, counted.weight)


class Formula(NamedTuple):
    """Products of a rule on a chain of L layers in T steps.

    ours: what must be counted, exactly. book: the cost table of the book, which writes
    each rule down in its plain form.
    """

    ours: Callable[[int, int], Products]
    book: Callable[[int, int], Products]


def _sweep(L: int, T: int) -> Products:
    """Each error once: what BP costs."""
    return Products(L, L - 1, L)


def _relaxation(L: int, T: int) -> Products:
    return Products(L, T * (L - 1), L)


def _descent(L: int, T: int) -> Products:
    """T steps: one evaluation each and one at the end, which also learns."""
    return Products((T + 1) * L, T * (L - 1), L)


FORMULAS: dict[str, Formula] = {
    "bp": Formula(_sweep, _sweep),
    "backprop": Formula(_sweep, _sweep),
    "exact": Formula(_sweep, _sweep),
    # Only the leading edge of the wave, one layer wide, is computed.
    "zil": Formula(_sweep, _sweep),
    "fixed": Formula(_sweep, _relaxation),
    "fixed-half": Formula(_sweep, _relaxation),
    # K = L - 1 steps from the first evaluation on, all values at each of them.
    "zil-dynamics": Formula(
        lambda L, T: Products(L * L, (L - 1) ** 2, 0),
        lambda L, T: Products((L - 1) + L * L, (L - 1) ** 2, L),
    ),
    # The loss's gradient is frozen, so layer L is passed once and not once a step; the
    # states do not learn.
    "fixed-dynamics": Formula(
        lambda L, T: Products(L, 1 + T * (L - 2), 0), _relaxation
    ),
    # The book's table runs the network once more before inference starts. Here that
    # run is the first evaluation.
    "strict": Formula(
        _descent, lambda L, T: Products((L - 1) + (T + 1) * L, T * (L - 1), L)
    ),
    # Learns in every state, the first included.
    "incremental": Formula(
        lambda L, T: Products((T + 1) * L, T * (L - 1), (T + 1) * L),
        lambda L, T: Products((L - 1) + T * L, T * (L - 1), T * L),
    ),
    "error": Formula(_descent, _descent),
}
