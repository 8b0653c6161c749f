"""The rules: how errors find their values on a cut graph.

A rule is any object with `run(graph)`, a generator that yields {hidden vertex: error}
after each step, step 0 (the feed-forward pass) first. It may use `graph.evaluate`,
`graph.pull`, `graph.zeros` and `graph.predictions`. A rule whose last errors can be had
by a cheaper road that is proved equal may also have `last(graph)`.
"""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard, runtime_checkable

import numpy as np
from torch import Tensor

from .evaluation import Errors
from .graph import Graph

# Fixed prediction beyond unit step grows before it decays. Past this factor float32 has
# lost every digit of the result, so that returning it would be returning noise.
LARGEST_GROWTH = 1e6


@runtime_checkable
class Rule(Protocol):
    """What `pcnotes` asks of a rule."""

    def run(self, graph: Graph) -> Iterator[Errors]:
        """Yield the hidden vertices' errors after each step, step 0 first."""
        ...


def check_rule(rule: Rule) -> Rule:
    """The rule itself, or a TypeError that says what a rule is."""
    if isinstance(rule, type) or not isinstance(rule, Rule):
        raise TypeError(
            "rule must be a rule such as pcnotes.FixedPrediction(), an object with "
            f"run(graph); got {rule!r}"
        )
    return rule


def last_errors(rule: Rule, graph: Graph) -> Errors:
    """The errors after the last step, by the rule's own shortcut where it has one."""
    check_rule(rule)
    errors: Errors
    if (shortcut := getattr(rule, "last", None)) is not None:
        errors = shortcut(graph)
    else:
        (errors,) = deque(run(rule, graph), maxlen=1)
    graph.last.check_complete(errors)
    return errors


def run(rule: Rule, graph: Graph) -> Iterator[Errors]:
    """The rule's steps; there must be one at least."""
    errors = None
    for errors in rule.run(graph):
        if not isinstance(errors, Mapping):
            raise TypeError(
                f"{rule!r} yielded {type(errors).__name__}, not a mapping "
                "{hidden vertex: error}"
            )
        yield errors
    if errors is None:
        raise ValueError(f"{rule!r} yielded no errors: run() must yield step 0 first")


@dataclass(frozen=True)
class Backprop:
    """Plain autograd on the uncut network, for comparison.

    >>> import torch, pcnotes as pc
    >>> net = torch.nn.Linear(2, 1)
    >>> loss = pc.backward(net, lambda: net(torch.ones(3, 2)).sum(), pc.Backprop())
    >>> net.weight.grad
    tensor([[3., 3.]])
    """

    def run(self, graph: Graph) -> Iterator[Errors]:
        """Step 0, then δ for every hidden vertex."""
        graph.evaluate()
        yield graph.zeros()
        adjoints = graph.uncut().adjoints()
        yield {i: adjoints[i] for i in graph.hidden}

    def last(self, graph: Graph) -> Errors:
        """Nothing: the uncut loss carries the whole gradient by itself."""
        graph.last = graph.uncut()
        return {}


