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
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..draw import Draw
from ..equilibria import Equilibrium, Landscape, branch, named, values
from ..instances import Instance
from ..measuring import ROUNDING, largest, norm
from ..networks import chain, curved, furnished, random_network, squared
from ..registry import Measurement
from ..vertices import LOSSES

Gradients = dict[str, Tensor]

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


def kink(corner: Tensor, slope: float) -> Callable[[Tensor], Tensor]:
    """slope·Σ|v - corner|, for `with_loss`."""
    return lambda v: slope * (v - corner).abs().sum()


# ---- how small, and how exact --------------------------------------------------------


def nudge(draw: Draw, landscape: Landscape, low: float, high: float) -> float:
    """β between these shares of the size at which a nudge is no longer small."""
    return draw.uniform(low, high) / landscape.steepness


def best_step(landscape: Landscape, beta: float) -> float:
    """For descent in the shifts: 2/(least + largest eigenvalue of I + βℋ(0))."""
    eigenvalues = 1 + beta * np.linalg.eigvalsh(landscape.start[1])
    return float(2 / (eigenvalues[0] + eigenvalues[-1]))


def room_for(case: Instance, found: Equilibrium) -> float:
    """What rounding may leave in λ: residual and roundings, stretched by (I + βℋ)⁻¹.

    Roundings are relative to the terms of the adjoint, and to the values, whose
    roundings ℋ carries into it.
    """
    at = values(case, found.shift)
    terms = float(case.linearise(at).sizes.sum(0).max())
    carried = norm(found.curvature) * (1 + largest(at))
    return (ROUNDING * (terms + carried) + found.residual) * found.stretch


# ---- laws ----------------------------------------------------------------------------


def law(
    large: Sequence[float], small: float, order: float, room: float, spare: float = 1.5
) -> Measurement:
    """What is left at a small nudge against `order` times the most that is left.

    large: what is left at β and at 2β. spare: for the terms of higher order.
    """
    return Measurement(small, spare * order * max(large) + room)


def with_hundredths(landscape: Landscape, *betas: float) -> list[list[Equilibrium]]:
    """For each of these nudges the equilibria at β, at 2β, and at a hundredth of β."""
    found = branch(
        landscape, [b for beta in betas for b in (beta, 2 * beta, beta / 100)]
    )
    return [found[k : k + 3] for k in range(0, len(found), 3)]


def value_law(family: Sequence[Equilibrium], squares: float) -> Measurement:
    """φ - ℓ + (β/2)·squares falls with β², for the right sum of squared adjoints."""
    landscape = family[0].landscape
    start = landscape.at(0 * landscape.delta)
    *large, small = (
        abs(found.value - start + found.beta / 2 * squares) for found in family
    )
    return law(large, small, 1e-4, ROUNDING * (1 + abs(start)) * 1e-2)


# ---- lessons -------------------------------------------------------------------------


def lesson(case: Instance, found: Equilibrium) -> Gradients:
    """∇E/β in the parameters: Σ(∂f/∂θ)ᵀλ + ∂ℓ/∂θ at v*."""
    at = values(case, found.shift)
    return case.gradients_of(case.work(at, named(case, found.scaled)))


def lesson_room(case: Instance, gradients: Mapping[str, Tensor], room: float) -> float:
    """What rounding may leave in parameter gradients, if it leaves `room` in λ.

    Room for λ is carried through ∂f/∂θ, measured as if all its entries added up.
    """
    slope = 1 + case.x.numel() * max(1.0, largest(case.feedforward))
    size = norm(torch.cat([g.flatten() for g in gradients.values()]))
    return ROUNDING * size + len(gradients) * slope * room


def apart(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The norm of the difference."""
    return norm(torch.cat([(ours[p] - theirs[p]).flatten() for p in theirs]))
