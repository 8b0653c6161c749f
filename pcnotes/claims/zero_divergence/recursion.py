"""Claims about the recursion of errors, and the silence ahead of the leading edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from ... import theory
from ..draw import Draw
from ..instances import Instance
from ..measuring import ROUNDING, all_states, largest, norm, random_values
from ..networks import any_network, curved, furnished, random_network, tame
from ..registry import Measurement, claim, worst
from ..schemes import Live
from .levelled import OF_VALUES, levelled, some_steps

# ---- the recursion -------------------------------------------------------------------


@claim(instances="random graphs, states and steps", quantity="relative error")
def master_recursion(draw: Draw) -> Measurement:
    """ε(t) = (1 - γ)ε(t - 1) + γ(Jᵀε + g) + Δμ, at any state, with any real steps.

    Every step of the dynamics against the right-hand side, whose Jacobians, loss
    gradients and predictions come from autograd on the uncut network.
    """
    return _recursion(tame(any_network(draw)), draw)


def _recursion(
    case: Instance, draw: Draw, predictions: bool = True, jacobians: bool = True
) -> Measurement:
    steps = [some_steps(case, draw) for _ in range(draw.integer(1, 3))]
    run = all_states(case, Live(steps, random_values(case, draw)))
    lin, measured = case.linear, []
    for before, after, step in zip(run, run[1:], steps, strict=False):
        at = case.linearise(before.values) if jacobians else lin
        ones = np.ones_like(lin.stacked(case.feedforward))
        gamma = lin.stacked({i: step[i] * v for i, v in lin.named(ones).items()})
        error, mu = lin.stacked(before.errors), _predicted(case, before.values)
        change = _predicted(case, after.values) - mu
        expected = (1 - gamma) * error + gamma * (at.M @ error + at.g)
        expected = expected + change if predictions else expected
        terms = np.abs(error) + np.abs(at.M) @ np.abs(error) + np.abs(at.g)
        sizes = terms.max() * (1 + np.abs(gamma).max()) + np.abs(mu).max()
        sizes += np.abs(change).max()
        off = np.abs(lin.stacked(after.errors) - expected).max()
        measured.append(Measurement(float(off / sizes), ROUNDING))
    return worst(*measured)


def _predicted(case: Instance, values: Mapping[str, Tensor]) -> theory.Array:
    found = {i: case.network.predict(i, values, case.x) for i in case.hidden}
    return case.linear.stacked(found)


@master_recursion.control
def predictions_held(draw: Draw) -> Measurement:
    """Without Δμ, as if predictions stayed where they are."""
    return _recursion(
        tame(random_network(draw, least_depth=2)), draw, predictions=False
    )


@master_recursion.control
def linearisation_held(draw: Draw) -> Measurement:
    """Jacobians and loss gradient of the feed-forward pass."""
    case = curved(random_network(draw, least_depth=2))
    return _recursion(case, draw, jacobians=False)


# ---- the leading edge ----------------------------------------------------------------


@claim(instances="random levelled graphs, random steps", quantity="relative size")
def leading_edge(draw: Draw) -> Measurement:
    """On a graded graph a vertex of level k has v = v̂ and ε = 0 before step k.

    Whatever real steps the vertices take, each its own at each time.
    """
    case = levelled(draw)
    steps = [some_steps(case, draw) for _ in range(case.depth)]
    return _silence(case, steps, case.distances[1])


def _silence(
    case: Instance, steps: Sequence[Mapping[str, float]], levels: Mapping[str, int]
) -> Measurement:
    found = [
        max(norm(state.errors[i]), norm(state.values[i] - case.feedforward[i]))
        for t, state in enumerate(all_states(case, Live(steps)))
        for i, k in levels.items()
        if t < k
    ]
    return Measurement(max(found) / largest(case.feedforward), OF_VALUES)


@leading_edge.control
def with_a_shortcut(draw: Draw) -> Measurement:
    """A vertex also feeds the loss directly; its longest path has two edges or more."""
    case = tame(random_network(draw, least_depth=2, skip=True))
    return _silence(case, [some_steps(case, draw)], {"v1": 2})


@leading_edge.control
def with_a_dead_end(draw: Draw) -> Measurement:
    """A dead end is not pruned (the loss looks at it, times zero).

    It reads the last vertex of a chain and the first one, and tells the first that the
    last has moved.
    """
    wiring = {"v1": (), "v2": ("v1",), "v3": ("v2",), "end": ("v1", "v3")}
    case = furnished(draw, wiring, ["end", "v3"])
    case.network.get_parameter("out1.weights").data[0] = 0.0
    steps = [some_steps(case, draw) for _ in range(2)]
    return _silence(case, steps, {"v1": 3})
