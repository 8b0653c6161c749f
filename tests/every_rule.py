"""Every rule, and one step of training held against one of PyTorch's own.

`EQUAL_TO_BP` are the rules whose gradient is backpropagation's on every model; the
others keep PyTorch's conventions only, and are given few steps.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import oracle
import torch
from oracle import Models
from torch import Tensor, nn

import pcnotes as pc
from pcnotes.selection import At

Closure = Callable[[], Tensor]
Make = Callable[[], tuple[Models, Closure]]


EQUAL_TO_BP = [pc.Backprop(), pc.FixedPrediction(), pc.Exact(), pc.ZIL()]
OTHERS = [
    pc.FixedPrediction(step_size=0.5, steps=3),
    pc.Strict(step_size=0.01, steps=3),
    pc.ErrorOptimisation(step_size=0.01, steps=3),
]
EVERY = EQUAL_TO_BP + OTHERS


class Step(NamedTuple):
    """What one step of training leaves behind."""

    loss: Tensor
    gradients: list[Tensor | None]
    buffers: list[Tensor]
    random: list[Any]


def go_back(
    model: Models,
    closure: Closure,
    rule: pc.Rule | None,
    gradient: float | Tensor | None = None,
    at: At = None,
) -> Tensor:
    """`pc.backward`, or for the rule None plain `loss.backward()`."""
    if rule is not None:
        return pc.backward(model, closure, rule, at=at, gradient=gradient)
    loss = closure()
    loss.backward(None if gradient is None else torch.ones_like(loss) * gradient)
    return loss.detach()


def step(make: Make, rule: pc.Rule | None, at: At = None) -> Step:
    """One step on a fresh model; the rule None is plain `loss.backward()`."""
    torch.manual_seed(7)
    model, closure = make()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    before = oracle.hooks(model)
    loss = go_back(model, closure, rule, at=at)
    assert oracle.hooks(model) <= before  # lazy modules lose one of their own
    drawn = [random.random(), np.random.rand(), torch.get_rng_state().tolist()]
    found = [
        torch.view_as_real(g) if g is not None and g.is_complex() else g
        for g in oracle.gradients(model)
    ]
    return Step(loss, found, oracle.buffers(model), drawn)


def assert_step_is_backprops(
    make: Make, rule: pc.Rule, at: At = None, tolerance: float = 1e-12
) -> tuple[Step, Step]:
    """Loss, buffers, random states and None as under BP; the gradient where promised.

    Returns both steps, the rule's first.
    """
    theirs, ours = step(make, None), step(make, rule, at)
    assert torch.equal(ours.loss, theirs.loss)
    assert ours.random == theirs.random
    assert len(ours.buffers) == len(theirs.buffers)
    assert all(map(torch.equal, ours.buffers, theirs.buffers))
    if rule in EQUAL_TO_BP:
        oracle.assert_same(ours.gradients, theirs.gradients, tolerance)
    else:
        for a, b in zip(ours.gradients, theirs.gradients, strict=True):
            assert (a is None) == (b is None)
            assert a is None or (a.shape == b.shape and bool(a.isfinite().all()))
    return ours, theirs


def float64() -> Iterator[None]:
    """A fixture: new tensors and parameters are float64 within a test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def linear(inputs: int, outputs: int) -> Callable[[], nn.Module]:
    """A layer to be made once the seed is set."""
    return lambda: nn.Linear(inputs, outputs)


def chain(
    *modules: Callable[[], nn.Module],
    loss: Callable[[Tensor], Tensor] = lambda y: y.square().mean(),
    rows: int = 5,
) -> Make:
    """A factory for `step`: these modules in a row on random rows of four."""

    def make() -> tuple[nn.Module, Closure]:
        net = nn.Sequential(*(m() for m in modules))
        x = torch.randn(rows, 4)
        return net, lambda: loss(net(x))

    return make
