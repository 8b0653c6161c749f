"""Claims about zero divergence: the leading edge of inference with live predictions.

Every instance is a random graph with random real steps; what the package's dynamics
does is held against plain autograd on the uncut network.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from .. import theory
from ..learning import State, infer
from ..rules import ZIL, Rule, Strict
from .draw import Draw
from .measuring import (
    ROUNDING,
    UNIT,
    all_states,
    gradients,
    near_gradients,
    norm,
    random_values,
)
from .networks import (
    LOSSES,
    Instance,
    Network,
    Values,
    Vertex,
    any_network,
    curved,
    furnished,
    graded_network,
    random_network,
)
from .registry import Measurement, claim, worst
from .schemes import Live

# A few dozen roundings of numbers as large as the values: what is left of an error that
# is zero on paper, if two kernels do not agree to the last bit.
_OF_VALUES = 64 * UNIT


def _tame(case: Instance) -> Instance:
    """Squares in place of log cosh, which overflows where dynamics may run away."""
    outputs = {
        o: LOSSES["squares"] if loss is LOSSES["log cosh"] else loss
        for o, loss in case.outputs.items()
    }
    return dataclasses.replace(case, outputs=outputs)


def _levelled(draw: Draw, least_depth: int = 1, most_depth: int = 4) -> Instance:
    return _tame(graded_network(draw, least_depth, most_depth))


def _some_step(draw: Draw) -> float:
    """Of either sign, on both sides of one, away from zero."""
    return draw.uniform(0.2, 2.0) * draw.choice((1.0, -1.0))


def _some_steps(case: Instance, draw: Draw) -> dict[str, float]:
    """A step of its own for every vertex."""
    return {i: _some_step(draw) for i in case.hidden}


def _largest_value(case: Instance) -> float:
    return max(float(v.abs().max()) for v in case.feedforward.values())


# ---- the recursion -------------------------------------------------------------------


@claim(instances="random graphs, states and steps", quantity="relative error")
def master_recursion(draw: Draw) -> Measurement:
    """ε(t) = (1 - γ)ε(t - 1) + γ(Jᵀε + g) + Δμ, at any state, with any real steps.

    Every step of the dynamics against the right-hand side, whose Jacobians, loss
    gradients and predictions come from autograd on the uncut network.
    """
    return _recursion(_tame(any_network(draw)), draw)


def _recursion(
    case: Instance, draw: Draw, predictions: bool = True, jacobians: bool = True
) -> Measurement:
    steps = [_some_steps(case, draw) for _ in range(draw.integer(1, 3))]
    run = all_states(case, Live(steps, random_values(case, draw)))
    lin, measured = case.linear, []
    for before, after, step in zip(run, run[1:], steps, strict=False):
        at = case.linearise(before.values) if jacobians else lin
        ones = np.ones_like(lin.stacked(case.feedforward))
        gamma = lin.stacked({i: step[i] * v for i, v in lin.named(ones).items()})
        error, mu = lin.stacked(before.errors), _predicted(case, before.values)
        change = _predicted(case, after.values) - mu
        expected = (1 - gamma) * error + gamma * (at.M @ error + at.g)
        expected = expected + change if predictions else expected
        terms = np.abs(error) + np.abs(at.M) @ np.abs(error) + np.abs(at.g)
        sizes = terms.max() * (1 + np.abs(gamma).max()) + np.abs(mu).max()
        sizes += np.abs(change).max()
        off = np.abs(lin.stacked(after.errors) - expected).max()
        measured.append(Measurement(float(off / sizes), ROUNDING))
    return worst(*measured)


def _predicted(case: Instance, values: Mapping[str, Tensor]) -> theory.Array:
    found = {i: case.network.predict(i, values, case.x) for i in case.hidden}
    return case.linear.stacked(found)


@master_recursion.control
def predictions_held(draw: Draw) -> Measurement:
    """Without Δμ, as if predictions stayed where they are."""
    return _recursion(
        _tame(random_network(draw, least_depth=2)), draw, predictions=False
    )


@master_recursion.control
def linearisation_held(draw: Draw) -> Measurement:
    """Jacobians and loss gradient of the feed-forward pass."""
    case = curved(random_network(draw, least_depth=2))
    return _recursion(case, draw, jacobians=False)


# ---- the leading edge ----------------------------------------------------------------


@claim(instances="random levelled graphs, random steps", quantity="relative size")
def leading_edge(draw: Draw) -> Measurement:
    """On a graded graph a vertex of level k has v = v̂ and ε = 0 before step k.

    Whatever real steps the vertices take, each its own at each time.
    """
    case = _levelled(draw)
    steps = [_some_steps(case, draw) for _ in range(case.depth)]
    return _silence(case, steps, case.distances[1])


def _silence(
    case: Instance, steps: Sequence[Mapping[str, float]], levels: Mapping[str, int]
) -> Measurement:
    found = [
        max(norm(state.errors[i]), norm(state.values[i] - case.feedforward[i]))
        for t, state in enumerate(all_states(case, Live(steps)))
        for i, k in levels.items()
        if t < k
    ]
    return Measurement(max(found) / _largest_value(case), _OF_VALUES)


@leading_edge.control
def with_a_shortcut(draw: Draw) -> Measurement:
    """A vertex also feeds the loss directly; its longest path has two edges or more."""
    case = _tame(random_network(draw, least_depth=2, skip=True))
    return _silence(case, [_some_steps(case, draw)], {"v1": 2})


@leading_edge.control
def with_a_dead_end(draw: Draw) -> Measurement:
    """A dead end is not pruned (the loss looks at it, times zero).

    It reads the last vertex of a chain and the first one, and tells the first that the
    last has moved.
    """
    wiring = {"v1": (), "v2": ("v1",), "v3": ("v2",), "end": ("v1", "v3")}
    case = furnished(draw, wiring, ["end", "v3"])
    case.network.get_parameter("out1.weights").data[0] = 0.0
    steps = [_some_steps(case, draw) for _ in range(2)]
    return _silence(case, steps, {"v1": 3})


@claim(instances="random levelled graphs, random steps", quantity="relative error")
def gamma_power_law(draw: Draw) -> Measurement:
    """After k steps a vertex of level k holds γ₁⋯γₖ·δ, its parents still at v̂.

    γₛ is the s-th step of the vertices of level s; all other steps are drawn for each
    vertex. Also the parameters' lessons divided by the products, and `backward` with
    one step size.
    """
    case = _levelled(draw)
    first = _first_steps(case, draw)
    run = all_states(case, Live(_with_first(case, first, draw)))
    gamma = draw.uniform(0.3, 1.5)
    powers = [gamma**k for k in range(case.depth + 1)]
    return worst(
        *_arrivals(case, run, _products(first)),
        near_gradients(
            case, _lessons(case, run, _products(first)), case.parameter_gradients()
        ),
        near_gradients(
            case, gradients(case, ZIL(gamma)), _expected_lessons(case, powers)
        ),
    )


def _first_steps(case: Instance, draw: Draw) -> list[float]:
    """γ₁, …, γ_K."""
    return [_some_step(draw) for _ in range(case.depth)]


def _with_first(
    case: Instance, first: Sequence[float], draw: Draw, more: int = 0
) -> list[dict[str, float]]:
    """Level s makes the step γₛ in update s; all other steps are arbitrary."""
    levels = case.distances[1]
    steps = [_some_steps(case, draw) for _ in range(case.depth + more)]
    for i, k in levels.items():
        steps[k - 1][i] = first[k - 1]
    return steps


def _products(first: Sequence[float]) -> list[float]:
    """γ₁⋯γₖ, k = 0, 1, …"""
    return list(itertools.accumulate(first, lambda a, b: a * b, initial=1.0))


def _arrivals(
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
        allowed += _OF_VALUES * _largest_value(case) / size
        off = norm(error - products[k] * case.delta[i]) / size
        measured.append(Measurement(off, allowed))
    return measured


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
    case = curved(_levelled(draw, least_depth=2))
    first = _first_steps(case, draw)
    run = all_states(case, Live(_with_first(case, first, draw, more=1)))
    return worst(*_arrivals(case, run, _products(first), late=1))


@gamma_power_law.control
def its_own_steps_count(draw: Draw) -> Measurement:
    """The product of a vertex's own first k steps, not of one step of each level."""
    case = _levelled(draw, least_depth=2)
    first = _first_steps(case, draw)
    steps = _with_first(case, first, draw)
    top, levels = case.hidden[0], case.distances[1]
    for k, gamma in enumerate(first[:-1]):
        steps[k][top] = 2 * gamma
    run = all_states(case, Live(steps))
    own = [math.prod(step[top] for step in steps[:k]) for k in range(case.depth + 1)]
    return worst(*_arrivals(case, run, own, levels={top: levels[top]}))


