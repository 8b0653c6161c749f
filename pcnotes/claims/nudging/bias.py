"""Claims about the bias of a finite nudge: what it is, and two ways to be rid of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ... import theory
from ...theory import Array
from ..draw import Draw
from ..equilibria import Equilibrium, Landscape, branch, named, shifted, values
from ..instances import Instance
from ..measuring import ROUNDING, norm, stacked
from ..networks import random_network, with_loss
from ..registry import Measurement, claim, worst
from .nudges import (
    Gradients,
    apart,
    law,
    lesson,
    lesson_room,
    nudge,
    room_for,
    steep,
    with_hundredths,
)

# ---- the bias ------------------------------------------------------------------------


@claim(instances="random graphs, small β", quantity="what is left over")
def finite_nudge_bias(draw: Draw) -> Measurement:
    """To first order predictive coding descends ℓ - (β/2)‖δ‖², in value and gradient.

    ∇E/β at v* against ∇ℓ - (β/2)∇‖δ‖², the latter by double backpropagation: the rest
    falls with β². The value, with the next term (β²/2)δᵀℋδ, falls with β³.
    """
    case = random_network(draw)
    landscape = shifted(case)
    beta = nudge(draw, landscape, 0.005, 0.01)
    return worst(
        _biased(case, landscape, beta, 0.5), _value_to_second_order(landscape, draw)
    )


def _biased(
    case: Instance, landscape: Landscape, beta: float, share: float
) -> Measurement:
    """share: the coefficient of β∇‖δ‖² that is taken off."""
    exact, penalty = case.parameter_gradients(), _penalty_gradient(case)

    def left(found: Equilibrium) -> float:
        taken = share * found.beta
        expected = {p: g - taken * penalty[p] for p, g in exact.items()}
        return apart(lesson(case, found), expected)

    [family] = with_hundredths(landscape, beta)
    *large, small = map(left, family)
    # Five digits in hand: the law is read at 10⁻⁸ of the gradient.
    room = lesson_room(case, exact, room_for(case, family[-1]))
    return law(large, small, 1e-4, room)


def _penalty_gradient(case: Instance) -> Gradients:
    """∇‖δ‖² in the parameters, zero where it does not depend on them."""
    shifts = {i: torch.zeros_like(case.x, requires_grad=True) for i in case.hidden}
    loss = case.loss_of(case.network(case.x, shifts))
    delta = torch.autograd.grad(loss, list(shifts.values()), create_graph=True)
    square = torch.stack(delta).square().sum()
    found = case.gradients_of(square) if square.requires_grad else {}
    parameters = case.network.named_parameters()
    return {p: found.get(p, torch.zeros_like(v)) for p, v in parameters}


def _value_to_second_order(landscape: Landscape, draw: Draw) -> Measurement:
    """At a tenth of β the rest of the value is a thousandth, and a little more."""
    delta, curvature = landscape.start
    beta = nudge(draw, landscape, 0.003, 0.006)
    start = landscape.at(0 * delta)
    slope, bend = float(delta @ delta), float(delta @ curvature @ delta)
    *large, small = (
        abs(at.value - start + at.beta / 2 * slope - at.beta**2 / 2 * bend)
        for at in branch(landscape, [beta, 2 * beta, beta / 10])
    )
    return law(large, small, 1e-3, ROUNDING * (1 + abs(start)) * 1e-2, spare=3.0)


@finite_nudge_bias.control
def a_knee_at_the_feedforward_pass(draw: Draw) -> Measurement:
    """(a/2)(v̂ - v)₊² in the loss: (S3) fails at v̂, where the second derivative jumps.

    Neither δ nor autograd's Hessian there knows of it; the values, which all move
    downwards, do at once: what is left is of first order.
    """
    case = steep(draw)
    a = shifted(case).steepness
    for i, corner in case.feedforward.items():
        case = with_loss(case, i, _knee(corner, a))
    landscape = shifted(case)
    return _biased(case, landscape, nudge(draw, landscape, 0.005, 0.01), 0.5)


def _knee(corner: Tensor, a: float) -> Callable[[Tensor], Tensor]:
    return lambda v: a / 2 * (corner - v).relu().square().sum()


@finite_nudge_bias.control
def the_bias_forgotten(draw: Draw) -> Measurement:
    """Backpropagation's gradient itself: what is left falls with β only."""
    case = steep(draw)
    landscape = shifted(case)
    return _biased(case, landscape, nudge(draw, landscape, 0.005, 0.01), 0.0)


# ---- opposite nudges -----------------------------------------------------------------


@claim(instances="random graphs, small β", quantity="what is left over")
def centred_nudge(draw: Draw) -> Measurement:
    """The mean of the nudges β and -β is backpropagation up to second order.

    Errors and parameter gradients at β and -β, averaged; the rest falls with β².
    """
    case = random_network(draw)
    landscape = shifted(case)
    return _centred(case, landscape, nudge(draw, landscape, 0.005, 0.01), -1.0)


