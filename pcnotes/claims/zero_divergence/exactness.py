"""Claims about what the leading edge carries: δ times a product of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...learning import State
from ...rules import ZIL, Strict
from ..draw import Draw
from ..instances import Instance
from ..measuring import all_states, gradients, near_gradients, noise, random_values
from ..networks import curved, furnished
from ..registry import Measurement, claim, worst
from ..schemes import Live
from ..vertices import Values
from .levelled import arrivals, first_steps, levelled, products, some_step, with_first

# ---- any steps -----------------------------------------------------------------------


@claim(instances="random levelled graphs, random steps", quantity="relative error")
def gamma_power_law(draw: Draw) -> Measurement:
    """After k steps a vertex of level k holds γ₁⋯γₖ·δ, its parents still at v̂.

    γₛ is the s-th step of the vertices of level s; all other steps are drawn for each
    vertex. Also the parameters' lessons divided by the products, and `backward` with
    one step size.
    """
    case = levelled(draw)
    first = first_steps(case, draw)
    run = all_states(case, Live(with_first(case, first, draw)))
    gamma = draw.uniform(0.3, 1.5)
    powers = [gamma**k for k in range(case.depth + 1)]
    return worst(
        *arrivals(case, run, products(first)),
        near_gradients(
            case, _lessons(case, run, products(first)), case.parameter_gradients()
        ),
        near_gradients(
            case, gradients(case, ZIL(gamma)), _expected_lessons(case, powers)
        ),
    )


def _lessons(
    case: Instance, run: Sequence[State], products: Sequence[float]
) -> dict[str, Tensor]:
    """Σ (∂f/∂θ)ᵀε/(γ₁⋯γₖ), each vertex at its own instant, plus ∂ℓ/∂θ at step 0."""
    work = [
        (case.network.predict(i, run[k].values, case.x) * run[k].errors[i]).sum()
        / products[k]
        for i, k in case.distances[1].items()
    ]
    loss = case.loss({i: run[0].values[i] for i in case.hidden})
    return case.gradients_of(torch.stack(work).sum() + loss)


def _expected_lessons(case: Instance, factors: Sequence[float]) -> dict[str, Tensor]:
    """Backpropagation, but level k gets factors[k] of its own."""
    levels = case.distances[1]
    weighted = {i: factors[levels[i]] * d for i, d in case.delta.items()}
    return case.gradients_from(weighted)


@gamma_power_law.control
def read_one_step_late(draw: Draw) -> Measurement:
    """Every vertex is read one step after its instant."""
    case = curved(levelled(draw, least_depth=2))
    first = first_steps(case, draw)
    run = all_states(case, Live(with_first(case, first, draw, more=1)))
    return worst(*arrivals(case, run, products(first), late=1))


@gamma_power_law.control
def its_own_steps_count(draw: Draw) -> Measurement:
    """The product of a vertex's own first k steps, not of one step of each level."""
    case = levelled(draw, least_depth=2)
    first = first_steps(case, draw)
    steps = with_first(case, first, draw)
    top, levels = case.hidden[0], case.distances[1]
    for k, gamma in enumerate(first[:-1]):
        steps[k][top] = 2 * gamma
    run = all_states(case, Live(steps))
    own = [math.prod(step[top] for step in steps[:k]) for k in range(case.depth + 1)]
    return worst(*arrivals(case, run, own, levels={top: levels[top]}))


# ---- unit steps ----------------------------------------------------------------------


@claim(instances="random levelled graphs", quantity="relative error")
def z_il_exact(draw: Draw) -> Measurement:
    """With unit steps a vertex of level k learns backpropagation's gradient at step k.

    Errors at their instants; who learns when; the sum of the lessons; `backward`, which
    evaluates only the leading edge. K updates, K + 1 instants.
    """
    case = levelled(draw)
    run = all_states(case, ZIL())
    ones = [1.0] * (case.depth + 1)
    truth = case.parameter_gradients()
    return worst(
        *arrivals(case, run, ones),
        _schedule(case, run),
        near_gradients(case, _lessons(case, run, ones), truth),
        near_gradients(case, gradients(case, ZIL()), truth),
    )


def _schedule(case: Instance, run: Sequence[State]) -> Measurement:
    """How many vertices learn at another state than that of their level."""
    expected = {i: {k} for i, k in case.distances[1].items()}
    expected |= {o: {0} for o in case.outputs}
    found: dict[str, set[int]] = {i: set() for i in expected}
    for state in run:
        for i in state.learned:
            found[i].add(state.step)
    wrong = sum(found[i] != when for i, when in expected.items())
    return Measurement(float(wrong + abs(len(run) - case.depth - 1)), 0.5)