@dataclass(frozen=True)
class FixedPrediction:
    """Predictions and Jacobians frozen at the feed-forward pass; the errors relax.

    One step takes every hidden error ε to (1 - η)·ε + η·(Jᵀε + g), where Jᵀε is what
    the children send down and g is the gradient of the loss at its parents; ε starts at
    zero. It integrates ε itself: the difference of value and prediction would lose its
    digits in float32 (theorem `value-form-cancellation`).

    step_size: η > 0, or a sequence with one η per step. steps: how many; None means the
    depth K of the graph, or the length of the sequence. With η = 1 and steps ≥ K the
    errors are those of backpropagation (`fp-finite-termination`); with other η they are
    binomial shares of them (`fp-closed-form`). Values point from input to label, errors
    are prediction minus value, and outputs are part of the loss.

    `backward` uses `fp-varying-steps`: on a graded graph its cost is one pass, for any
    η and any number of steps. `infer` shows every step.

    >>> import torch, pcnotes as pc
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    >>> loss = pc.backward(net, lambda: net(torch.ones(4, 2)).square().sum(),
    ...                    pc.FixedPrediction(step_size=0.5, steps=20))
    >>> net[0].weight.grad.shape
    torch.Size([3, 2])
    """

    step_size: float | Sequence[float] = 1.0
    steps: int | None = None

    def __post_init__(self) -> None:
        steps = None if self.steps is None else _count("steps", self.steps)
        if _is_sequence(self.step_size):
            sizes = tuple(map(_step_size, self.step_size))
            if not sizes or steps not in (None, len(sizes)):
                raise ValueError(
                    f"steps={self.steps} and a step_size sequence of length "
                    f"{len(sizes)} do not agree; give one step size per step"
                )
            object.__setattr__(self, "step_size", sizes)
        else:
            object.__setattr__(self, "step_size", _step_size(self.step_size))
        object.__setattr__(self, "steps", steps)

    def schedule(self, depth: int) -> tuple[float, ...]:
        """The step sizes η₁, …, ηₙ on a graph of this depth."""
        if isinstance(self.step_size, tuple):
            return self.step_size
        steps = depth if self.steps is None else self.steps
        return (float(self.step_size),) * steps  # type: ignore[arg-type]

    def run(self, graph: Graph) -> Iterator[Errors]:
        """The synchronous relaxation, step by step."""
        graph.evaluate()
        errors = graph.zeros()
        yield errors
        for eta in self.schedule(graph.depth):
            pulled = graph.pull(errors)
            errors = {i: (1 - eta) * errors[i] + eta * pulled[i] for i in errors}
            yield errors

    def last(self, graph: Graph) -> Errors:
        """Σⱼ tailⱼ·δ⁽ʲ⁾, where δ⁽ʲ⁾ came along the paths of exactly j edges."""
        graph.evaluate()
        schedule = self.schedule(graph.depth)
        if schedule.count(1.0) >= graph.depth:
            return graph.sweep()
        tails = _tails(schedule, graph.depth)
        _check_growth(tails, self)
        errors, wave = graph.zeros(), dict(graph.last.loss_gradient)
        for tail in tails:
            for i, delta_j in wave.items():
                errors[i] = errors[i] + tail * delta_j
            wave = graph.last.vjp(wave)
        return errors


def _tails(schedule: Sequence[float], depth: int) -> list[float]:
    """P[at least j of the steps succeed], j = 1..depth, if step t succeeds with ηₜ.

    Beyond one the recursion runs for what has not arrived: there nothing cancels.
    """
    beyond = max(schedule) > 1
    share = np.full(depth + 1, float(beyond))
    share[0] = not beyond
    for eta in schedule:
        share[1:] = (1 - eta) * share[1:] + eta * share[:-1]
    tails = 1 - share[1:] if beyond else share[1:]
    return tails[: len(schedule)].tolist()


def _check_growth(tails: Sequence[float], rule: FixedPrediction) -> None:
    growth = max((abs(1 - tail) for tail in tails), default=0.0)
    if not growth <= LARGEST_GROWTH:
        raise FloatingPointError(
            f"{rule} multiplies errors by {growth:.1e} at these steps. Steps in (0, 1] "
            "never grow; between 1 and 2 errors grow with depth before they decay; "
            "from 2 on they never decay (theorem fp-stability). Unit steps are exact "
            "after as many steps as the graph is deep"
        )


def _is_sequence(value: object) -> TypeGuard[Sequence[float]]:
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str)


def _count(name: str, value: object) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if count < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    return count


def _step_size(value: object) -> float:
    try:
        if isinstance(value, bool | str):
            raise TypeError
        size = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TypeError(
            f"step_size must be a positive number or a sequence of them, got {value!r}"
        ) from None
    if not (math.isfinite(size) and size > 0):
        raise ValueError(f"step_size must be positive and finite, got {value!r}")
    return size
