"""Claims about fixed prediction: what arrives where, when, and how much of it.

One function per theorem, named after its label. A measurement that a control repeats
with something changed takes that something as an argument.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ... import theory
from ...rules import FixedPrediction
from ..draw import Draw
from ..instances import Instance
from ..measuring import (
    ROUNDING,
    all_near,
    differing,
    exactly,
    gradients,
    growth,
    near,
    near_gradients,
    norm,
    random_errors,
    shares,
    states,
)
from ..networks import any_network, chain, furnished, graded_network, random_network
from ..registry import Measurement, claim, worst
from ..schemes import Relaxation
from ..vertices import LOSSES, Values

# ---- closed forms --------------------------------------------------------------------


@claim(instances="random graphs, random real steps", quantity="relative error")
def fp_varying_steps(draw: Draw) -> Measurement:
    """After any real steps a vertex holds Poisson-binomial shares of δ⁽¹⁾, …, δ⁽ᴷ⁾.

    Every state against the closed form, for positive steps and for steps of any sign,
    the parameter gradient, and the last state after the steps in reversed order.
    """
    case, n = random_network(draw), draw.integer(1, 8)
    positive = [draw.uniform(0.05, 1.9) for _ in range(n)]
    signed = [draw.uniform(-0.5, 2.5) for _ in range(n)]
    rule, room = FixedPrediction(positive), growth(positive)
    expected = shares(case, _tails(positive, case.depth))
    backwards = states(case, FixedPrediction(positive[::-1]))[-1]
    return worst(
        _every_state(case, rule, positive),
        _every_state(case, Relaxation(signed), signed),
        near_gradients(
            case, gradients(case, rule), case.gradients_from(expected), room
        ),
        near(case, backwards, expected, room),
    )


def _tails(steps: Sequence[float], depth: int) -> list[float]:
    return [theory.arrived(steps, d) for d in range(1, depth + 1)]


def _every_state(
    case: Instance, rule: FixedPrediction | Relaxation, steps: Sequence[float]
) -> Measurement:
    """States 0..n of the rule against the closed form after the first t steps."""
    found = states(case, rule)
    done = [steps[:t] for t in range(len(steps) + 1)]
    if len(found) != len(done):
        return Measurement(math.nan, ROUNDING)
    return worst(
        *(
            near(case, errors, shares(case, _tails(some, case.depth)), growth(some))
            for errors, some in zip(found, done, strict=True)
        )
    )


@fp_varying_steps.control
def only_the_mean_step(draw: Draw) -> Measurement:
    """The closed form with every step replaced by their mean."""
    case, n = random_network(draw), draw.integer(1, 4)
    steps = [draw.uniform(0.1, 0.4) for _ in range(n)]
    steps += [draw.uniform(0.6, 0.9) for _ in range(n)]
    mean = [math.fsum(steps) / len(steps)] * len(steps)
    found = states(case, FixedPrediction(steps))[-1]
    return near(case, found, shares(case, _tails(mean, case.depth)))


@claim(instances="random graphs, random steps", quantity="relative error")
def fp_closed_form(draw: Draw) -> Measurement:
    """With one step size the shares are binomial tails, at every vertex and state.

    Also: tails equal incomplete beta functions; a vertex whose paths are equally long
    holds a share in (0, 1] of δ itself, so its direction is right; the rule is linear
    in the loss; the parameter gradient.
    """
    case = any_network(draw)
    eta, n = draw.uniform(0.05, 1.0), draw.integer(1, 10)
    rule = FixedPrediction(eta, n)
    found = states(case, rule)
    expected = [shares(case, _binomial(t, eta, case.depth)) for t in range(n + 1)]
    return worst(
        all_near(case, found, expected),
        *_graded_shares(case, found, eta),
        *(_as_incomplete_beta(n, eta, d) for d in range(1, n + 1)),
        near_gradients(case, gradients(case, rule), case.gradients_from(expected[-1])),
        _linear_in_the_loss(case, rule, draw),
    )


def _binomial(n: int, eta: float, depth: int) -> list[float]:
    return [theory.binomial_tail(n, eta, d) for d in range(1, depth + 1)]


def _graded_shares(
    case: Instance, found: Sequence[Values], eta: float, lost: int = 0
) -> list[Measurement]:
    """Vertices at one distance d from the loss against tail_d·δ, δ from autograd.

    lost: steps that the closed form does not count.
    """
    (d_min, d_max), delta = case.distances, case.delta
    measured = []
    for i in (i for i in case.hidden if d_min[i] == d_max[i]):
        for t, errors in enumerate(found):
            tail = theory.binomial_tail(max(t - lost, 0), eta, d_max[i])
            inside = 0 < tail <= 1 + ROUNDING or t - lost < d_max[i]
            off = norm(errors[i] - tail * delta[i]) / case.size
            error = off if inside else math.nan
            measured.append(Measurement(error, ROUNDING * case.linear.cancellation))
    return measured


def _as_incomplete_beta(n: int, eta: float, d: int) -> Measurement:
    tail = theory.binomial_tail(n, eta, d)
    return Measurement(abs(tail - theory.incomplete_beta(d, n - d + 1, eta)), ROUNDING)


def _linear_in_the_loss(
    case: Instance, rule: FixedPrediction, draw: Draw
) -> Measurement:
    """ε of ℓ₁ + c·ℓ₂ is ε of ℓ₁ plus c times ε of ℓ₂."""
    factor, second = draw.uniform(-3.0, 3.0), LOSSES[draw.choice(list(LOSSES))]

    def both(first: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda out, y: first(out, y) + factor * second(out, y)

    firsts = case.outputs
    other = dataclasses.replace(case, outputs=dict.fromkeys(firsts, second), direct=())
    mixed = dataclasses.replace(case, outputs={o: both(f) for o, f in firsts.items()})
    one, two, sum_ = (states(c, rule)[-1] for c in (case, other, mixed))
    sizes = [c.linear.sizes.sum(0).max() for c in (case, other, mixed)]
    room = math.fsum(sizes) * (1 + abs(factor))
    off = max(norm(sum_[i] - one[i] - factor * two[i]) for i in case.hidden)
    return Measurement(off / room, ROUNDING)


@fp_closed_form.control
def one_step_not_counted(draw: Draw) -> Measurement:
    """The tail of n - 1 steps in place of n."""
    case = graded_network(draw)
    eta, n = draw.uniform(0.2, 0.8), draw.integer(case.depth, case.depth + 4)
    found = states(case, FixedPrediction(eta, n))
    return worst(*_graded_shares(case, found, eta, lost=1))


@fp_closed_form.control
def paths_of_two_lengths(draw: Draw) -> Measurement:
    """The direction of a vertex whose paths to the loss are not equally long."""
    case = random_network(draw, least_depth=2, skip=True, least_width=2)
    rule = FixedPrediction(draw.uniform(0.2, 0.8), case.depth)
    error, delta = states(case, rule)[-1]["v1"], case.delta["v1"]
    along = (error * delta).sum() / delta.square().sum() * delta
    return Measurement(norm(error - along) / norm(error), ROUNDING)


# ---- time of arrival -----------------------------------------------------------------


@claim(instances="random levelled graphs, random steps", quantity="distance of laws")
def fp_arrival_time(draw: Draw) -> Measurement:
    """For small steps δ arrives like the d-th event of a Poisson process in time ηn.

    Every state against the Erlang law, within ητ/2, τ = ηn; and mean
    d/η and variance d(1 - η)/η² of the number of steps until δ has arrived.
    """
    case, eta, n = graded_network(draw), draw.uniform(0.01, 0.5), draw.integer(1, 20)
    return worst(
        *_against_erlang(case, eta, n, lambda t: eta * t),
        *_moments(case, draw.uniform(0.8, 1.0), steps=25),
    )


def _against_erlang(
    case: Instance, eta: float, n: int, time: Callable[[int], float]
) -> list[Measurement]:
    (_, d), delta, size = case.distances, case.delta, case.size
    rounding = ROUNDING * case.linear.cancellation
    return [
        Measurement(
            norm(errors[i] - theory.erlang_tail(d[i], time(t)) * delta[i]) / size,
            theory.arrival_bound(eta, eta * t) * norm(delta[i]) / size + rounding,
        )
        for t, errors in enumerate(states(case, FixedPrediction(eta, n)))
        for i in case.hidden
        if t > 0
    ]


def _moments(case: Instance, eta: float, steps: int) -> list[Measurement]:
    """E[T] = Σ P[T > t] and E[T²] = Σ (2t + 1)P[T > t]; 0.2²⁵ is left out."""
    (_, d), delta = case.distances, case.delta
    found, measured = states(case, FixedPrediction(eta, steps)), []
    t = np.arange(steps + 1)
    # Each of the numbers that are summed may be off by this much of the largest δ.
    allowed = ROUNDING * case.linear.cancellation * float((2 * t + 1).sum())
    for i in case.hidden:
        square = float(delta[i].square().sum())
        late = 1 - np.array([float((e[i] * delta[i]).sum()) / square for e in found])
        mean, second = late.sum(), ((2 * t + 1) * late).sum()
        expected, deviation = theory.arrival_moments(eta, d[i])
        off = max(abs(mean - expected), abs(second - mean**2 - deviation**2))
        measured.append(Measurement(off * norm(delta[i]) / case.size, allowed))
    return measured


@fp_arrival_time.control
def step_size_forgotten(draw: Draw) -> Measurement:
    """Time counted in steps, τ = n, in place of τ = ηn."""
    case, eta, n = graded_network(draw), draw.uniform(0.02, 0.05), draw.integer(5, 20)
    return worst(*_against_erlang(case, eta, n, float))


@claim(instances="random graphs", quantity="relative error")
def fp_finite_termination(draw: Draw) -> Measurement:
    """With unit steps every vertex is exact from step d_max on, and zero before d_min.

    State n holds the paths of up to n edges; parameter gradients equal autograd's, by
    default and after K unit steps in any places among others; from any start a vertex
    is exact once d_max of the steps were unit steps.
    """
    case = random_network(draw)
    depth, start = case.depth, random_errors(case, draw)
    found = states(case, FixedPrediction(1.0, depth + 1))
    others = [draw.uniform(0.1, 1.5) for _ in range(draw.integer(0, 3))]
    mixed = list(others)
    for _ in range(depth):
        mixed.insert(draw.integer(0, len(mixed)), 1.0)
    truth, room = case.parameter_gradients(), growth(others)
    sums = [shares(case, [j < n for j in range(depth)]) for n in range(depth + 2)]
    units = [mixed[:t].count(1.0) for t in range(len(mixed) + 1)]
    started = states(case, Relaxation(mixed, start))
    return worst(
        all_near(case, found, sums),
        exactly(differing(states(case, FixedPrediction()), found[:-1])),
        exactly(_arrived_early(case, found)),
        *_settled(case, found, range(depth + 2)),
        *_settled(case, started, units, room * _larger(case, start)),
        near(case, states(case, FixedPrediction(mixed))[-1], case.delta, room),
        near_gradients(case, gradients(case, FixedPrediction()), truth),
        near_gradients(case, gradients(case, FixedPrediction(mixed)), truth, room),
    )


def _arrived_early(case: Instance, found: Sequence[Values]) -> float:
    """How many numbers are not exactly zero before step d_min."""
    d_min, _ = case.distances
    early = [e[i] for t, e in enumerate(found) for i in case.hidden if t < d_min[i]]
    return float(sum(int((e != 0).sum()) for e in early))


def _settled(
    case: Instance, found: Sequence[Values], units: Sequence[int], room: float = 1.0
) -> list[Measurement]:
    """Each vertex against autograd's δ from d_max unit steps on.

    units: how many unit steps were done at each state.
    """
    (_, d_max), allowed = case.distances, ROUNDING * case.linear.cancellation * room
    return [
        Measurement(norm(e[i] - case.delta[i]) / case.size, allowed)
        for e, done in zip(found, units, strict=True)
        for i in case.hidden
        if done >= d_max[i]
    ]


def _larger(case: Instance, start: Values) -> float:
    """How much larger than δ the terms may be when errors start here."""
    carried = np.abs(case.linear.stacked(start))
    inverse = np.linalg.inv(np.eye(len(carried)) - np.abs(case.linear.M))
    return 1.0 + float((inverse @ carried).max() / case.size)


@fp_finite_termination.control
def one_step_fewer(draw: Draw) -> Measurement:
    """K - 1 unit steps."""
    case = random_network(draw)
    found = states(case, FixedPrediction(1.0, case.depth))[:-1]
    return worst(*_settled(case, found, units=range(1, case.depth + 1)))


@fp_finite_termination.control
def one_unit_step_fewer(draw: Draw) -> Measurement:
    """K - 1 unit steps among others that are not."""
    case = random_network(draw)
    steps = [1.0] * (case.depth - 1)
    for _ in range(draw.integer(1, 2)):
        steps.insert(draw.integer(0, len(steps)), draw.uniform(0.2, 0.8))
    found = states(case, FixedPrediction(steps))[-1]
    return near(case, found, case.delta)


@fp_finite_termination.control
def dead_end_kept(draw: Draw) -> Measurement:
    """A dead end is not pruned (the loss looks at it, times zero); any start."""
    case = furnished(draw, chain(3), ["v3", "v2"])
    # Without v3, which is a dead end in truth, v2 would be exact after one step.
    case.network.get_parameter("out1.weights").data[0] = 0.0
    found = states(case, Relaxation([1.0], random_errors(case, draw)))[-1]
    return Measurement(norm(found["v2"] - case.delta["v2"]) / case.size, ROUNDING)
