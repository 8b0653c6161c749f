"""Claims about runs under a weak loss, which tell how sharp the light cone is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ... import theory
from ..draw import Draw
from ..instances import Instance
from ..measuring import ROUNDING, exactly, states
from ..networks import any_network, chain
from ..registry import Measurement, claim, worst
from ..vertices import Wiring
from .ages import Aged, live
from .whole import Weights, linear_network, of_one_sign, sideways

# ---- to first order in the loss ------------------------------------------------------


@claim(instances="random graphs and steps", quantity="relative error")
def weak_loss(draw: Draw) -> Measurement:
    """The run's derivative in the weight of the loss, for any smooth network.

    Strict runs on the energy by autograd, differentiated in β at 0, in one random
    direction: of the values with any step, of the errors with unit steps. On linear
    networks of whole numbers the formula is the run, for β = 1 and bit for bit.
    """
    case, step = any_network(draw), draw.choice([1.0, 0.5, -0.3, 1.7])
    return worst(
        _derivative(case, draw, step, of_errors=False),
        _derivative(case, draw, 1.0, of_errors=True),
        _whole_run(draw),
    )


def _derivative(
    case: Instance,
    draw: Draw,
    step: float,
    of_errors: bool,
    coparents: bool = True,
    predictions: bool = True,
) -> Measurement:
    steps, lin = min(case.depth + 1, 5), case.linear
    eye, M, g = np.eye(len(lin.g)), lin.M, lin.g
    curvature = eye - M - M.T + (M @ M.T if coparents else 0)
    expected = _displaced(curvature, g, step, steps)
    if of_errors:
        limit = theory.live_errors(M, g, steps)[-1]
        expected = limit if predictions else lin.parts[:steps].sum(0)
    direction = torch.randn(len(g), generator=draw.generator(), dtype=torch.float64)
    found = _slope(case, case.named(direction), step, steps, of_errors)
    # Roundings are relative to the terms, which may cancel: the same sums of sizes.
    sizes = (eye + abs(M)) @ (eye + abs(M.T))
    terms = (eye + abs(M.T)) @ _displaced(sizes, abs(g), -abs(step), steps)
    r = direction.numpy()
    return Measurement(float(abs(found - r @ expected) / (abs(r) @ terms)), ROUNDING)


def _displaced(
    curvature: theory.Array, g: theory.Array, step: float, steps: int
) -> theory.Array:
    """-γ Σ (I - γH)ᵗg, t < steps."""
    total, term = np.zeros_like(g), g
    for _ in range(steps):
        total, term = total - step * term, term - step * (curvature @ term)
    return total


def _slope(
    case: Instance,
    direction: Mapping[str, Tensor],
    step: float,
    steps: int,
    of_errors: bool,
) -> float:
    """d/dβ at β = 0 of the last values, or errors, in one direction."""
    weight = torch.zeros((), dtype=torch.float64, requires_grad=True)
    values = {i: v.clone().requires_grad_() for i, v in case.feedforward.items()}
    for _ in range(steps):
        energy = case.energy(values) + weight * case.loss(values)
        slopes = torch.autograd.grad(energy, list(values.values()), create_graph=True)
        moved = zip(values.items(), slopes, strict=True)
        values = {i: v - step * slope for (i, v), slope in moved}
    last = case.errors(values) if of_errors else values
    scalar = torch.stack([(direction[i] * v).sum() for i, v in last.items()]).sum()
    (found,) = torch.autograd.grad(scalar, weight)
    return float(found)


def _whole_run(draw: Draw) -> Measurement:
    """Errors of a linear network under unit steps, with a loss of weight one."""
    case = _of_one_sign(draw)
    found = states(case, Aged(live, case.depth + 1))
    lin = case.linear
    expected = theory.live_errors(lin.M, lin.g, case.depth + 1)
    off = [lin.stacked(e) != row for e, row in zip(found, expected, strict=True)]
    return exactly(float(np.mean(off)))


def _of_one_sign(draw: Draw) -> Instance:
    """A linear network of whole numbers on the graph of a random network."""
    case = any_network(draw)
    weights = of_one_sign(draw, case.edges, case.loss_parents)
    return linear_network(case.edges, case.loss_parents, weights)


@weak_loss.control
def co_parents_left_out(draw: Draw) -> Measurement:
    """H without MJ: a child's error does not move its parents."""
    return _derivative(_with_shortcut(draw), draw, 1.0, False, coparents=False)


