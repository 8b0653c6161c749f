"""Claims about other orders of update, and about what exactly must be frozen."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ... import theory
from ...rules import FixedPrediction
from ..draw import Draw
from ..instances import Instance
from ..measuring import (
    ROUNDING,
    all_states,
    cut_graph,
    differing,
    exactly,
    growth,
    largest,
    near,
    norm,
    random_errors,
    random_values,
    shares,
    states,
)
from ..networks import curved, random_network, tame
from ..registry import Measurement, claim, worst
from ..schemes import Asynchronous, PartlyFrozen, Sweeps
from ..vertices import Values


@claim(instances="random graphs, orders and starts", quantity="relative error")
def fp_asynchronous(draw: Draw) -> Measurement:
    """A vertex is exact from its first unit update after its children have settled.

    Random sets of vertices updated in random order from a random start, then once in
    reverse topological order; every settled vertex at every state against autograd.
    """
    case = random_network(draw)
    updates = _random_updates(case, draw) + [[i] for i in case.hidden[::-1]]
    found = states(case, Asynchronous(updates, random_errors(case, draw)))
    settled = _settled(case, updates)
    assert settled[-1] == set(case.hidden)  # the theorem's last sentence
    return _exact_where(case, found, settled)


def _random_updates(case: Instance, draw: Draw) -> list[list[str]]:
    return [
        [draw.choice(case.hidden) for _ in range(draw.integer(1, 2))]
        for _ in range(draw.integer(0, 2 * len(case.hidden)))
    ]


def _settled(case: Instance, updates: Sequence[Sequence[str]]) -> list[set[str]]:
    """Which vertices have settled at each state: updated when all children had."""
    settled: list[set[str]] = [set()]
    for chosen in updates:
        waiting = {
            j for c, above in case.edges.items() if c not in settled[-1] for j in above
        }
        settled.append(settled[-1] | (set(chosen) - waiting))
    return settled


def _exact_where(
    case: Instance, found: Sequence[Values], settled: Sequence[set[str]]
) -> Measurement:
    allowed = ROUNDING * case.linear.cancellation
    off = [
        norm(errors[i] - case.delta[i]) / case.size
        for errors, where in zip(found, settled, strict=True)
        for i in where
    ]
    return Measurement(max(off), allowed)


@fp_asynchronous.control
def parents_first(draw: Draw) -> Measurement:
    """One pass from the input to the loss, so that no parent waits for its child."""
    case = random_network(draw, least_depth=2)
    updates = [[i] for i in case.hidden]
    found = states(case, Asynchronous(updates, random_errors(case, draw)))
    return near(case, found[-1], case.delta)


@claim(instances="random graphs, random steps", quantity="relative error")
def fp_gauss_seidel(draw: Draw) -> Measurement:
    """Sweeps from the loss deliver I_η(j, n) of δ⁽ʲ⁾; one unit sweep is reverse mode.

    Every state of sweeps that use fresh children against the closed form, for steps in
    (0, 1) and for real ones; one sweep with η = 1 against autograd; sweeps from the
    input against the synchronous iteration, bit for bit.
    """
    case, eta, n = random_network(draw), draw.uniform(0.05, 1.0), draw.integer(1, 4)
    wrong_way = states(case, Sweeps(eta, n, from_loss=False))
    return worst(
        _sweeps(case, eta, n, theory.gauss_seidel_tail),
        _sweeps(case, draw.uniform(-0.5, 1.5), n, theory.gauss_seidel_tail),
        near(case, states(case, Sweeps(1.0, 1))[-1], case.delta),
        exactly(differing(wrong_way, states(case, FixedPrediction(eta, n)))),
    )


def _sweeps(
    case: Instance, eta: float, n: int, tail: Callable[[int, float, int], float]
) -> Measurement:
    distances = range(1, case.depth + 1)
    expected = [
        shares(case, [tail(t, eta, d) for d in distances]) for t in range(n + 1)
    ]
    # Terms on both sides, signs apart: tosses whose weights |η| and |1 - η| may add up
    # to more than one, n + d - 1 of them at most.
    room = growth([eta] * (n + case.depth - 1))
    found = states(case, Sweeps(eta, n))
    return worst(
        *(near(case, a, b, room) for a, b in zip(found, expected, strict=True))
    )


@fp_gauss_seidel.control
def stale_children(draw: Draw) -> Measurement:
    """The closed form of the synchronous iteration for sweeps with fresh children."""
    case = random_network(draw, least_depth=2)
    return _sweeps(case, draw.uniform(0.2, 0.8), 3, theory.binomial_tail)


@claim(instances="random graphs and metrics", quantity="relative error")
def fp_is_not_descent(draw: Draw) -> Measurement:
    """In every metric half of the feedback's square is rotation, so nothing descends.

    ‖S - Sᵀ‖ = √2·‖S‖ for S = G^½MG^-½ and a random metric G, where M is read off the
    dynamics itself; a gradient flow in the metric G would have S = Sᵀ.
    """
    case = random_network(draw, least_depth=2)
    size = len(case.linear.g)
    noise = torch.randn(size, size, generator=draw.generator(), dtype=torch.float64)
    return _rotation(_feedback(case), noise.numpy(), draw.uniform(0.1, 1.0))


def _feedback(case: Instance) -> theory.Array:
    """M, column by column: what a step from each unit error changes."""
    lin = case.linear
    graph = cut_graph(case)
    still = lin.stacked(graph.pull(graph.zeros()))
    columns = [
        lin.stacked(graph.pull(lin.named(unit))) - still for unit in np.eye(len(lin.g))
    ]
    return np.array(columns).T


def _rotation(
    feedback: theory.Array, noise: theory.Array, spread: float
) -> Measurement:
    """How far ‖S - Sᵀ‖/(√2·‖S‖) is from 1, in the metric R², R = I + spread·NNᵀ/N."""
    root = np.eye(len(noise)) + spread * noise @ noise.T / len(noise)
    S = root @ feedback @ np.linalg.inv(root)
    error = abs(norm(S - S.T) / (2**0.5 * norm(S)) - 1)
    # Forming S loses digits to the metric's condition, once on each side.
    return Measurement(error, ROUNDING * np.linalg.cond(root) ** 2)


@fp_is_not_descent.control
def the_strict_rule(draw: Draw) -> Measurement:
    """The energy's own Hessian (I - M)(I - M)ᵀ in place of I - M: this one descends."""
    case = random_network(draw, least_depth=2)
    M = _feedback(case)
    flow = np.eye(len(M)) - (np.eye(len(M)) - M) @ (np.eye(len(M)) - M).T
    return _rotation(flow, np.zeros_like(M), 0.0)


