"""Fixed prediction: the errors relax on the linearisation of the feed-forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..evaluation import Errors
from ..graph import Graph
from ..objective import positive
from .arguments import count, is_sequence

# Beyond unit step errors grow before they decay. Past this factor float32 has lost
# every digit of the result, so that returning it would be returning noise.
LARGEST_GROWTH = 1e6


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
        steps = None if self.steps is None else count("steps", self.steps)
        if is_sequence(self.step_size):
            sizes = tuple(_step_size(eta) for eta in self.step_size)
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
        schedule = self.schedule(graph.depth)
        for step, eta in enumerate(schedule, 1):
            pulled = graph.pull(errors)
            errors = {i: (1 - eta) * errors[i] + eta * pulled[i] for i in errors}
            if step == len(schedule):
                graph.learn(errors, loss=True)
            yield errors

    def teach(self, graph: Graph) -> None:
        """Σⱼ tailⱼ·δ⁽ʲ⁾, where δ⁽ʲ⁾ came along the paths of exactly j edges.

        Where all of a vertex's paths are equally long, or all tails are one, that is
        its share of one reverse sweep.
        """
        graph.linearise()
        schedule = self.schedule(graph.depth)
        if schedule.count(1.0) >= graph.depth:
            graph.sweep()
            return
        tails = _tails(schedule, graph.depth)
        _check_growth(tails, self)
        if graph.graded:
            graph.sweep(lambda level: tails[level - 1])
            return
        errors, wave = graph.zeros(), dict(graph.last.loss_gradient)
        for tail in tails:
            for i, delta_j in wave.items():
                errors[i] = errors[i] + tail * delta_j
            wave = graph.last.vjp(wave)
        graph.learn(errors, loss=True)


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
    tails[len(schedule) :] = 0
    return tails.tolist()


def _check_growth(tails: Sequence[float], rule: FixedPrediction) -> None:
    growth = max((abs(1 - tail) for tail in tails), default=0.0)
    if not growth <= LARGEST_GROWTH:
        raise FloatingPointError(
            f"{rule} multiplies errors by {growth:.1e} at these steps. Steps in (0, 1] "
            "never grow; between 1 and 2 errors grow with depth before they decay; "
            "from 2 on they never decay (theorem fp-stability). Unit steps are exact "
            "after as many steps as the graph is deep"
        )


def _step_size(value: object) -> float:
    try:
        return positive("step_size", value)
    except TypeError:
        raise TypeError(
            f"step_size must be a positive number or a sequence of them, got {value!r}"
        ) from None
