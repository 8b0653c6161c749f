"""Claims about the relaxation as a dynamical system: best steps, locality, growth."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import torch

from ... import theory
from ...rules import FixedPrediction
from ..draw import Draw
from ..instances import Instance
from ..measuring import ROUNDING, exactly, growth, norm, states
from ..networks import any_network, chain, furnished, graded_network, random_network
from ..registry import Measurement, claim, worst
from ..schemes import LocalScheme, Relaxation
from ..vertices import Values


@claim(instances="random levelled graphs", quantity="relative excess")
def fp_unit_step_optimal(draw: Draw) -> Measurement:
    """On a levelled graph no n real steps leave any vertex a smaller error than n ones.

    The error after unit steps minus that after random real ones, where it is positive.
    """
    case, n = graded_network(draw), draw.integer(1, 6)
    positive = [draw.uniform(0.05, 2.5) for _ in range(n)]
    signed = [draw.uniform(-2.0, 3.0) for _ in range(n)]
    return worst(
        _excess_of_unit_steps(case, FixedPrediction(positive), n),
        _excess_of_unit_steps(case, Relaxation(signed), n),
    )


def _excess_of_unit_steps(
    case: Instance, rule: FixedPrediction | Relaxation, n: int
) -> Measurement:
    unit = _distances(case, states(case, FixedPrediction(1.0, n)))[-1]
    other = _distances(case, states(case, rule))[-1]
    excess = max(unit[i] - other[i] for i in case.hidden) / case.size
    return Measurement(max(excess, 0.0), ROUNDING * case.linear.cancellation)


def _distances(case: Instance, found: Sequence[Values]) -> list[dict[str, float]]:
    """‖ε - δ‖ of every vertex at every state."""
    return [{i: norm(e[i] - d) for i, d in case.delta.items()} for e in found]


@fp_unit_step_optimal.control
def not_levelled(draw: Draw) -> Measurement:
    """Two path lengths: before the longer one has arrived another step does better."""
    case = random_network(draw, least_depth=2, skip=True)
    lin = case.linear
    first = lin.named(lin.parts[0])["v1"]  # all that one step can deliver
    best = float((first * case.delta["v1"]).sum() / first.square().sum())
    unit, other = (
        _distances(case, states(case, Relaxation([eta])))[-1] for eta in (1.0, best)
    )
    excess = (unit["v1"] - other["v1"]) / norm(case.delta["v1"])
    return Measurement(excess, ROUNDING)


@claim(instances="random graphs and schemes", quantity="share that knows too early")
def fp_no_faster_local_scheme(draw: Draw) -> Measurement:
    """No local synchronous scheme tells a vertex anything of the label any sooner.

    Two runs of a random scheme that differ in the label alone: how many states differ
    before the round that the distance to the loss allows. None may, not by one bit. On
    levelled graphs that round is d_max.
    """
    case, levelled = any_network(draw), graded_network(draw)
    rounds = theory.rounds_needed(levelled.edges, levelled.loss_parents)
    return worst(
        exactly(_know_early(case, _neighbours(case), draw)),
        exactly(float(rounds != levelled.distances[1])),
    )


def _neighbours(case: Instance) -> set[tuple[str, str]]:
    """(vertex, vertex that it sees): itself, parents, children."""
    edges = {(c, i) for i, children in case.children.items() for c in children}
    return edges | {(i, c) for c, i in edges} | {(i, i) for i in case.hidden}


def _know_early(case: Instance, sees: set[tuple[str, str]], draw: Draw) -> float:
    """The share of states that depend on the label before they can."""
    generator = draw.generator()
    numbers = torch.rand(len(sees), generator=generator, dtype=torch.float64) + 0.5
    weights = dict(zip(sorted(sees), numbers.tolist(), strict=True))
    relabelled = torch.randn(case.y.shape, generator=generator, dtype=torch.float64)
    rounds = theory.rounds_needed(case.edges, case.loss_parents)
    scheme = LocalScheme(weights, max(rounds.values()))
    other = dataclasses.replace(case, y=relabelled)
    runs = zip(states(case, scheme), states(other, scheme), strict=True)
    early = [
        bool((a[i] != b[i]).any())
        for n, (a, b) in enumerate(runs)
        for i in case.hidden
        if n < rounds[i]
    ]
    return sum(early) / len(early)


@fp_no_faster_local_scheme.control
def sees_two_edges_far(draw: Draw) -> Measurement:
    """Vertices see their neighbours' neighbours too."""
    case = graded_network(draw, least_depth=3)
    near = _neighbours(case)
    far = {(i, k) for i, j in near for jj, k in near if j == jj}
    return exactly(_know_early(case, far, draw))


