"""What the claims about zero divergence share: levelled graphs, steps, arrivals.

Every instance is a random graph with random real steps; what the package's dynamics
does is held against plain autograd on the uncut network.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from torch import Tensor

from ...learning import State
from ..draw import Draw
from ..instances import Instance
from ..measuring import ROUNDING, UNIT, largest, norm
from ..networks import graded_network, tame
from ..registry import Measurement

# A few dozen roundings of numbers as large as the values: what is left of an error that
# is zero on paper, if two kernels do not agree to the last bit.
OF_VALUES = 64 * UNIT


def levelled(draw: Draw, least_depth: int = 1, most_depth: int = 4) -> Instance:
    """A random graph in levels, on which no dynamics overflows."""
    return tame(graded_network(draw, least_depth, most_depth))


def some_step(draw: Draw) -> float:
    """Of either sign, on both sides of one, away from zero."""
    return draw.uniform(0.2, 2.0) * draw.choice((1.0, -1.0))


def some_steps(case: Instance, draw: Draw) -> dict[str, float]:
    """A step of its own for every vertex."""
    return {i: some_step(draw) for i in case.hidden}


def first_steps(case: Instance, draw: Draw) -> list[float]:
    """γ₁, …, γ_K."""
    return [some_step(draw) for _ in range(case.depth)]


def with_first(
    case: Instance, first: Sequence[float], draw: Draw, more: int = 0
) -> list[dict[str, float]]:
    """Level s makes the step γₛ in update s; all other steps are arbitrary."""
    levels = case.distances[1]
    steps = [some_steps(case, draw) for _ in range(case.depth + more)]
    for i, k in levels.items():
        steps[k - 1][i] = first[k - 1]
    return steps


def products(first: Sequence[float]) -> list[float]:
    """γ₁⋯γₖ, k = 0, 1, …"""
    return list(itertools.accumulate(first, lambda a, b: a * b, initial=1.0))


def arrivals(
    case: Instance,
    run: Sequence[State],
    products: Sequence[float],
    late: int = 0,
    levels: Mapping[str, int] | None = None,
    metric: Mapping[str, Tensor] | None = None,
) -> list[Measurement]:
    """ε of every vertex at its own instant against γ₁⋯γₖ·δ, relative to that.

    late: read so many steps later. metric: the precision that its error is weighted by.
    """
    measured = []
    for i, k in (levels or case.distances[1]).items():
        error = run[k + late].errors[i]
        error = error if metric is None else error @ metric[i]
        size = abs(products[k]) * case.size
        allowed = ROUNDING * case.linear.cancellation
        allowed += OF_VALUES * largest(case.feedforward) / size
        off = norm(error - products[k] * case.delta[i]) / size
        measured.append(Measurement(off, allowed))
    return measured