@weak_loss.control
def predictions_stand_still(draw: Draw) -> Measurement:
    """Σ δ⁽ʲ⁾ alone, as if a moved parent did not change a prediction."""
    return _derivative(_with_shortcut(draw), draw, 1.0, True, predictions=False)


def _with_shortcut(draw: Draw) -> Instance:
    """A linear chain whose first vertex feeds the loss too."""
    wiring = chain(draw.integer(4, 6))
    ends = ["v1", list(wiring)[-1]]
    return linear_network(wiring, ends, of_one_sign(draw, wiring, ends))


# ---- the light cone is sharp ---------------------------------------------------------


@claim(instances="random graphs, whole weights of one sign", quantity="share off")
def light_cone_sharp(draw: Draw) -> Measurement:
    """Where no two terms cancel, a value first moves at its moral distance.

    Runs in exact arithmetic, with steps that are powers of two: no value has moved
    before, and by then it has moved by what its shortest ways to the loss say.
    """
    step = draw.choice([1.0, 0.5, -1.0])
    wiring, ends = sideways(draw)
    aside = linear_network(wiring, ends, of_one_sign(draw, wiring, ends))
    return worst(_first_moves(_of_one_sign(draw), step), _first_moves(aside, step))


def _first_moves(
    case: Instance, step: float, until: Mapping[str, int] | None = None
) -> Measurement:
    edges, ends = case.edges, case.loss_parents
    until = until or theory.moral_distances(edges, ends)
    rule = Aged(live, max(until.values()), lambda i, now: step)
    states(case, rule)
    along, off = _along_shortest_ways(case), 0
    for i, d in until.items():
        moved = [float(u[i]) for u in rule.u[: d + 1]]
        off += any(moved[:d]) or not moved[d] or moved[d] != -(step**d) * along[i]
    return exactly(off / len(until))


def _along_shortest_ways(case: Instance) -> dict[str, float]:
    """Sums over shortest ways from a vertex to the loss in the moral graph.

    A way's term is the product of J, Jᵀ and -JᵀJ on its edges, and g at its end.
    """
    lin, edges = case.linear, case.edges
    moral = theory.moral_distances(edges, case.loss_parents)
    weight = {
        (j, c): float(lin.block(j, c)[0, 0])
        for c, above in edges.items()
        for j in above
    }
    found: dict[str, float] = {}
    for i in sorted(moral, key=lambda i: moral[i]):
        if moral[i] == 1:
            found[i] = float(lin.g[lin.rows[i]][0])
            continue
        nearer = [b for b in found if moral[b] == moral[i] - 1]
        found[i] = 0.0
        for b in nearer:
            shared = [c for c in edges if (i, c) in weight and (b, c) in weight]
            joined = weight.get((i, b), 0.0) + weight.get((b, i), 0.0)
            joined -= sum(weight[i, c] * weight[b, c] for c in shared)
            found[i] += joined * found[b]
    return found


@light_cone_sharp.control
def directed_distances(draw: Draw) -> Measurement:
    """d_min in place of the moral distance, with a shortcut to the loss above."""
    case = _with_shortcut(draw)
    return _first_moves(case, 1.0, case.distances[0])


@light_cone_sharp.control
def weights_that_cancel(draw: Draw) -> Measurement:
    """Two ways of the news to one vertex, with opposite products: it stays put."""
    wiring: Wiring = {"v1": (), "v2": ("v1",), "v3": ("v2",)}
    a, b = draw.integer(1, 3), draw.integer(1, 3)
    weights: Weights = {
        **{("v1", "v2"): a, ("v1", "loss"): b},
        **{("v2", "v3"): -b, ("v3", "loss"): a},
    }
    return _first_moves(linear_network(wiring, ["v1", "v3"], weights), 1.0)
