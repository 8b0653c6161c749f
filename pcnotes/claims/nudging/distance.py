"""Claims about the distance from backpropagation: the identity, and the limit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ... import theory
from ...theory import Array
from ..draw import Draw
from ..equilibria import Equilibrium, Landscape, branch, equilibrium, shifted, values
from ..instances import Instance
from ..measuring import ROUNDING, largest, norm
from ..networks import random_network, with_loss
from ..registry import Measurement, claim, worst
from .nudges import bent, bounded_below, kink, law, nudge, room_for
from .rest import of_either_sign, relaxed

# ---- the identity behind the bounds --------------------------------------------------


@claim(instances="random graphs, β of both signs", quantity="relative error")
def nudge_identity(draw: Draw) -> Measurement:
    """(I + βℋ̄)ε*/β = δ with the curvature averaged from 0 to b*, at any equilibrium.

    ℋ̄ by Gauss-Legendre quadrature of autograd's Hessians; and what follows for β > 0:
    the relative error is at most max(βΛ/(1 + βΛ), βν/(1 - βν)), and ε*/β keeps a
    positive part along δ.
    """
    case = bounded_below(draw)
    return _identity(case, of_either_sign(case, draw, 1.5))


def _identity(case: Instance, found: Equilibrium) -> Measurement:
    fine, coarse = found.mean_curvature(10, 6)
    beta, scaled = found.beta, found.scaled
    delta = found.landscape.delta
    off = norm(scaled + beta * fine @ scaled - delta)
    # The finer rule is closer to the integral than to the coarser one.
    quadrature = abs(beta) * norm(fine - coarse) * norm(scaled)
    room = quadrature + room_for(case, found) * (1 + abs(beta) * norm(fine))
    eigenvalues = np.linalg.eigvalsh(fine)
    up, down = max(eigenvalues[-1], 0.0), max(-eigenvalues[0], 0.0)
    followed = []
    if beta > 0 and beta * down < 0.9:
        share = theory.nudge_bound(beta, up, down)
        excess = norm(scaled - delta) - share * norm(delta)
        followed.append(Measurement(max(excess, 0.0), 10 * room))
        along = (1 - beta * down) * norm(scaled) ** 2 - float(scaled @ delta)
        followed.append(Measurement(max(along, 0.0), room * norm(scaled)))
    return worst(Measurement(off / norm(delta), room / norm(delta)), *followed)


@nudge_identity.control
def a_kink_on_the_way(draw: Draw) -> Measurement:
    """-κ|v - c| in the loss, c between v̂ and v*: a slope that no curvature contains.

    At the first vertex, whose prediction does not move. Beyond c the kink is a linear
    term, which pushes outwards; so v* is the equilibrium with that term, found first.
    """
    case, sign = bent(draw), draw.choice([1.0, -1.0])
    landscape, first = shifted(case), case.hidden[0]
    beta = nudge(draw, landscape, 0.1, 0.3)
    kappa = 3 * norm(landscape.delta)
    pushed = with_loss(case, first, lambda v: -sign * kappa * v.sum())
    scaled = equilibrium(shifted(pushed), beta).scaled
    start = case.feedforward[first]
    corner = (start + values(case, -beta * scaled)[first]) / 2
    kinked = with_loss(case, first, kink(corner, -kappa))
    if not bool((sign * (corner - start) > 0).all()):
        return Measurement(0.0, ROUNDING)
    return _identity(kinked, Equilibrium(shifted(kinked), beta, scaled, residual=0.0))


# ---- the limit -----------------------------------------------------------------------


@claim(instances="random graphs, small β", quantity="distance to δ")
def nudge_limit(draw: Draw) -> Measurement:
    """Near the feed-forward pass there is one equilibrium, and ε*/β - δ is first order.

    b ← -β∇ℓ̄(b), for β > 0 as the package's error optimisation, finds it; the bound
    |β|Λ/(1 - |β|Λ) holds with Λ = ‖ℋ̄‖, the smallest that the theorem could mean;
    subtract the first-order terms, with ℋ(0) from the Hessian of ℓ + δᵀf in the values,
    and what is left is of second order.
    """
    case = random_network(draw)
    landscape, sign = shifted(case), draw.choice([1, -1])
    beta = sign * nudge(draw, landscape, 0.02, 0.2)
    small = sign * nudge(draw, landscape, 0.005, 0.01)
    found, *family = branch(landscape, [beta, small, 2 * small, small / 100])
    return worst(_iterated(case, found), *_expansion(case, family))


def _iterated(case: Instance, found: Equilibrium) -> Measurement:
    landscape, beta = found.landscape, found.beta
    errors, room = _fixed_point(case, landscape, beta)
    room = room * found.stretch / abs(beta) + room_for(case, found)
    [mean] = found.mean_curvature(6)
    size = abs(beta) * float(np.linalg.norm(mean, 2))
    # Six nodes: the mean of ℋ is a mean of values of ℋ, whatever the quadrature error;
    # that is of order (βΛ)¹² here.
    promised = size / (1 - size) * norm(landscape.delta) * (1 + 1e-6)
    return worst(
        Measurement(norm(errors / beta - found.scaled), room),
        Measurement(norm(found.scaled - landscape.delta), promised + room),
    )


def _fixed_point(
    case: Instance, landscape: Landscape, beta: float
) -> tuple[Array, float]:
    """ε* by unit steps, and room: by the package, which wants β > 0, or by hand."""
    if beta > 0:
        errors, _, room = relaxed(case, landscape, beta, step=1.0)
        return errors, room
    errors = np.zeros(landscape.size)
    for _ in range(60):
        before, errors = errors, beta * landscape.adjoint(-errors)
        if norm(errors - before) <= 1e-14 * norm(errors):
            break
    carried = norm(landscape.curvature(-errors)) * (1 + largest(values(case, -errors)))
    terms = float(case.linear.sizes.sum(0).max()) + carried
    return errors, ROUNDING * (abs(beta) * terms + norm(errors))


def _expansion(case: Instance, family: Sequence[Equilibrium]) -> list[Measurement]:
    lin = case.linear
    inverse = np.linalg.inv(np.eye(len(lin.g)) - lin.M.T)
    first = inverse.T @ lagrangian_hessian(case) @ inverse @ lin.delta
    start = lin.stacked(case.feedforward)
    *errors, errors2 = (norm(at.scaled - lin.delta + at.beta * first) for at in family)
    *shift, shift2 = (
        norm(
            lin.stacked(values(case, at.shift)) - start + at.beta * inverse @ lin.delta
        )
        for at in family
    )
    rounding = ROUNDING * (1 + norm(start)) * norm(inverse)
    return [
        law(errors, errors2, 1e-4, room_for(case, family[-1])),
        law(shift, shift2, 1e-4, rounding),
    ]


def lagrangian_hessian(case: Instance) -> Array:
    """Q = ∇²ℓ + Σδ·∇²f at v̂, in the values."""
    return case.hessian(lambda v: case.lagrangian(v, case.delta), case.feedforward)


@nudge_limit.control
def a_critical_point_far_away(draw: Draw) -> Measurement:
    """One vertex with a constant prediction, ℓ = 1 + cos v³: far ones never leave."""
    mu, beta = draw.uniform(0.2, 0.9), 10.0 ** -draw.uniform(1.0, 3.0)
    landscape = Landscape(lambda b: (1 + torch.cos((mu + b) ** 3)).sum(), 1)
    # Where sin v³ first exceeds (v - μ)/(3βv²): near the next zero of v³ ↦ sin v³.
    v = 1.2 / (3 * beta) + mu
    v = (2 * math.pi * math.ceil(v**3 / (2 * math.pi))) ** (1 / 3)
    for _ in range(60):
        wanted = math.asin((v - mu) / (3 * beta * v**2))
        turns = round(v**3 / (2 * math.pi))
        v = (2 * math.pi * turns + wanted) ** (1 / 3)
    found = _critical(landscape, beta, np.array([v - mu]))
    delta, curvature = landscape.start
    size = min(beta * norm(curvature), 0.5)
    promised = size / (1 - size) * norm(delta)
    return Measurement(norm(found - delta), promised + ROUNDING)


def _critical(landscape: Landscape, beta: float, b: Array) -> Array:
    """λ = -b/β if b is a critical point indeed, within the roundings of v³."""
    slope = b + beta * landscape.adjoint(b)
    if norm(slope) > 1e-6 * norm(b):
        raise ArithmeticError("no critical point was found")
    return -b / beta
