"""Claims about what rest is: backpropagation of a shifted network, an implicit step."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from torch import Tensor

from ...rules import ErrorOptimisation, Strict
from ...theory import Array
from ..draw import Draw
from ..equilibria import (
    Equilibrium,
    Landscape,
    branch,
    equilibrium,
    named,
    shifted,
    values,
)
from ..instances import Instance
from ..measuring import (
    ROUNDING,
    all_states,
    cut_graph,
    largest,
    noise,
    norm,
    random_values,
    stacked,
)
from ..networks import with_loss
from ..registry import Measurement, claim, worst
from ..vertices import Values
from .nudges import (
    apart,
    bent,
    best_step,
    bounded_below,
    kink,
    lesson,
    lesson_room,
    nudge,
    room_for,
)

# ---- equilibrium is backpropagation --------------------------------------------------


@claim(instances="random graphs, β of both signs", quantity="relative error")
def equilibrium_is_shifted_bp(draw: Draw) -> Measurement:
    """At an equilibrium ε*/β is backpropagation's error of the network shifted by -ε*.

    The equilibrium is found in shifts; there ∇E in the values, by autograd on the
    energy, is zero; the package's adjoints at v* are ε*/β; and ∇E/β in the parameters
    is the gradient of the shifted network's loss. At other values the force on the
    values is (I - J)ᵀ times the difference.
    """
    case = bounded_below(draw)
    found = of_either_sign(case, draw, 2.0)
    return worst(
        _at_rest(case, found),
        _force_is_the_difference(case, found, random_values(case, draw)),
    )


def of_either_sign(case: Instance, draw: Draw, high: float) -> Equilibrium:
    """Where descent ends, or, at a small negative nudge, the branch."""
    landscape = shifted(case)
    if draw.choice([1, -1]) > 0:
        return equilibrium(landscape, draw.uniform(0.05, high))
    [found] = branch(landscape, [-nudge(draw, landscape, 0.05, 0.3)])
    return found


def _at_rest(case: Instance, found: Equilibrium) -> Measurement:
    beta, lin = found.beta, case.linear
    rest = values(case, found.shift)
    adjoints = cut_graph(case).evaluate(rest).adjoints()
    off = norm(lin.stacked(adjoints) - found.scaled)
    force = norm(stacked(case.slope(rest, beta)))
    size, room = norm(found.scaled), room_for(case, found)
    slope = 1 + norm(case.linearise(rest).M)
    # The energy forms ε from values, whose roundings are divided by β.
    lost = ROUNDING * (1 + norm(stacked(rest))) / abs(beta)
    theirs = case.gradients_of(
        case.loss_of(case.network(case.x, named(case, found.shift)))
    )
    ours = lesson(case, found)
    same = apart(ours, theirs) if ours.keys() == theirs.keys() else math.nan
    return worst(
        Measurement(off / size, room / size),
        Measurement(force / abs(beta), (room + lost) * slope),
        Measurement(same, lesson_room(case, theirs, room)),
    )


def _force_is_the_difference(
    case: Instance, found: Equilibrium, at: Values
) -> Measurement:
    lin, beta = case.linearise(at), found.beta
    errors = lin.stacked(case.errors(at))
    adjoint, curvature = found.landscape.both(-errors)
    expected = (lin.M - np.eye(len(errors))) @ (errors - beta * adjoint)
    off = norm(lin.stacked(case.slope(at, beta)) - expected)
    terms = norm(errors) + abs(beta) * float(lin.sizes.sum(0).max())
    carried = abs(beta) * norm(curvature) * norm(lin.stacked(at))
    return Measurement(off, ROUNDING * (terms + carried) * (1 + norm(lin.M)))


@equilibrium_is_shifted_bp.control
def kinks_where_it_rests(draw: Draw) -> Measurement:
    """κ|v - c| in the loss at every vertex: the energy is least at c, on all kinks.

    (S1) fails there. What holds a value is any number between the slopes on both sides,
    and autograd returns one of its own. Any state c will do: βκ is twice the largest
    slope there, so that E rises in every direction.
    """
    case, beta = bent(draw), draw.uniform(0.3, 1.0)
    landscape = shifted(case)
    held = landscape.delta + noise(draw, landscape.size).numpy()
    corners = values(case, -beta * held)
    kappa = 2 * largest(case.slope(corners, beta)) / beta
    for i, corner in corners.items():
        case = with_loss(case, i, kink(corner, kappa))
    return _at_rest(case, Equilibrium(shifted(case), beta, held, residual=0.0))


@equilibrium_is_shifted_bp.control
def not_at_rest(draw: Draw) -> Measurement:
    """A state that is no critical point: inference stopped after a few steps."""
    case, beta = bent(draw), draw.uniform(0.3, 1.0)
    rule = Strict(step_size=0.01, steps=draw.integer(2, 5), scale=beta)
    errors = case.linear.stacked(all_states(case, rule)[-1].errors)
    return _at_rest(case, Equilibrium(shifted(case), beta, errors / beta, residual=0.0))


# ---- the implicit step ---------------------------------------------------------------


@claim(instances="random graphs with additive biases", quantity="relative error")
def implicit_step(draw: Draw) -> Measurement:
    """One step on additive biases is an implicit gradient step, and a proximal one.

    Biases are zero at first. The package relaxes the errors; a⁺ = -ε* then satisfies
    a⁺ = -β∇ψ(a⁺) by autograd, the network with biases a⁺ predicts v*, its loss ψ falls
    by ‖a⁺‖²/2β at least, and no random point nearby has a smaller ψ(z) + ‖z‖²/2β.
    """
    case = bounded_below(draw)
    landscape = shifted(case)
    beta = nudge(draw, landscape, 0.05, 0.3)
    errors, at, room = relaxed(case, landscape, beta, best_step(landscape, beta))
    return worst(
        _implicit(landscape, beta, -errors, room),
        _predicts(case, -errors, at),
        _proximal(landscape, beta, -errors, draw),
    )


def relaxed(
    case: Instance, landscape: Landscape, beta: float, step: float
) -> tuple[Array, Values, float]:
    """(ε*, v*) by error optimisation, and how far it may be from being implicit.

    Unit steps contract by β‖ℋ‖ ≤ 0.3 at the start; 60 of them reach rounding. Stopped
    when ε is off by 10⁻¹³ of βδ, a tenth of what is allowed.
    """
    rule = ErrorOptimisation(step_size=step, steps=60, scale=beta, tolerance=1e-13)
    last = all_states(case, rule)[-1]
    errors = case.linear.stacked(last.errors)
    size = beta * float(case.linear.sizes.sum(0).max()) + norm(errors)
    carried = beta * norm(landscape.curvature(-errors)) * (1 + largest(last.values))
    return errors, last.values, ROUNDING * (size + carried)


def _implicit(landscape: Landscape, beta: float, c: Array, room: float) -> Measurement:
    off = norm(c + beta * landscape.adjoint(c))
    return Measurement(off / norm(c), room / norm(c))


def _predicts(case: Instance, c: Array, at: Values) -> Measurement:
    now, lin = values(case, c), case.linear
    slopes = (1 + norm(case.linearise(at).M)) ** len(case.hidden)
    off = norm(lin.stacked(now) - lin.stacked({i: at[i] for i in now}))
    return Measurement(off / largest(at), ROUNDING * slopes)


def _proximal(landscape: Landscape, beta: float, c: Array, draw: Draw) -> Measurement:
    def envelope(z: Array) -> float:
        return landscape.at(z) + float(z @ z) / (2 * beta)

    least, start = envelope(c), landscape.at(np.zeros(len(c)))
    generator = np.random.default_rng(draw.integer(0, 2**31))
    radius = math.sqrt(2 * beta * max(start, 0.0))
    others = generator.normal(size=(12, len(c)))
    others *= radius / np.linalg.norm(others, axis=1, keepdims=True)
    others *= generator.uniform(size=(12, 1))
    excess = max(least - envelope(z) for z in others)
    return Measurement(max(excess, least - start, 0.0), ROUNDING * (1 + start))


@implicit_step.control
def the_explicit_step(draw: Draw) -> Measurement:
    """Backpropagation's step -βδ in the place of a⁺."""
    case = bent(draw)
    landscape = shifted(case)
    beta = nudge(draw, landscape, 0.2, 0.3)
    *_, room = relaxed(case, landscape, beta, best_step(landscape, beta))
    return _implicit(landscape, beta, -beta * case.linear.delta, room)


@implicit_step.control
def one_bias_for_two_samples(draw: Draw) -> Measurement:
    """A bias shared by the samples of a batch: it moves by the sum of their errors."""
    case = bent(draw)
    x, y = noise(draw, 2, 2, case.x.shape[1])
    case = dataclasses.replace(case, x=x, y=y)
    whole, width, count = shifted(case), case.x.shape[1], len(case.hidden)

    def spread(c: Tensor) -> Tensor:
        rows = c.unflatten(-1, (count, 1, width))
        return rows.expand(*rows.shape[:-2], 2, width).flatten(-3)

    beta = nudge(draw, whole, 0.2, 0.3)
    errors, _, room = relaxed(case, whole, beta, best_step(whole, beta))
    shared = Landscape(lambda c: whole.loss(spread(c)), count * width)
    c = -errors.reshape(count, 2, width).sum(1).flatten()
    return _implicit(shared, beta, c, room)