@claim(instances="random levelled graphs", quantity="relative error")
def z_il_exact(draw: Draw) -> Measurement:
    """With unit steps a vertex of level k learns backpropagation's gradient at step k.

    Errors at their instants; who learns when; the sum of the lessons; `backward`, which
    evaluates only the leading edge. K updates, K + 1 instants.
    """
    case = _levelled(draw)
    run = all_states(case, ZIL())
    ones = [1.0] * (case.depth + 1)
    truth = case.parameter_gradients()
    return worst(
        *_arrivals(case, run, ones),
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
    case = curved(_levelled(draw, least_depth=2))
    run = all_states(case, Live([1.0] * (case.depth + 1)))
    return worst(*_arrivals(case, run, [1.0] * (case.depth + 1), late=1))


@z_il_exact.control
def one_instant_early(draw: Draw) -> Measurement:
    """Wrong index by one the other way: state k - 1, before anything has arrived."""
    case = _levelled(draw)
    run = all_states(case, ZIL())
    return worst(*_arrivals(case, run, [1.0] * (case.depth + 1), late=-1))


@z_il_exact.control
def noisy_start(draw: Draw) -> Measurement:
    """Values begin near the feed-forward pass, not at it."""
    case = curved(_levelled(draw, least_depth=2))
    start = random_values(case, draw, spread=0.1)
    run = all_states(case, Live([1.0] * case.depth, start))
    return worst(*_arrivals(case, run, [1.0] * (case.depth + 1)))


@z_il_exact.control
def not_graded(draw: Draw) -> Measurement:
    """A shortcut to the loss; every vertex is read after its longest way."""
    wiring = {"v1": (), "v2": ("v1",), "v3": ("v2",)}
    case = curved(furnished(draw, wiring, ["v1", "v3"]))
    run = all_states(case, Live([1.0] * case.depth))
    return worst(*_arrivals(case, run, [1.0] * (case.depth + 1)))


# ---- precisions ----------------------------------------------------------------------


@claim(instances="random levelled graphs and precisions", quantity="relative error")
def z_il_precision(draw: Draw) -> Measurement:
    """With Π·Γ = a·I for update s of level s, ξ = Πε holds a₁⋯aₖ·δ after k steps.

    Random positive definite precisions, and steps that are multiples of their inverses
    where the edge passes, arbitrary matrices elsewhere; and the package's strict rule
    with a number for each level and unit steps.
    """
    case = _levelled(draw)
    metric = _precisions(case, draw)
    first = [_some_step(draw) for _ in range(case.depth)]
    steps = [_precisions(case, draw) for _ in first]
    for i, k in case.distances[1].items():
        steps[k - 1][i] = first[k - 1] * torch.linalg.inv(metric[i])
    run = all_states(case, Live(steps, precisions=metric))
    return worst(
        *_arrivals(case, run, _products(first), metric=metric),
        *_one_number_a_level(case, draw),
    )


def _precisions(case: Instance, draw: Draw) -> Values:
    """Symmetric, eigenvalues of at least one half."""
    width, generator = case.x.shape[-1], draw.generator()
    noise = torch.randn(
        len(case.hidden), width, width, generator=generator, dtype=torch.float64
    )
    both = noise @ noise.mT / width + torch.eye(width, dtype=torch.float64) / 2
    return dict(zip(case.hidden, both, strict=True))


def _one_number_a_level(case: Instance, draw: Draw) -> list[Measurement]:
    levels = case.distances[1]
    numbers = [draw.uniform(0.3, 2.0) for _ in range(case.depth)]
    rule = Strict(
        1.0,
        case.depth + 1,  # not its last step, at which it may notice that E has grown
        precision={i: numbers[k - 1] for i, k in levels.items()},
    )

    states = infer(case.network, case.closure, rule, case.at)
    run = list(itertools.islice(states, case.depth + 1))
    eye = torch.eye(case.x.shape[-1], dtype=torch.float64)
    metric = {i: numbers[k - 1] * eye for i, k in levels.items()}
    return _arrivals(case, run, _products(numbers), metric=metric)


@z_il_precision.control
def plain_unit_steps(draw: Draw) -> Measurement:
    """Precisions that are matrices, but unit steps."""
    case = _levelled(draw)
    metric = {i: 2 * m for i, m in _precisions(case, draw).items()}
    ones = [1.0] * (case.depth + 1)
    run = all_states(case, Live([1.0] * case.depth, precisions=metric))
    return worst(*_arrivals(case, run, ones, metric=metric))


@z_il_precision.control
def error_not_weighted(draw: Draw) -> Measurement:
    """ε in place of ξ = Πε."""
    case = _levelled(draw)
    metric = {i: 2 * m for i, m in _precisions(case, draw).items()}
    steps = {i: torch.linalg.inv(m) for i, m in metric.items()}
    run = all_states(case, Live([steps] * case.depth, precisions=metric))
    return worst(*_arrivals(case, run, [1.0] * (case.depth + 1)))


# ---- small steps ---------------------------------------------------------------------


@claim(instances="random levelled graphs", quantity="relative error of the limit")
def zil_small_steps(draw: Draw) -> Measurement:
    """After n ≥ k small steps a vertex of level k holds C(n, k)·γᵏ·δ, to first order.

    ε/(C(n, k)γᵏ), and -(v - v̂) in the place of ε, at ±γ and ±γ/2, extrapolated to
    γ = 0. What the last extrapolation still changed bounds what is left, apart from
    rounding.
    """
    case, n = _levelled(draw, most_depth=3), draw.integer(3, 5)
    return _limit(case, n, lambda k: math.comb(n, k))


def _limit(case: Instance, n: int, count: Callable[[int], float]) -> Measurement:
    levels, gamma = case.distances[1], 2e-3

    def shares(step: float) -> theory.Array:
        state, lin = all_states(case, Live([step] * n))[n], case.linear
        moved = {i: case.feedforward[i] - state.values[i] for i in levels}
        law = {i: count(k) * step**k for i, k in levels.items()}
        whole = lin.stacked({i: torch.full_like(v, law[i]) for i, v in moved.items()})
        return np.stack([lin.stacked(state.errors), lin.stacked(moved)]) / whole

    def even(step: float) -> theory.Array:
        middle: theory.Array = (shares(step) + shares(-step)) / 2
        return middle

    rough, fine = even(gamma), even(gamma / 2)
    limit = (4 * fine - rough) / 3
    delta = case.linear.stacked(case.delta)
    smallest = (gamma / 2) ** case.depth
    room = _OF_VALUES * n * _largest_value(case) / smallest / np.abs(delta).max()
    room += ROUNDING * case.linear.cancellation
    changed = np.abs(limit - rough).max() / np.abs(delta).max()
    error = np.abs(limit - delta).max() / np.abs(delta).max()
    return Measurement(float(error), float(changed + room))


@zil_small_steps.control
def one_step_not_counted_in(draw: Draw) -> Measurement:
    """C(n - 1, k) in place of C(n, k)."""
    case, n = curved(_levelled(draw, most_depth=2)), draw.integer(4, 5)
    return _limit(case, n, lambda k: math.comb(n - 1, k))


@zil_small_steps.control
def two_lengths(draw: Draw) -> Measurement:
    """A shortcut to the loss; the exponent counts the long way."""
    wiring = {"v1": (), "v2": ("v1",)}
    case = curved(furnished(draw, wiring, ["v1", "v2"]))
    n = draw.integer(3, 5)
    return _limit(case, n, lambda k: math.comb(n, k))


# ---- unit steps are too long ---------------------------------------------------------


@claim(instances="random graphs, random linear graphs", quantity="relative error")
def unit_step_unstable(draw: Draw) -> Measurement:
    """An outgoing Jacobian of norm above one puts 2/λ_max below the unit step.

    The Hessian of E at v̂ by autograd against (I - J)ᵀ(I - J) + β∇²ℓ; λ_max against one
    plus the largest eigenvalue of any vertex's own block; in linear graphs the energy
    of every state against the sum over eigenvalues, for unit and other steps.
    """
    case, beta = any_network(draw), draw.uniform(0.1, 2.0)
    straight = _affine(draw)
    return worst(
        *_spectrum(case, beta, case.feedforward),
        *(_energies(straight, gamma) for gamma in (1.0, draw.uniform(0.1, 1.5))),
    )


def _hessian(scalar: Callable[[Values], Tensor], values: Values) -> theory.Array:
    shape, names = torch.stack(list(values.values())).shape, list(values)

    def of_vector(vector: Tensor) -> Tensor:
        return scalar(dict(zip(names, vector.reshape(shape), strict=True)))

    point = torch.stack(list(values.values())).flatten()
    found: theory.Array = torch.autograd.functional.hessian(of_vector, point).numpy()
    return found


def _spectrum(case: Instance, beta: float, values: Values) -> list[Measurement]:
    H = _hessian(lambda v: case.energy(v, beta), values)
    of_loss = _hessian(case.loss, values)
    slope = np.eye(len(H)) - case.linearise(values).M.T
    size = norm(slope) ** 2 + beta * norm(of_loss)
    largest = np.linalg.eigvalsh(H)[-1]
    block = len(H) // len(case.hidden)
    asked = slope.T @ slope + beta * of_loss
    promised = max(
        float(np.linalg.eigvalsh(asked[k : k + block, k : k + block])[-1])
        for k in range(0, len(H), block)
    )
    return [
        Measurement(norm(H - asked) / size, ROUNDING),
        Measurement(max(promised - largest, 0.0) / size, ROUNDING),
    ]


def _affine(draw: Draw) -> Instance:
    """A graph of linear vertices, with half squares for the loss."""
    case = random_network(draw)
    generator, width = draw.generator(), case.x.shape[-1]
    for name, module in list(case.network.named_children()):
        if not isinstance(module, Vertex) or module.kind != "linear":
            parents = len(case.network.wiring[name])
            case.network.add_module(name, Vertex("linear", parents, width, generator))
    squares = dict.fromkeys(case.outputs, LOSSES["squares"])
    return dataclasses.replace(case, outputs=squares, direct=())


def _energies(
    case: Instance, gamma: float, start_at: Values | None = None
) -> Measurement:
    """E of seven states of the package's rule against the closed form."""
    count = 6
    rule: Rule = Strict(gamma, count + 1)  # not its last step, at which it may raise
    if start_at is not None:
        rule = Live([gamma] * count, start_at)
    states = infer(case.network, case.closure, rule, case.at)
    found = np.array([float(s.energy) for s in itertools.islice(states, count + 1)])
    lin = case.linear
    slope = np.eye(len(lin.g)) - lin.M.T
    H = slope.T @ slope + _hessian(case.loss, case.feedforward)
    start = float(case.loss(case.feedforward).detach())
    expected = theory.descent_energies(H, lin.g, start, gamma, count)
    # Roundings are not orthogonal to the fastest mode, and grow with it.
    fastest = np.abs(1 - gamma * np.linalg.eigvalsh(H)).max()
    largest = np.linalg.eigvalsh(H)[-1] * (1 + _largest_value(case)) ** 2
    sizes = (start + largest) * np.maximum(1, fastest) ** (2 * np.arange(count + 1))
    return Measurement(float((np.abs(found - expected) / sizes).max()), ROUNDING)


@unit_step_unstable.control
def hessian_elsewhere(draw: Draw) -> Measurement:
    """Away from the feed-forward pass, where errors meet second derivatives."""
    case = curved(random_network(draw, least_depth=2))
    return worst(*_spectrum(case, 1.0, random_values(case, draw)))


@unit_step_unstable.control
def a_start_elsewhere(draw: Draw) -> Measurement:
    """The closed form for a run that does not begin at the feed-forward pass."""
    case = _affine(draw)
    return _energies(case, 1.0, random_values(case, draw))


@claim(instances="random chains with orthogonal weights", quantity="relative error")
def zil_orthogonal_chain(draw: Draw) -> Measurement:
    """In a linear chain with orthogonal weights E(t) depends on L, ‖r‖ and t alone.

    Every state of the package's rule with unit steps against the closed form.
    """
    return _chain_energies(draw, scale=1.0)


def _chain_energies(draw: Draw, scale: float) -> Measurement:

    layers, width, batch = draw.integer(2, 8), draw.integer(1, 3), draw.integer(1, 3)
    generator = draw.generator()
    names = [f"v{k}" for k in range(1, layers)]
    wiring = {name: tuple(names[k - 1 : k]) for k, name in enumerate(names)}
    wiring["out1"] = (names[-1],)
    modules = {i: Vertex("linear", 1, width, generator) for i in wiring}
    for name in [*names[1:], "out1"]:
        square = modules[name].weights.data[0]
        square.copy_(scale * torch.linalg.qr(square)[0])
    x, y = torch.randn(2, batch, width, generator=generator, dtype=torch.float64)
    case = Instance(Network(wiring, modules), x, y, {"out1": LOSSES["squares"]})
    count = 2 * layers
    states = infer(case.network, case.closure, Strict(1.0, count + 1), case.at)
    found = [float(s.energy) for s in itertools.islice(states, count + 1)]
    squared = 2 * float(case.closure().detach())
    expected = [
        theory.orthogonal_chain_energy(t, layers, squared) for t in range(count + 1)
    ]
    size = [max(squared, e, _largest_value(case) ** 2) for e in expected]
    off = [abs(a - b) / c for a, b, c in zip(found, expected, size, strict=True)]
    # Roundings of the size of v̂ excite the fastest mode, which grows threefold a step.
    return Measurement(max(off), ROUNDING * 3.0 ** (count / 2))


@zil_orthogonal_chain.control
def weights_too_large(draw: Draw) -> Measurement:
    """Orthogonal weights times 1.1."""
    return _chain_energies(draw, scale=1.1)


# ---- learning at once ----------------------------------------------------------------


@claim(instances="random levelled graphs", quantity="relative error")
def z_il_online_order(draw: Draw) -> Measurement:
    """A parameter may change once all its readers have learned and the values moved on.

    Parameters are changed at random after the update that follows the last instant of
    their readers; the lessons still are backpropagation's at the old parameters, with
    unit steps, and with any others once they are divided by the products of the steps.
    """
    case = _levelled(draw)
    first = _first_steps(case, draw)
    steps = _with_first(case, first, draw, more=1)
    return worst(_online(case, draw), _online(case, draw, steps, _products(first)))


def _online(
    case: Instance,
    draw: Draw,
    steps: Sequence[Mapping[str, float]] = (),
    products: Sequence[float] = (),
    values_first: bool = True,
    last: bool = True,
) -> Measurement:
    """Steps by autograd on the energy, lessons on the way, parameters changing.

    steps, products: unit steps if not given. values_first: whether a change comes after
    the values' update of that instant. last: whether a parameter waits for the last of
    its readers' instants, not the first.
    """
    steps = steps or [dict.fromkeys(case.hidden, 1.0)] * (case.depth + 1)
    products = products or [1.0] * (case.depth + 1)
    truth, levels = case.parameter_gradients(), case.distances[1]
    named = dict(case.network.named_parameters())
    before = {name: p.detach().clone() for name, p in named.items()}
    changes = _readings(case, levels, last)
    generator = draw.generator()
    values, found = dict(case.feedforward), dict.fromkeys(truth, torch.zeros(()))
    for t, step in enumerate(steps):
        for name, lesson in _lesson(case, values, levels, t).items():
            found[name] = found[name] + lesson / products[t]
        moved = _moved(case, values, step) if values_first else {}
        for name in changes.get(t, ()):
            noise = torch.randn(named[name].shape, generator=generator)
            named[name].data += noise.to(torch.float64)
        values = moved or _moved(case, values, step)
    for name, p in named.items():
        p.data.copy_(before[name])
    # Errors are differences of values here, and are divided by the products.
    smallest = min(abs(c) for c in products) * case.size
    return near_gradients(case, found, truth, 1 + _largest_value(case) / smallest)


def _readings(
    case: Instance, levels: Mapping[str, int], last: bool
) -> dict[int, list[str]]:
    """{instant: parameters that change then}, the last of their readers', or first."""
    instants: dict[str, list[int]] = {}
    owner = {p: name for name, p in case.network.named_parameters()}
    for i in [*case.hidden, *case.outputs]:
        for p in case.network.get_submodule(i).parameters():
            instants.setdefault(owner[p], []).append(levels.get(i, 0))
    when: dict[int, list[str]] = {}
    for name, read in instants.items():
        when.setdefault(max(read) if last else min(read), []).append(name)
    return when


def _lesson(
    case: Instance, values: Values, levels: Mapping[str, int], t: int
) -> dict[str, Tensor]:
    """What the vertices of level t learn at these values; the outputs if t = 0."""
    if t == 0:
        return case.gradients_of(case.loss(values))
    work = []
    for i in (i for i, k in levels.items() if k == t):
        mu = case.network.predict(i, values, case.x)
        work.append((mu * (mu - values[i]).detach()).sum())
    total = torch.stack(work).sum()
    return case.gradients_of(total) if total.requires_grad else {}


def _moved(case: Instance, values: Values, step: Mapping[str, float]) -> Values:
    leaves = {i: v.detach().requires_grad_() for i, v in values.items()}
    found = torch.autograd.grad(case.energy(leaves, 1.0), list(leaves.values()))
    slopes = dict(zip(leaves, found, strict=True))
    return {i: v - step[i] * slopes[i] for i, v in values.items()}


@z_il_online_order.control
def parameters_first(draw: Draw) -> Measurement:
    """The values' update of that instant already sees the new parameters."""
    case = curved(_levelled(draw, least_depth=2))
    return _online(case, draw, values_first=False)


@z_il_online_order.control
def shared_across_levels(draw: Draw) -> Measurement:
    """A bias that two levels share changes after the first of them has learned."""
    case = curved(furnished(draw, {"v1": (), "v2": ("v1",)}, ["v2"]))
    first, second = (case.network.get_submodule(i) for i in ("v1", "v2"))
    second.bias = first.bias
    return _online(case, draw, last=False)
