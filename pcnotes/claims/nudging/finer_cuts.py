"""The claim that finer cuts relax further."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ... import learning
from ...rules import ErrorOptimisation
from ..draw import Draw
from ..equilibria import Landscape, equilibrium, shifted
from ..instances import Instance
from ..measuring import ROUNDING
from ..registry import Measurement, claim, worst
from .nudges import best_step, bounded_below, nudge, steep, value_law, with_hundredths


@claim(instances="random graphs, random cuts", quantity="relative excess")
def finer_cuts_relax(draw: Draw) -> Measurement:
    """More vertices with free values, lower equilibrium energy: fine ≤ coarse ≤ ℓ.

    Three nested sets of kept vertices, the largest of them all; the value to first
    order is ℓ - (β/2)Σ‖δ‖² over kept vertices; the coarse cut's energy against the
    package, cut at those vertices only.
    """
    case = bounded_below(draw)
    landscape = shifted(case)
    kept = _kept(case, draw)
    more = [i for i in case.hidden if i in kept or draw.integer(0, 1)]
    coarse = _restricted(case, landscape, kept)
    beta = nudge(draw, landscape, 0.05, 0.3)
    coarse_value = equilibrium(coarse, beta).value
    start = landscape.at(np.zeros(landscape.size))
    order = [
        equilibrium(landscape, beta).value,
        equilibrium(_restricted(case, landscape, more), beta).value,
        coarse_value,
        start,
    ]
    excess = max(0.0, *(a - b for a, b in itertools.pairwise(order)))
    # Errors to 10⁻⁷ of the first step: what is left of the energy is its square.
    step = best_step(coarse, beta)
    rule = ErrorOptimisation(step_size=step, steps=60, scale=beta, tolerance=1e-7)
    at = _at(case, kept)
    *_, last = learning.infer(case.network, case.closure, rule, at)
    theirs = float(last.energy) / beta
    room = ROUNDING * (1 + abs(start))
    [family] = with_hundredths(coarse, nudge(draw, landscape, 0.005, 0.01))
    return worst(
        Measurement(excess, room),
        Measurement(abs(theirs - coarse_value), room * (1 + 1 / beta)),
        value_law(family, _part(case, kept)),
    )


def _kept(case: Instance, draw: Draw) -> list[str]:
    """Some of the hidden vertices, one at least."""
    chosen = [i for i in case.hidden if draw.integer(0, 1)]
    return chosen or [draw.choice(case.hidden)]


def _at(case: Instance, kept: list[str]) -> Callable[[str, nn.Module], bool]:
    names = {*kept, *case.outputs}
    return lambda name, module: name in names


def _restricted(case: Instance, landscape: Landscape, kept: list[str]) -> Landscape:
    """ℓ̄ in the shifts of some vertices, all others zero."""
    width = case.x.numel()
    places = torch.tensor([case.hidden.index(i) for i in kept])

    def loss(b: Tensor) -> Tensor:
        rows = b.unflatten(-1, (len(kept), width))
        whole = b.new_zeros(*b.shape[:-1], len(case.hidden), width)
        return landscape.loss(whole.index_copy(-2, places, rows).flatten(-2))

    return Landscape(loss, width * len(kept))


def _part(case: Instance, kept: list[str]) -> float:
    """Σ‖δᵢ‖² over these vertices, δ of the whole network."""
    return sum(float(case.delta[i].square().sum()) for i in kept)


@finer_cuts_relax.control
def every_vertex_counted(draw: Draw) -> Measurement:
    """Σ‖δ‖² over all vertices, though only some are kept."""
    case = steep(draw)
    landscape = shifted(case)
    beta = nudge(draw, landscape, 0.005, 0.01)
    [family] = with_hundredths(_restricted(case, landscape, ["v2"]), beta)
    return value_law(family, _part(case, case.hidden))