@z_il_exact.control
def one_instant_late(draw: Draw) -> Measurement:
    """Wrong index by one: vertex of level k, state k + 1."""
    case = curved(levelled(draw, least_depth=2))
    run = all_states(case, Live([1.0] * (case.depth + 1)))
    return worst(*arrivals(case, run, [1.0] * (case.depth + 1), late=1))


@z_il_exact.control
def one_instant_early(draw: Draw) -> Measurement:
    """Wrong index by one the other way: state k - 1, before anything has arrived."""
    case = levelled(draw)
    run = all_states(case, ZIL())
    return worst(*arrivals(case, run, [1.0] * (case.depth + 1), late=-1))


@z_il_exact.control
def noisy_start(draw: Draw) -> Measurement:
    """Values begin near the feed-forward pass, not at it."""
    case = curved(levelled(draw, least_depth=2))
    start = random_values(case, draw, spread=0.1)
    run = all_states(case, Live([1.0] * case.depth, start))
    return worst(*arrivals(case, run, [1.0] * (case.depth + 1)))


@z_il_exact.control
def not_graded(draw: Draw) -> Measurement:
    """A shortcut to the loss; every vertex is read after its longest way."""
    wiring = {"v1": (), "v2": ("v1",), "v3": ("v2",)}
    case = curved(furnished(draw, wiring, ["v1", "v3"]))
    run = all_states(case, Live([1.0] * case.depth))
    return worst(*arrivals(case, run, [1.0] * (case.depth + 1)))


# ---- precisions ----------------------------------------------------------------------


@claim(instances="random levelled graphs and precisions", quantity="relative error")
def z_il_precision(draw: Draw) -> Measurement:
    """With Π·Γ = a·I for update s of level s, ξ = Πε holds a₁⋯aₖ·δ after k steps.

    Random positive definite precisions, and steps that are multiples of their inverses
    where the edge passes, arbitrary matrices elsewhere; and the package's strict rule
    with a number for each level and unit steps.
    """
    case = levelled(draw)
    metric = _precisions(case, draw)
    first = [some_step(draw) for _ in range(case.depth)]
    steps = [_precisions(case, draw) for _ in first]
    for i, k in case.distances[1].items():
        steps[k - 1][i] = first[k - 1] * torch.linalg.inv(metric[i])
    run = all_states(case, Live(steps, precisions=metric))
    return worst(
        *arrivals(case, run, products(first), metric=metric),
        *_one_number_a_level(case, draw),
    )


def _precisions(case: Instance, draw: Draw) -> Values:
    """Symmetric, eigenvalues of at least one half."""
    width = case.x.shape[-1]
    roots = noise(draw, len(case.hidden), width, width)
    both = roots @ roots.mT / width + torch.eye(width, dtype=torch.float64) / 2
    return dict(zip(case.hidden, both, strict=True))


def _one_number_a_level(case: Instance, draw: Draw) -> list[Measurement]:
    levels = case.distances[1]
    numbers = [draw.uniform(0.3, 2.0) for _ in range(case.depth)]
    precision = {i: numbers[k - 1] for i, k in levels.items()}
    rule = Strict(1.0, case.depth + 1, precision=precision)
    run = all_states(case, rule, case.depth + 1)
    eye = torch.eye(case.x.shape[-1], dtype=torch.float64)
    metric = {i: number * eye for i, number in precision.items()}
    return arrivals(case, run, products(numbers), metric=metric)


@z_il_precision.control
def plain_unit_steps(draw: Draw) -> Measurement:
    """Precisions that are matrices, but unit steps."""
    case = levelled(draw)
    metric = {i: 2 * m for i, m in _precisions(case, draw).items()}
    ones = [1.0] * (case.depth + 1)
    run = all_states(case, Live([1.0] * case.depth, precisions=metric))
    return worst(*arrivals(case, run, ones, metric=metric))


@z_il_precision.control
def error_not_weighted(draw: Draw) -> Measurement:
    """ε in place of ξ = Πε."""
    case = levelled(draw)
    metric = {i: 2 * m for i, m in _precisions(case, draw).items()}
    steps = {i: torch.linalg.inv(m) for i, m in metric.items()}
    run = all_states(case, Live([steps] * case.depth, precisions=metric))
    return worst(*arrivals(case, run, [1.0] * (case.depth + 1)))