def _centred(
    case: Instance, landscape: Landscape, beta: float, sign: float
) -> Measurement:
    exact = case.parameter_gradients()
    pairs = list(zip(*with_hundredths(landscape, beta, sign * beta), strict=True))

    def taught(one: Equilibrium, two: Equilibrium) -> float:
        first, second = lesson(case, one), lesson(case, two)
        return apart({p: (first[p] + second[p]) / 2 for p in exact}, exact)

    *errors, errors2 = (
        norm((one.scaled + two.scaled) / 2 - landscape.delta) for one, two in pairs
    )
    *gradients, gradients2 = (taught(one, two) for one, two in pairs)
    room = sum(room_for(case, at) for at in pairs[-1]) / 2
    return worst(
        law(errors, errors2, 1e-4, room),
        law(gradients, gradients2, 1e-4, lesson_room(case, exact, room)),
    )


@centred_nudge.control
def one_sided(draw: Draw) -> Measurement:
    """Both nudges on the same side."""
    case = steep(draw)
    landscape = shifted(case)
    return _centred(case, landscape, nudge(draw, landscape, 0.005, 0.01), 1.0)


# ---- multipliers ---------------------------------------------------------------------


@claim(instances="random graphs, fixed β", quantity="relative error")
def multiplier_iteration(draw: Draw) -> Measurement:
    """With λ ← λ + ε/β kept from round to round, λ goes to δ at fixed β, linearly.

    Each round: (I + βℋ̄)(λ′ - δ) = βℋ̄(λ - δ), the mean curvature by quadrature; the
    distance shrinks by max(βΛ/(1 + βΛ), βν/(1 - βν)) at least; the force of the
    augmented Lagrangian on the values, by autograd, is zero; the first λ is ε*/β.
    """
    case = random_network(draw)
    beta = nudge(draw, shifted(case), 0.05, 0.3)
    return _rounds(case, beta, draw.integer(2, 3))


def _rounds(case: Instance, beta: float, count: int, kept: bool = True) -> Measurement:
    landscape, measured = shifted(case), []
    delta, zero = landscape.delta, 0 * landscape.delta
    scaled, distance = zero, norm(delta)
    [first] = branch(landscape, [beta])
    for k in range(count):
        start = delta - scaled, landscape.start[1]
        [tilted] = branch(_tilted(landscape, scaled), [beta], start)
        found = dataclasses.replace(tilted, landscape=landscape)
        after = (scaled if kept else zero) + found.scaled
        room = room_for(case, found)
        if k == 0:
            measured.append(Measurement(norm(after - first.scaled), room))
        mean, coarse = found.mean_curvature(6, 4)
        missing, was = after - delta, scaled - delta
        off = norm(missing + beta * mean @ (missing - was))
        room += beta * norm(mean - coarse) * norm(missing - was)
        eigenvalues = np.linalg.eigvalsh(mean)
        up, down = max(eigenvalues[-1], 0.0), max(-eigenvalues[0], 0.0)
        rate = theory.nudge_bound(beta, up, down)
        room *= 1 + beta * norm(mean)
        measured.append(Measurement(off, room))
        # Roundings of earlier rounds shrink with the distance itself.
        measured.append(Measurement(norm(missing), rate * distance + 2 * room))
        measured.append(_no_force(case, scaled, found, room))
        scaled, distance = after, norm(missing)
    return worst(*measured)


def _tilted(landscape: Landscape, scaled: Array) -> Landscape:
    """ℓ̄(b) - λᵀb: the augmented Lagrangian without its square."""
    tilt = torch.from_numpy(scaled.copy())
    return Landscape(lambda b: landscape.loss(b) - (b @ tilt).sum(), landscape.size)


def _no_force(
    case: Instance, scaled: Array, found: Equilibrium, room: float
) -> Measurement:
    leaves = {i: v.requires_grad_() for i, v in values(case, found.shift).items()}
    squares = stacked(case.errors(leaves)).square().sum()
    total = case.lagrangian(leaves, named(case, scaled)) + squares / (2 * found.beta)
    force = torch.autograd.grad(total, list(leaves.values()))
    lost = ROUNDING * (1 + norm(stacked(leaves).detach())) / found.beta
    slope = 1 + norm(case.linearise(leaves).M)
    return Measurement(norm(torch.stack(force)), (room + lost) * slope)


@multiplier_iteration.control
def multipliers_forgotten(draw: Draw) -> Measurement:
    """Each round starts from λ = 0 again: the penalty alone."""
    case = steep(draw)
    return _rounds(case, nudge(draw, shifted(case), 0.1, 0.3), 3, kept=False)
