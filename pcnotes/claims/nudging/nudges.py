"""What the claims about nudging share: instances, small nudges, roundings, laws.

Equilibria come from `equilibria`, which relaxes nothing; what they are compared with
comes from autograd on the energy, on the uncut network, or from this package.

Laws for small β are measured at a nudge and at a hundredth of it: what is left over
must fall by the right power of a hundred. `nudge` makes the next term about a hundredth
of the leading one. Where the leading one happens to be small the two may cancel, but
not at β and at 2β alike, so the larger of these is what small nudges are held against.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ...theory import Array
from ..draw import Draw
from ..equilibria import Equilibrium, Landscape, equilibrium, named, values
from ..instances import Instance
from ..measuring import ROUNDING, largest, norm
from ..networks import chain, curved, furnished, random_network, squared
from ..registry import Measurement
from ..vertices import LOSSES

Gradients = dict[str, Tensor]

FACTOR = 100.0
SPARE = 1.5

# ---- instances -----------------------------------------------------------------------

_BOUNDED = ("squares", "mean squares", "cross entropy", "log cosh")


def bounded_below(draw: Draw) -> Instance:
    """A random network whose loss is nowhere negative, so that E has a minimum."""
    case = random_network(draw)
    outputs = {o: LOSSES[draw.choice(_BOUNDED)] for o in case.outputs}
    return dataclasses.replace(case, outputs=outputs)


def bent(draw: Draw) -> Instance:
    """Squares and tanh: ℋ is neither constant nor zero."""
    return squared(curved(random_network(draw, least_depth=2)))


def steep(draw: Draw) -> Instance:
    """Two tanh layers, one sample, weights and residual well away from zero."""
    case = curved(furnished(draw, chain(2), ["v2"]))
    generator = draw.generator()
    with torch.no_grad():
        for p in case.network.parameters():
            p.copy_((0.5 + torch.rand(p.shape, generator=generator) / 2) / p.shape[-1])
    x = case.x[:1] * 0 + 0.2
    return dataclasses.replace(case, x=x, y=x - 3.0)


# ---- how small, and how exact --------------------------------------------------------


def origin(landscape: Landscape) -> tuple[Array, Array, float]:
    """δ, ℋ(0), and 1/β of a nudge that is no longer small.

    Small means that shifts βδ stay below the size of values, which is one, that β‖ℋ‖
    is small, and so is what ℋ changes by along δ: all three have the unit of 1/β.
    """
    delta, curvature = landscape.both(np.zeros(landscape.size))
    first = max(norm(delta), float(np.linalg.norm(curvature, 2)))
    step = 0.1 / first
    change = np.linalg.norm(landscape.curvature(-step * delta) - curvature, 2) / step
    return delta, curvature, max(first, math.sqrt(float(change)))


def nudge(draw: Draw, landscape: Landscape, low: float, high: float) -> float:
    """β between these shares of the size at which a nudge is no longer small."""
    return draw.uniform(low, high) / origin(landscape)[2]


def room_for(case: Instance, found: Equilibrium) -> float:
    """What rounding may leave in λ: residual and roundings, stretched by (I + βℋ)⁻¹.

    Roundings are relative to the terms of the adjoint, and to the values, whose
    roundings ℋ carries into it.
    """
    at = values(case, found.shift)
    terms = float(case.linearise(at).sizes.sum(0).max())
    carried = norm(found.landscape.curvature(found.shift)) * (1 + largest(at))
    return (ROUNDING * (terms + carried) + found.residual) * found.stretch


def mean_curvature(found: Equilibrium, nodes: int) -> Array:
    """ℋ̄, from 0 to b*."""
    matrices, weights = found.along(nodes)
    mean: Array = np.tensordot(weights, matrices, axes=1)
    return mean


# ---- laws ----------------------------------------------------------------------------


def left_at(left: Callable[[float], Array], beta: float) -> Array:
    """What is left over at β, or at 2β where that is more."""
    return np.maximum(left(beta), left(2 * beta))


def falls(small: float, large: float, power: int, room: float) -> Measurement:
    """What is left at β/100 against 100⁻ᵖ of what is left at β, and a little more."""
    return Measurement(small, SPARE * FACTOR**-power * large + room)


def value_law(landscape: Landscape, squares: float, beta: float) -> Measurement:
    """φ - ℓ + (β/2)·squares falls with β², for the right sum of squared adjoints."""
    start = landscape.at(np.zeros(landscape.size))

    def left(beta: float) -> Array:
        value = equilibrium(landscape, beta, nearby=True).value
        return np.array(abs(value - start + beta / 2 * squares))

    room = ROUNDING * (1 + abs(start)) * 1e-2
    large = float(left_at(left, beta))
    return falls(float(left(beta / FACTOR)), large, 2, room)


# ---- lessons -------------------------------------------------------------------------


def lesson(case: Instance, found: Equilibrium) -> Gradients:
    """∇E/β in the parameters: Σ(∂f/∂θ)ᵀλ + ∂ℓ/∂θ at v*."""
    at = values(case, found.shift)
    return case.gradients_of(case.work(at, named(case, found.scaled)))


def apart(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> tuple[float, float]:
    """The norms of the difference and of the second."""
    difference = torch.cat([(ours[p] - theirs[p]).flatten() for p in theirs])
    return norm(difference), norm(torch.cat([g.flatten() for g in theirs.values()]))