@claim(instances="random graphs, random steps", quantity="relative error")
def fp_stability(draw: Draw) -> Measurement:
    """Beyond unit step errors grow by η/(2 - η) an edge at most; up to it they shrink.

    1 < η < 2: ‖ε - δ‖ ≤ Σ(η/(2 - η))ʲ⁻¹‖δ⁽ʲ⁾‖ at every state, and the peak over n is of
    that size. 0 < η ≤ 1: never growing on levelled graphs. Any real η: |1 - η|ⁿ next to
    the loss, so that no η outside (0, 2) converges.
    """
    case, beyond = random_network(draw), draw.uniform(1.0, 1.9)
    levelled, up_to_one = graded_network(draw), draw.uniform(0.05, 1.0)
    return worst(
        *_transient(case, beyond, 12, theory.transient_bound),
        _never_grows(levelled, up_to_one, 12),
        _next_to_the_loss(case, draw.uniform(-1.0, 3.0), 6),
        *_peak(draw.uniform(1.01, 1.9), draw.integer(1, 12)),
    )


def _transient(
    case: Instance, eta: float, n: int, bound: Callable[[float, int], float]
) -> list[Measurement]:
    """‖ε(t) - δ‖ against Σⱼ bound(η, j)·‖δ⁽ʲ⁾‖, from the first step on."""
    lin = case.linear
    factors = [bound(eta, d) for d in range(1, case.depth + 1)]
    parts = [lin.named(row) for row in lin.parts]
    # Roundings grow as the transient does: by the same theorem, with |M| for M.
    room = sum(f * s.max() for f, s in zip(factors, lin.sizes, strict=True))
    promised = {
        i: math.fsum(f * norm(p[i]) for f, p in zip(factors, parts, strict=True))
        for i in case.hidden
    }
    found = _distances(case, states(case, FixedPrediction(eta, n)))
    return [
        Measurement(off[i] / case.size, (promised[i] + ROUNDING * room) / case.size)
        for off in found[1:]
        for i in case.hidden
    ]


def _never_grows(case: Instance, eta: float, n: int) -> Measurement:
    found = _distances(case, states(case, FixedPrediction(eta, n)))
    rise = max(
        after[i] - before[i]
        for before, after in itertools.pairwise(found)
        for i in case.hidden
    )
    return Measurement(max(rise, 0.0) / case.size, ROUNDING * case.linear.cancellation)


def _next_to_the_loss(case: Instance, eta: float, n: int) -> Measurement:
    """‖ε(n) - δ‖ = |1 - η|ⁿ‖δ‖ where all paths have one edge: the last vertex."""
    last = case.hidden[-1]
    found = _distances(case, states(case, Relaxation([eta] * n)))[-1][last]
    size = norm(case.delta[last])
    room = ROUNDING * case.linear.cancellation * growth([eta] * n) * case.size
    return Measurement(abs(found - abs(1 - eta) ** n * size) / size, room / size)


def _peak(eta: float, distance: int) -> list[Measurement]:
    """floor ≤ max over n of |1 - P[Bin(n, η) ≥ d]| ≤ bound, as relative excesses."""
    until = distance + math.ceil(2 * distance / (2 - eta))
    heights = [abs(theory.remaining(n, eta, distance)) for n in range(until + 1)]
    peak, bound = max(heights), theory.transient_bound(eta, distance)
    floor = theory.transient_floor(eta, distance)
    return [
        Measurement(max(peak / bound - 1, 0.0), ROUNDING),
        Measurement(max(floor / peak - 1, 0.0), ROUNDING),
    ]


@fp_stability.control
def growth_left_out(draw: Draw) -> Measurement:
    """The bound without its growth: Σ‖δ⁽ʲ⁾‖, as if steps beyond one were harmless."""
    wiring = chain(draw.integer(7, 8))
    case = furnished(draw, wiring, [*wiring][-1:])
    eta = draw.uniform(1.75, 1.85)
    return worst(*_transient(case, eta, 30, lambda eta, distance: 1.0))
