"""Claims about exactness where nothing on the way has moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...rules import ZIL, FixedPrediction
from ..draw import Draw
from ..instances import Instance
from ..measuring import (
    ROUNDING,
    all_near,
    exactly,
    gradients,
    largest,
    near_gradients,
    norm,
    shares,
    states,
)
from ..networks import any_network, graded_network, tame
from ..registry import Measurement, claim, worst
from ..schemes import Dynamics
from ..vertices import Values
from .ages import Age, Aged, at_their_levels, drawn, frozen, live, with_shortcut


@claim(instances="random graphs and ages", quantity="relative error")
def unified_exactness(draw: Draw) -> Measurement:
    """Where nothing on the way had moved, an error holds its paths of up to n edges.

    Every vertex and time whose past was still: ε_i(n) against Σ δ⁽ʲ⁾, j ≤ n. Ages all
    zero, random, or on a graph in levels all live.
    """
    case = tame(any_network(draw))
    return worst(
        _still_pasts(case, frozen),
        _still_pasts(case, drawn(draw, fresh=1)),
        _still_pasts(tame(graded_network(draw)), live),
    )


def _still_pasts(
    case: Instance, age: Age, still: Callable[..., bool] | None = None
) -> Measurement:
    rule = Aged(age, case.depth)
    found = states(case, rule)
    is_still = _is_still if still is None else still
    good: dict[tuple[str, int], bool] = {}
    for n in range(1, case.depth + 1):
        for i in case.hidden:
            below = all(good.get((c, n - 1), True) for c in case.children[i])
            good[i, n] = is_still(case, rule, i, n) and below
    measured = [
        _partial_sum(case, rule, found, i, n) for (i, n), fine in good.items() if fine
    ]
    return worst(*measured) if measured else exactly(0.0)


def _is_still(case: Instance, rule: Aged, i: str, n: int) -> bool:
    """Whether what i used in step n was as at v̂, and its prediction stood still."""
    now = n - 1
    used, children = rule.used, case.children[i]
    at = [(used["jacobian", i, c, now], case.edges[c]) for c in children]
    if i in case.loss_parents:
        at.append((used["loss", i, i, now], case.loss_parents))
    moved = any(bool(rule.u[t][j].any()) for t, inputs in at for j in inputs)
    return not moved and bool((rule.mu[n][i] == rule.mu[now][i]).all())


def _partial_sum(
    case: Instance, rule: Aged, found: Sequence[Values], i: str, n: int
) -> Measurement:
    """ε_i(n) against Σ δ⁽ʲ⁾_i, j ≤ n."""
    lin = case.linear
    expected = lin.named(lin.parts[:n].sum(0))[i]
    # ε is a difference of numbers as large as the values were, and so were the errors
    # that it was made from, n steps back: (I - |M|)⁻¹ carries their roundings here.
    seen = [x for t in range(n + 1) for x in (rule.mu[t], rule.u[t], found[t])]
    size = max(largest(values) for values in seen)
    inverse = np.linalg.inv(np.eye(len(lin.g)) - np.abs(lin.M))
    room = lin.cancellation + size / case.size * float(inverse.sum(1).max())
    return Measurement(norm(found[n][i] - expected) / case.size, ROUNDING * room)


@unified_exactness.control
def pasts_that_moved(draw: Draw) -> Measurement:
    """The same sums where a shortcut had moved what was used, everything live."""
    case = with_shortcut(draw)
    return _still_pasts(case, live, still=lambda *_: True)


@unified_exactness.control
def only_predictions_frozen(draw: Draw) -> Measurement:
    """Predictions stand still, Jacobians and loss gradient move with the values."""
    case = with_shortcut(draw)

    def age(kind: str, of: str, by: str, now: int) -> int:
        return 0 if kind == "prediction" else now

    return _still_pasts(case, age, still=lambda *_: True)


@claim(instances="random graphs and ages", quantity="relative error")
def fp_and_z_il_from_unified(draw: Draw) -> Measurement:
    """All frozen: fixed prediction, on any graph. In levels, any ages: exact at step k.

    Frozen runs against partial sums and against the package's rule; runs with random
    ages, and all live, at graded vertices' levels against autograd; parents of a vertex
    unmoved at its instant; parameter gradients of the package's Z-IL.
    """
    case, levelled = any_network(draw), tame(graded_network(draw))
    depth = case.depth
    sums = [shares(case, [j < n for j in range(depth)]) for n in range(depth + 1)]
    rule = FixedPrediction(1.0, depth)
    truth = levelled.parameter_gradients()
    return worst(
        all_near(case, states(case, Aged(frozen, depth)), sums),
        all_near(case, states(case, rule), sums),
        at_their_levels(levelled, live),
        at_their_levels(levelled, drawn(draw, fresh=2)),
        near_gradients(levelled, gradients(levelled, Dynamics(ZIL())), truth),
    )


@fp_and_z_il_from_unified.control
def not_in_levels(draw: Draw) -> Measurement:
    """A shortcut to the loss, with all ingredients live."""
    return at_their_levels(with_shortcut(draw), live)


@fp_and_z_il_from_unified.control
def loss_gradient_live(draw: Draw) -> Measurement:
    """A shortcut to the loss, and only the loss gradient is live."""
    case = with_shortcut(draw)
    return at_their_levels(case, lambda kind, of, by, now: now if kind == "loss" else 0)