@claim(instances="random graphs", quantity="relative error")
def what_must_be_frozen(draw: Draw) -> Measurement:
    """Freeze Jacobians and loss gradient: there is one fixed point, and there ε = δ.

    Predictions live or frozen: the dynamics started at the values that the theorem
    names stay there with ε = δ; from random values each step is η(I - M)(ε - δ), so
    that it is zero nowhere else.
    """
    # With live predictions the fixed point may lie far away.
    case, eta = tame(random_network(draw)), draw.uniform(0.05, 1.0)
    elsewhere = random_values(case, draw)
    return worst(
        *(_stays(case, eta, frozen) for frozen in (True, False)),
        *(_steps_towards(case, eta, frozen, elsewhere) for frozen in (True, False)),
    )


def _stays(case: Instance, eta: float, predictions: bool, **live: bool) -> Measurement:
    """ε against δ at the fixed point, and again after one step."""
    start = _fixed_point(case, predictions)
    rule = PartlyFrozen(predictions, eta=eta, steps=1, start=start, **live)
    # ε is a difference of values, which may be larger, and then a step amplifies it.
    slopes = 1 + norm(case.linear.M), 1 + norm(case.linearise(start).M)
    larger = largest(start) / case.size
    room = (1 + larger) * slopes[0] * slopes[1]
    return worst(*(near(case, e, case.delta, room) for e in states(case, rule)))


def _fixed_point(case: Instance, predictions: bool) -> Values:
    """v̂ - δ, or with live predictions the feed-forward pass with shifts b = -δ."""
    if predictions:
        return {i: v - case.delta[i] for i, v in case.feedforward.items()}
    shifts = {i: -d for i, d in case.delta.items()}
    with torch.no_grad():
        values = case.network(case.x, shifts)
    return {i: values[i] for i in case.hidden}


def _steps_towards(
    case: Instance, eta: float, predictions: bool, start: Values
) -> Measurement:
    """v(t + 1) - v(t) against η(I - M)(ε(t) - δ)."""
    rule, lin = PartlyFrozen(predictions, eta=eta, steps=2, start=start), case.linear
    delta, measured = lin.stacked(case.delta), []
    for before, after in itertools.pairwise(all_states(case, rule)):
        step = lin.stacked(after.values) - lin.stacked(before.values)
        errors = lin.stacked(before.errors)
        expected = eta * (errors - delta - lin.M @ (errors - delta))
        terms = np.abs(errors) + np.abs(lin.M) @ np.abs(errors) + lin.sizes.sum(0)
        size = np.abs(lin.stacked(before.values)).max() + terms.max()
        off = float(np.abs(step - expected).max() / size)
        measured.append(Measurement(off, ROUNDING))
    return worst(*measured)


@what_must_be_frozen.control
def live_loss_gradient(draw: Draw) -> Measurement:
    """The loss gradient is taken at the moving values."""
    case = curved(random_network(draw))
    return _stays(case, draw.uniform(0.2, 1.0), True, loss_gradient=False)


@what_must_be_frozen.control
def live_jacobians(draw: Draw) -> Measurement:
    """The Jacobians are taken at the moving values."""
    case = curved(random_network(draw, least_depth=2))
    return _stays(case, draw.uniform(0.2, 1.0), True, jacobians=False)
