"""Claims about the equilibrium: backpropagation of a shifted network, and its limits.

Equilibria come from `equilibria`, which relaxes nothing; what they are compared with
comes from autograd on the energy, on the uncut network, or from this package.

Laws for small β are measured at a nudge and at a hundredth of it: what is left over
must fall by the right power of a hundred. `_nudge` makes the next term about a
hundredth of the leading one. Where the leading one happens to be small the two may
cancel, but not at β and at 2β alike, so the larger of these is what small nudges are
held against.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from .. import learning, theory
from ..graph import cut
from ..rules import ErrorOptimisation, Strict
from ..theory import Array
from .draw import Draw
from .equilibria import (
    Equilibrium,
    Landscape,
    equilibrium,
    hessian,
    named,
    shifted,
    values,
)
from .measuring import ROUNDING, UNIT, all_states, norm, random_values
from .networks import (
    LOSSES,
    Instance,
    Network,
    Vertex,
    curved,
    furnished,
    random_network,
)
from .registry import Measurement, claim, worst

Gradients = dict[str, Tensor]
Values = Mapping[str, Tensor]

FACTOR = 100.0
SPARE = 1.5

# ---- instances and sizes -------------------------------------------------------------

_BOUNDED = ("squares", "mean squares", "cross entropy", "log cosh")


def _bounded(draw: Draw, least_depth: int = 1) -> Instance:
    """A random network whose loss is nowhere negative, so that E has a minimum."""
    case = random_network(draw, least_depth=least_depth)
    outputs = {o: LOSSES[draw.choice(_BOUNDED)] for o in case.outputs}
    return dataclasses.replace(case, outputs=outputs)


def _curved(draw: Draw, least_depth: int = 2) -> Instance:
    """Squares and tanh: ℋ is neither constant nor zero."""
    case = curved(random_network(draw, least_depth=least_depth))
    return dataclasses.replace(case, direct=())


def _origin(landscape: Landscape) -> tuple[Array, Array, float]:
    """δ, ℋ(0), and 1/β of a nudge that is no longer small.

    Small means that shifts βδ stay below the size of values, which is one, that β‖ℋ‖
    is small, and so is what ℋ changes by along δ: all three have the unit of 1/β.
    """
    delta, curvature = landscape.both(np.zeros(landscape.size))
    largest = max(norm(delta), float(np.linalg.norm(curvature, 2)))
    step = 0.1 / largest
    change = np.linalg.norm(landscape.curvature(-step * delta) - curvature, 2) / step
    return delta, curvature, max(largest, math.sqrt(float(change)))


def _nudge(draw: Draw, landscape: Landscape, low: float, high: float) -> float:
    """β between these shares of the size at which a nudge is no longer small."""
    return draw.uniform(low, high) / _origin(landscape)[2]


def _room(case: Instance, found: Equilibrium) -> float:
    """What rounding may leave in λ: residual and roundings, stretched by (I + βℋ)⁻¹.

    Roundings are relative to the terms of the adjoint, and to the values, whose
    roundings ℋ carries into it.
    """
    at = values(case, found.shift)
    largest = _largest(at)
    terms = float(case.linearise(at).sizes.sum(0).max())
    carried = norm(found.landscape.curvature(found.shift)) * (1 + largest)
    return (ROUNDING * (terms + carried) + found.residual) * found.stretch


def _largest(at: Values) -> float:
    return max(float(v.detach().abs().max()) for v in at.values())


def _inverse(matrix: Array) -> Array:
    return np.asarray(np.linalg.inv(matrix), float)


def _left_at(left: Callable[[float], Array], beta: float) -> Array:
    """What is left over at β, or at 2β where that is more."""
    return np.maximum(left(beta), left(2 * beta))


def _falls(small: float, large: float, power: int, room: float) -> Measurement:
    """What is left at β/100 against 100⁻ᵖ of what is left at β, and a little more."""
    return Measurement(small, SPARE * FACTOR**-power * large + room)


# ---- the saddle function -------------------------------------------------------------


def _saddle(case: Instance, beta: float, v: Values, scaled: Values) -> Tensor:
    """Φ = ℓ(v) + λᵀ(f(v) - v) - (β/2)‖λ‖²."""
    terms = [case.loss(v)]
    for i, multiplier in scaled.items():
        error = case.network.predict(i, v, case.x) - v[i]
        terms.append((multiplier * error).sum() - beta / 2 * multiplier.square().sum())
    return torch.stack(terms).sum()


@claim(instances="random graphs, β of both signs and zero", quantity="relative error")
def saddle_function(draw: Draw) -> Measurement:
    """Stationary points of Φ are equilibria; along them dΦ = ∂Φ, in β and in θ.

    At the equilibrium found in shifts: ∇Φ = 0 and Φ = E/β; at β = 0 the Hessian's
    determinant is ±1; φ_β = ℓ - ½∫‖λ‖²; and its derivative in the parameters, by
    differences of φ between two networks, is what autograd finds at fixed (v, λ).
    """
    case = random_network(draw)
    landscape = shifted(case)
    # Signs and zero; for a loss that is unbounded below only small β have a branch.
    beta = draw.choice([1, -1, 0]) * _nudge(draw, landscape, 0.05, 0.3)
    found = equilibrium(landscape, beta, nearby=True)
    return worst(
        _stationary(case, found),
        _unimodular(case),
        _decreases(case, found),
        _envelope(case, beta, draw, lambda at: at),
    )


def _stationary(case: Instance, found: Equilibrium) -> Measurement:
    beta = found.beta
    v = {i: x.requires_grad_() for i, x in values(case, found.shift).items()}
    scaled = {i: x.clone().requires_grad_() for i, x in _named(case, found).items()}
    saddle = _saddle(case, beta, v, scaled)
    found_gradient = torch.autograd.grad(saddle, [*v.values(), *scaled.values()])
    size = norm(found.scaled) + norm(torch.stack(list(v.values())).detach())
    slope = 1 + norm(case.linearise(v).M)
    off = norm(torch.stack(found_gradient))
    same = 0.0
    if beta:
        same = abs(float((saddle - case.energy(v, beta) / beta).detach()))
    values_size = abs(float(saddle.detach())) + size**2
    allowed = ROUNDING * size * slope + found.residual * slope
    # ε/β is formed here from values: their roundings are divided by β.
    lost = UNIT * 64 * values_size / abs(beta) if beta else 0.0
    return worst(
        Measurement(off, allowed), Measurement(same, ROUNDING * values_size + lost)
    )


def _named(case: Instance, found: Equilibrium) -> dict[str, Tensor]:
    return named(case, found.scaled)


def _unimodular(case: Instance) -> Measurement:
    """|det| = 1 of Φ's Hessian in (v, λ) at β = 0, as autograd gives it."""
    size = len(case.linear.g)
    start = np.concatenate([case.linear.stacked(case.feedforward), case.linear.delta])
    point = torch.from_numpy(start).requires_grad_()
    saddle = _saddle(case, 0.0, named(case, point[:size]), named(case, point[size:]))
    (first,) = torch.autograd.grad(saddle, point, create_graph=True)
    matrix = hessian(first, point)
    _, logarithm = np.linalg.slogdet(matrix)
    # d log det = tr(H⁻¹dH): what a rounding of each entry may do.
    inverse = norm(_inverse(matrix))
    return Measurement(abs(logarithm), ROUNDING * (1 + inverse * norm(matrix)))


def _decreases(case: Instance, found: Equilibrium) -> Measurement:
    """φ_β against ℓ(v̂) - ½∫‖λ_s‖² ds by Gauss-Legendre."""
    landscape, beta = found.landscape, found.beta
    zero = np.zeros(landscape.size)

    def integral(count: int) -> float:
        points, weights = np.polynomial.legendre.leggauss(count)
        squares = []
        for s in points:
            at = equilibrium(landscape, beta * (s + 1) / 2, nearby=True).scaled
            squares.append(float(at @ at))
        return beta / 2 * float(weights @ np.array(squares))

    start = landscape.at(zero)
    fine, coarse = integral(5), integral(3)
    # The finer rule is closer to the integral than to the coarser one.
    room = abs(fine - coarse) + ROUNDING * (1 + abs(start) + abs(fine))
    return Measurement(abs(found.value - start + fine / 2), room)


def _work(case: Instance, v: Values, scaled: Values) -> Gradients:
    """Σ(∂f/∂θ)ᵀλ + ∂ℓ/∂θ at these values."""
    work = [
        (case.network.predict(i, v, case.x) * e.detach()).sum()
        for i, e in scaled.items()
    ]
    return case.gradients_of(torch.stack(work).sum() + case.loss(v))


def _envelope(
    case: Instance, beta: float, draw: Draw, place: Callable[[Values], Values]
) -> Measurement:
    """dφ/dθ along a random direction, by differences, against ∂Φ/∂θ.

    place: where the parameter gradient is read, given v*.
    """
    found = equilibrium(shifted(case), beta, nearby=True)
    at = place(values(case, found.shift))
    gradients = _work(case, at, _named(case, found))
    generator = draw.generator()
    parameters = dict(case.network.named_parameters())
    way = {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for name, p in parameters.items()
    }
    expected = sum(float((gradients[n] * way[n]).sum()) for n in gradients)

    def moved(step: float) -> float:
        with torch.no_grad():
            for name, p in parameters.items():
                p.add_(way[name], alpha=step)
        value = equilibrium(shifted(case), beta, found.shift, nearby=True).value
        with torch.no_grad():
            for name, p in parameters.items():
                p.sub_(way[name], alpha=step)
        return value

    def difference(step: float) -> float:
        return (moved(step) - moved(-step)) / (2 * step)

    h = 1e-4
    fine, coarse = difference(h), difference(2 * h)
    # Halving h quarters the error, so that the finer one is off by a third of this;
    # rounding of φ is divided by h.
    room = abs(fine - coarse) + 64 * UNIT * (1 + abs(found.value)) / h
    return Measurement(abs(fine - expected), room)


@saddle_function.control
def parameters_read_at_the_feedforward_pass(draw: Draw) -> Measurement:
    """∂Φ/∂θ with the right errors, but at v̂ in place of v*."""
    case = _curved(draw)
    beta = _nudge(draw, shifted(case), 0.3, 0.5)
    return _envelope(case, beta, draw, lambda at: case.feedforward)


@saddle_function.control
def errors_not_divided(draw: Draw) -> Measurement:
    """ε* in place of ε*/β."""
    case = _curved(draw)
    found = equilibrium(shifted(case), _nudge(draw, shifted(case), 0.05, 0.3))
    scaled = dataclasses.replace(found, scaled=found.beta * found.scaled)
    v = {i: x.requires_grad_() for i, x in values(case, found.shift).items()}
    saddle = _saddle(case, found.beta, v, _named(case, scaled))
    off = norm(torch.stack(torch.autograd.grad(saddle, list(v.values()))))
    return Measurement(off, _room(case, found))


# ---- equilibrium is backpropagation --------------------------------------------------


@claim(instances="random graphs, β of both signs", quantity="relative error")
def equilibrium_is_shifted_bp(draw: Draw) -> Measurement:
    """At an equilibrium ε*/β is backpropagation's error of the network shifted by -ε*.

    The equilibrium is found in shifts; there ∇E in the values, by autograd on the
    energy, is zero; the package's adjoints at v* are ε*/β; and ∇E/β in the parameters
    is the gradient of the shifted network's loss. At other values the force on the
    values is (I - J)ᵀ times the difference.
    """
    case = _bounded(draw)
    found = _of_either_sign(case, draw, 2.0)
    return worst(
        _at_rest(case, found),
        _force_is_the_difference(case, found.beta, random_values(case, draw)),
    )


def _of_either_sign(case: Instance, draw: Draw, high: float) -> Equilibrium:
    """Where descent ends, or, at a small negative nudge, the branch."""
    landscape = shifted(case)
    if draw.choice([1, -1]) > 0:
        return equilibrium(landscape, draw.uniform(0.05, high))
    return equilibrium(landscape, -_nudge(draw, landscape, 0.05, 0.3))


def _at_rest(case: Instance, found: Equilibrium, moved: bool = True) -> Measurement:
    """moved: whether backpropagation is run at v*, or else at v̂."""
    beta, lin = found.beta, case.linear
    at = values(case, found.shift if moved else 0 * found.shift)
    adjoints = cut(case.network, case.closure, case.at).evaluate(at).adjoints()
    off = norm(lin.stacked(adjoints) - found.scaled)
    leaves = {i: v.requires_grad_() for i, v in values(case, found.shift).items()}
    force = torch.autograd.grad(case.energy(leaves, beta), list(leaves.values()))
    size = norm(found.scaled)
    slope = 1 + norm(case.linearise(leaves).M)
    room = _room(case, found)
    # The energy forms ε from values, whose roundings are divided by β.
    largest = norm(torch.stack(list(leaves.values())).detach())
    lost = ROUNDING * (1 + largest) / abs(beta)
    theirs = case.gradients_of(
        case.loss_of(case.network(case.x, named(case, found.shift)))
    )
    ours = _work(case, leaves, _named(case, found))
    return worst(
        Measurement(off / size, room / size),
        Measurement(norm(torch.stack(force)) / abs(beta), (room + lost) * slope),
        _same_gradients(case, ours, theirs, room),
    )


def _same_gradients(
    case: Instance, ours: Gradients, theirs: Gradients, room: float
) -> Measurement:
    """Room for λ is carried through ∂f/∂θ, measured as if all its entries added up."""
    if ours.keys() != theirs.keys():
        return Measurement(math.nan, ROUNDING)
    off, size = _apart(ours, theirs)
    slope = 1 + float(case.x.numel()) * max(
        1.0, *(float(v.detach().abs().max()) for v in case.feedforward.values())
    )
    return Measurement(off, ROUNDING * size + len(ours) * slope * room)


def _apart(ours: Gradients, theirs: Gradients) -> tuple[float, float]:
    """The norms of the difference and of the second."""
    difference = torch.cat([(ours[p] - theirs[p]).flatten() for p in theirs])
    return norm(difference), norm(torch.cat([g.flatten() for g in theirs.values()]))


def _force_is_the_difference(case: Instance, beta: float, at: Values) -> Measurement:
    lin, landscape = case.linearise(at), shifted(case)
    leaves = {i: v.detach().requires_grad_() for i, v in at.items()}
    force = torch.autograd.grad(case.energy(leaves, beta), list(leaves.values()))
    errors = {i: case.network.predict(i, at, case.x) - at[i] for i in at}
    stacked = lin.stacked(errors)
    adjoint = landscape.adjoint(-stacked)
    expected = (lin.M - np.eye(len(stacked))) @ (stacked - beta * adjoint)
    off = norm(lin.stacked(dict(zip(at, force, strict=True))) - expected)
    terms = norm(stacked) + abs(beta) * float(lin.sizes.sum(0).max())
    carried = abs(beta) * norm(landscape.curvature(-stacked)) * norm(lin.stacked(at))
    room = ROUNDING * (terms + carried) * (1 + norm(lin.M))
    return Measurement(off, room)


@equilibrium_is_shifted_bp.control
def backpropagation_at_the_feedforward_pass(draw: Draw) -> Measurement:
    """Jacobians and loss gradient at v̂ in place of v*."""
    case = _curved(draw)
    found = equilibrium(shifted(case), draw.uniform(0.3, 1.0))
    return _at_rest(case, found, moved=False)


# ---- the implicit step ---------------------------------------------------------------


@claim(instances="random graphs with additive biases", quantity="relative error")
def implicit_step(draw: Draw) -> Measurement:
    """One step on additive biases is an implicit gradient step, and a proximal one.

    Biases are zero at first. The package relaxes the errors; a⁺ = -ε* then satisfies
    a⁺ = -β∇ψ(a⁺) by autograd, the network with biases a⁺ predicts v*, its loss ψ falls
    by ‖a⁺‖²/2β at least, and no random point nearby has a smaller ψ(z) + ‖z‖²/2β.
    """
    case = _bounded(draw)
    landscape = shifted(case)
    beta = _nudge(draw, landscape, 0.05, 0.3)
    errors, at, room = _relaxed(case, landscape, beta)
    return worst(
        _implicit(landscape, beta, -errors, room),
        _predicts(case, -errors, at),
        _proximal(landscape, beta, -errors, draw),
    )


def _relaxed(
    case: Instance, landscape: Landscape, beta: float
) -> tuple[Array, Values, float]:
    """(ε*, v*) by error optimisation, and how far it may be from being implicit.

    Unit steps contract by β‖ℋ‖ ≤ 0.3 at the start; 60 of them reach rounding.
    """
    rule = ErrorOptimisation(step_size=1.0, steps=60, scale=beta, tolerance=1e-14)
    last = all_states(case, rule)[-1]
    errors = case.linear.stacked(last.errors)
    size = beta * float(case.linear.sizes.sum(0).max()) + norm(errors)
    carried = beta * norm(landscape.curvature(-errors))
    largest = 1 + _largest(last.values)
    return errors, last.values, ROUNDING * (size + carried * largest)


def _implicit(landscape: Landscape, beta: float, c: Array, room: float) -> Measurement:
    off = norm(c + beta * landscape.adjoint(c))
    return Measurement(off / norm(c), room / norm(c))


def _predicts(case: Instance, c: Array, at: Values) -> Measurement:
    now, lin = values(case, c), case.linear
    largest = _largest(at)
    slopes = (1 + norm(case.linearise(at).M)) ** len(case.hidden)
    off = norm(lin.stacked(now) - lin.stacked({i: at[i] for i in now}))
    return Measurement(off / largest, ROUNDING * slopes)


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
    rise = landscape.at(c) + float(c @ c) / (2 * beta) - start
    return Measurement(max(excess, rise, 0.0), ROUNDING * (1 + start))


@implicit_step.control
def the_explicit_step(draw: Draw) -> Measurement:
    """Backpropagation's step -βδ in the place of a⁺."""
    case = _curved(draw)
    landscape = shifted(case)
    beta = _nudge(draw, landscape, 0.2, 0.3)
    *_, room = _relaxed(case, landscape, beta)
    c = -beta * case.linear.delta
    return _implicit(landscape, beta, c, room)


@implicit_step.control
def one_bias_for_two_samples(draw: Draw) -> Measurement:
    """A bias shared by the samples of a batch: it moves by the sum of their errors."""
    case = _curved(draw)
    x, y = torch.randn(2, 2, case.x.shape[1], generator=draw.generator()).double()
    case = dataclasses.replace(case, x=x, y=y)
    whole, width, count = shifted(case), case.x.shape[1], len(case.hidden)

    def spread(c: Tensor) -> Tensor:
        return c.reshape(count, 1, width).expand(count, 2, width).flatten()

    beta = _nudge(draw, whole, 0.2, 0.3)
    errors, _, room = _relaxed(case, whole, beta)
    shared = Landscape(lambda c: whole.loss(spread(c)), count * width)
    c = -errors.reshape(count, 2, width).sum(1).flatten()
    return _implicit(shared, beta, c, room)


# ---- the identity behind the bounds --------------------------------------------------


@claim(instances="random graphs, β of both signs", quantity="relative error")
def nudge_identity(draw: Draw) -> Measurement:
    """(I + βℋ̄)ε*/β = δ with the curvature averaged from 0 to b*, at any equilibrium.

    ℋ̄ by Gauss-Legendre quadrature of autograd's Hessians; and what follows for β > 0:
    the relative error is at most max(βΛ/(1 + βΛ), βν/(1 - βν)), and ε*/β keeps a
    positive part along δ.
    """
    case = _bounded(draw)
    return _identity(case, _of_either_sign(case, draw, 1.5))


def _mean(found: Equilibrium, nodes: int) -> Array:
    matrices, weights = found.along(nodes)
    mean: Array = np.tensordot(weights, matrices, axes=1)
    return mean


def _identity(
    case: Instance, found: Equilibrium, mean: Array | None = None
) -> Measurement:
    fine, coarse = _mean(found, 10), _mean(found, 6)
    beta, scaled = found.beta, found.scaled
    delta = found.landscape.adjoint(np.zeros(len(scaled)))
    used = fine if mean is None else mean
    off = norm(scaled + beta * used @ scaled - delta)
    # The finer rule is closer to the integral than to the coarser one.
    quadrature = abs(beta) * norm(fine - coarse) * norm(scaled)
    room = quadrature + _room(case, found) * (1 + abs(beta) * norm(fine))
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
def curvature_at_one_point(draw: Draw) -> Measurement:
    """ℋ at the feed-forward pass in place of its mean."""
    case = _curved(draw)
    landscape = shifted(case)
    found = equilibrium(landscape, _nudge(draw, landscape, 0.3, 0.6))
    return _identity(case, found, landscape.curvature(np.zeros(landscape.size)))


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
    return worst(
        _iterated(case, landscape, sign * _nudge(draw, landscape, 0.02, 0.2)),
        *_expansion(case, landscape, sign * _nudge(draw, landscape, 0.005, 0.01)),
    )


def _iterated(case: Instance, landscape: Landscape, beta: float) -> Measurement:
    errors, room = _fixed_point(case, landscape, beta)
    found = equilibrium(landscape, beta, nearby=True)
    delta = landscape.adjoint(np.zeros(landscape.size))
    room = room * found.stretch / abs(beta) + _room(case, found)
    size = abs(beta) * float(np.linalg.norm(_mean(found, 6), 2))
    # Six nodes: the mean of ℋ is a mean of values of ℋ, whatever the quadrature error;
    # that is of order (βΛ)¹² here.
    promised = size / (1 - size) * norm(delta) * (1 + 1e-6)
    return worst(
        Measurement(norm(errors / beta - found.scaled), room),
        Measurement(norm(found.scaled - delta), promised + room),
    )


def _fixed_point(
    case: Instance, landscape: Landscape, beta: float
) -> tuple[Array, float]:
    """ε* by unit steps, and room: by the package, which wants β > 0, or by hand."""
    if beta > 0:
        errors, _, room = _relaxed(case, landscape, beta)
        return errors, room
    errors = np.zeros(landscape.size)
    for _ in range(60):
        errors = beta * landscape.adjoint(-errors)
    carried = norm(landscape.curvature(-errors)) * (1 + _largest(values(case, -errors)))
    terms = float(case.linear.sizes.sum(0).max()) + carried
    return errors, ROUNDING * (abs(beta) * terms + norm(errors))


def _expansion(case: Instance, landscape: Landscape, beta: float) -> list[Measurement]:
    lin = case.linear
    delta, inverse = lin.delta, _inverse(np.eye(len(lin.g)) - lin.M.T)
    first = inverse.T @ _lagrangian_hessian(case) @ inverse @ delta
    start = lin.stacked(case.feedforward)

    def left(beta: float) -> Array:
        found = equilibrium(landscape, beta, nearby=True)
        at = lin.stacked(values(case, found.shift))
        return np.array(
            [
                norm(found.scaled - delta + beta * first),
                norm(at - start + beta * inverse @ delta),
                _room(case, found),
            ]
        )

    errors, shift, _ = _left_at(left, beta)
    errors2, shift2, room = left(beta / FACTOR)
    rounding = ROUNDING * (1 + norm(start)) * norm(inverse)
    return [
        _falls(errors2, errors, 2, room),
        _falls(shift2, shift, 2, rounding),
    ]


def _lagrangian_hessian(case: Instance) -> Array:
    """Q = ∇²ℓ + Σδ·∇²f at v̂, in the values."""
    start = torch.from_numpy(case.linear.stacked(case.feedforward)).requires_grad_()
    total = _saddle(case, 0.0, named(case, start), case.delta)
    (first,) = torch.autograd.grad(total, start, create_graph=True)
    return hessian(first, start)


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
    delta, curvature = landscape.both(np.zeros(1))
    size = min(beta * norm(curvature), 0.5)
    promised = size / (1 - size) * norm(delta)
    return Measurement(norm(found - delta), promised + ROUNDING)


def _critical(landscape: Landscape, beta: float, b: Array) -> Array:
    """λ = -b/β if b is a critical point indeed, within the roundings of v³."""
    slope = b + beta * landscape.adjoint(b)
    if norm(slope) > 1e-6 * norm(b):
        raise ArithmeticError("no critical point was found")
    return -b / beta


# ---- uniqueness ----------------------------------------------------------------------

# The largest |tanh″| is 4/(3√3).
_BEND = 4 / (3 * math.sqrt(3))


@dataclasses.dataclass(frozen=True)
class _TwoLayers:
    """x → v₁ → v₂ = W tanh v₁ → ½‖U v₂ - y‖², whose curvature has a bound by hand."""

    first: Array
    W: Array
    U: Array
    y: Array

    @property
    def landscape(self) -> Landscape:
        n = len(self.first)
        first, W, U, y = map(torch.from_numpy, (self.first, self.W, self.U, self.y))

        def loss(b: Tensor) -> Tensor:
            second = W @ torch.tanh(first + b[:n]) + b[n:]
            return (U @ second - y).square().sum() / 2

        return Landscape(loss, 2 * n)

    def negative(self, radius: float) -> float:
        """ν with ℋ ⪰ -νI on ‖b‖ ≤ radius.

        ℋ = AᵀA + Σ rₖ∇²outputₖ, and the second part acts on b₁ alone, as a diagonal:
        (WᵀUᵀr)ⱼ·tanh″. A shift b moves the residual by ‖U‖(‖W‖‖b₁‖ + ‖b₂‖) at most.
        """
        U, W = np.linalg.norm(self.U, 2), np.linalg.norm(self.W, 2)
        residual = self.U @ self.W @ np.tanh(self.first) - self.y
        largest = norm(residual) + U * math.hypot(W, 1.0) * radius
        return float(_BEND * W * U * largest)


@claim(instances="nets of two tanh layers, β below 1/ν", quantity="distance")
def nudge_uniqueness(draw: Draw) -> Measurement:
    """With βν < 1 on the sublevel ball there is one equilibrium in it.

    ν by hand from the weights; ℋ ⪰ -νI at random points of the ball; descents from
    random points of the ball end at one point, which lies in the ball; and where the
    package's descent in the values is stopped, ‖b - b*‖ ≤ ‖∇_bE‖/(1 - βν). For a small
    nudge the branch from δ leads to the same point.
    """
    net = _two_layers(draw)
    landscape, share = net.landscape, draw.uniform(0.2, 0.9)
    loss = landscape.at(np.zeros(landscape.size))
    low, high = 0.0, 1e3
    for _ in range(60):  # β·ν(β) grows with β
        middle = (low + high) / 2
        below = middle * net.negative(math.sqrt(2 * middle * loss)) < share
        low, high = (middle, high) if below else (low, middle)
    radius = math.sqrt(2 * low * loss)
    return worst(
        _one_equilibrium(landscape, low, radius, draw),
        _curved_downwards(landscape, net.negative(radius), radius, draw),
        _gradient_flow(net, low, net.negative(radius)),
        _on_the_branch(landscape, low, draw),
    )


def _two_layers(draw: Draw) -> _TwoLayers:
    n, generator = draw.integer(1, 3), np.random.default_rng(draw.integer(0, 2**31))
    W, U = generator.normal(size=(2, n, n)) / n**0.5
    first, y = generator.normal(size=(2, n))
    return _TwoLayers(first, W, U, y)


def _in_ball(draw: Draw, size: int, radius: float, count: int) -> Array:
    generator = np.random.default_rng(draw.integer(0, 2**31))
    points = generator.normal(size=(count, size))
    points *= radius / np.linalg.norm(points, axis=1, keepdims=True)
    scaled: Array = points * generator.uniform(size=(count, 1))
    return scaled


def _one_equilibrium(
    landscape: Landscape, beta: float, radius: float, draw: Draw
) -> Measurement:
    reference = equilibrium(landscape, beta)
    room = (reference.residual + ROUNDING * norm(reference.scaled)) * beta
    room *= reference.stretch
    outside = max(norm(reference.shift) - radius, 0.0)
    starts = _in_ball(draw, landscape.size, radius, 2)
    others = [equilibrium(landscape, beta, b).shift for b in starts]
    # Descent raises no energy, but it may leave the ball from a start beside v̂.
    apart = [norm(b - reference.shift) for b in others if norm(b) <= radius]
    return Measurement(max([outside, *apart]), room)


def _curved_downwards(
    landscape: Landscape, down: float, radius: float, draw: Draw
) -> Measurement:
    points = _in_ball(draw, landscape.size, radius, 4)
    least = min(np.linalg.eigvalsh(landscape.curvature(b))[0] for b in points)
    return Measurement(max(-least, 0.0), down * (1 + ROUNDING))


def _gradient_flow(net: _TwoLayers, beta: float, down: float) -> Measurement:
    """The package's descent in the values from v̂: ‖b - b*‖ ≤ ‖∇_bE‖/(1 - βν)."""
    case, landscape = _Layers(net), net.landscape
    rule = Strict(step_size=case.step(beta), steps=30, scale=beta)
    *_, last = learning.infer(case, case.closure, rule)
    b = -np.concatenate([last.errors["one"].numpy(), last.errors["two"].numpy()])
    found = equilibrium(landscape, beta)
    force = norm(b + beta * landscape.adjoint(b))
    room = ROUNDING * (1 + norm(b)) * found.stretch
    return Measurement(norm(b - found.shift), force / (1 - beta * down) + room)


def _on_the_branch(landscape: Landscape, beta: float, draw: Draw) -> Measurement:
    """For a small nudge: Newton's method from δ, against the end of a descent."""
    small = min(beta, _nudge(draw, landscape, 0.05, 0.2))
    end, branch = (equilibrium(landscape, small, nearby=n) for n in (False, True))
    room = end.residual + branch.residual + ROUNDING * norm(end.scaled)
    return Measurement(norm(end.scaled - branch.scaled), room * end.stretch)


class _Layers(nn.Module):
    """The same net for the package, with vertices `one` and `two`."""

    def __init__(self, net: _TwoLayers) -> None:
        super().__init__()
        n = len(net.first)
        self.net = net
        self.one, self.two, self.three = (
            nn.Linear(k, n, bias=False, dtype=torch.float64) for k in (1, n, n)
        )
        weights = (net.first[:, None], net.W, net.U)
        for layer, weight in zip(self.children(), weights, strict=True):
            layer.weight = nn.Parameter(torch.from_numpy(weight.copy()))

    def forward(self) -> Tensor:
        hidden = self.one(torch.ones(1, dtype=torch.float64))
        out: Tensor = self.three(self.two(torch.tanh(hidden)))
        return out

    def closure(self) -> Tensor:
        return (self() - torch.from_numpy(self.net.y)).square().sum() / 2

    def step(self, beta: float) -> float:
        """Below 2/λ everywhere: ‖Hess‖ ≤ ‖I - J‖² + residuals' bends, by hand."""
        net = self.net
        U, W = np.linalg.norm(net.U, 2), np.linalg.norm(net.W, 2)
        out = net.U @ net.W @ np.tanh(net.first) - net.y
        radius = math.sqrt(beta) * norm(out)
        bends = _BEND * W * radius  # ‖ε‖ on the sublevel set times ‖∇²f‖
        return float(1 / ((1 + W) ** 2 + beta * U**2 + bends))


@nudge_uniqueness.control
def a_nudge_beyond_the_curvature(draw: Draw) -> Measurement:
    """One vertex, ℓ = (v² - 1)², β with βν > 1: two equilibria, both below E(v̂)."""
    mu, beta = draw.uniform(0.01, 0.1), draw.uniform(2.0, 10.0)
    landscape = Landscape(lambda b: ((mu + b) ** 2 - 1).square().sum(), 1)
    ends = [equilibrium(landscape, beta, np.array([b])) for b in (1 - mu, -1 - mu)]
    start = beta * landscape.at(np.zeros(1))
    inside = all(e.value * beta < start for e in ends)
    apart = norm(ends[0].shift - ends[1].shift)
    return Measurement(apart if inside else 0.0, ROUNDING)


# ---- which ratio must be small -------------------------------------------------------


def _labelled(case: Instance, draw: Draw, unit: bool = False) -> tuple[Array, Array]:
    """A: how the outputs answer to shifts, (outputs, N); and a direction u of labels.

    unit: u along A's largest singular vector, else random.
    """
    landscape = shifted(case)
    zero = torch.zeros(landscape.size, dtype=torch.float64, requires_grad=True)
    outputs = _outputs(case, zero)
    (rows,) = torch.autograd.grad(
        outputs,
        zero,
        torch.eye(len(outputs), dtype=torch.float64),
        is_grads_batched=True,
    )
    A = rows.numpy()
    if unit:
        return A, np.linalg.svd(A)[0][:, 0]
    u = np.random.default_rng(draw.integer(0, 2**31)).normal(size=len(A))
    return A, u / norm(u)


def _outputs(case: Instance, b: Tensor) -> Tensor:
    found = case.network(case.x, named(case, b))
    return torch.cat([found[o].flatten() for o in case.outputs])


def _with_residual(case: Instance, residual: Array) -> Landscape:
    """ℓ̄ for half the squared distance to the labels ŷ - residual."""
    size = case.x.numel() * len(case.hidden)
    with torch.no_grad():
        start = _outputs(case, torch.zeros(size, dtype=torch.float64))
    y = start - torch.from_numpy(residual)
    return Landscape(lambda b: (_outputs(case, b) - y).square().sum() / 2, size)


@claim(instances="random graphs, labels close to the output", quantity="distance")
def small_output_error(draw: Draw) -> Measurement:
    """As the label nears the output at fixed β, ε*/β nears (I + βAᵀA)⁻¹δ, not δ.

    Residuals of length 10⁻² and 10⁻⁴: what is left over falls in proportion. The
    limit's relative distance from δ lies between βc/(1 + βc) for the smallest positive
    and for the largest eigenvalue c of AᵀA. Descent from v̂ ends at this equilibrium,
    below E(v̂).
    """
    case = dataclasses.replace(random_network(draw), direct=())
    A, u = _labelled(case, draw)
    beta = draw.uniform(0.3, 2.0) / float(np.linalg.norm(A, 2)) ** 2
    delta = A.T @ u
    limit = _inverse(np.eye(A.shape[1]) + beta * A.T @ A) @ delta
    return worst(
        _approached(case, u, beta, limit),
        _between(A, beta, limit, delta),
        *_descended(case, u, beta),
    )


def _lost(case: Instance, found: Equilibrium) -> float:
    """Rounding in λ: the residual of the label is a difference of outputs."""
    outputs = case.network(case.x).values()
    start = max(float(v.detach().abs().max()) for v in outputs)
    return (ROUNDING * (1 + start) + found.residual) * found.stretch


def _descended(case: Instance, u: Array, beta: float) -> list[Measurement]:
    """The equilibrium near δ against the one that descent reaches; and E(v̂)."""
    landscape = _with_residual(case, 1e-2 * u)
    near, down = (equilibrium(landscape, beta, nearby=n) for n in (True, False))
    room = _lost(case, near) + _lost(case, down)
    rise = near.value - landscape.at(np.zeros(landscape.size))
    return [
        Measurement(norm(near.scaled - down.scaled), room),
        Measurement(max(rise, 0.0), room),
    ]


def _approached(case: Instance, u: Array, beta: float, limit: Array) -> Measurement:
    def left(s: float) -> Array:
        found = equilibrium(_with_residual(case, s * u), beta, nearby=True)
        return np.array([norm(found.scaled / s - limit), _lost(case, found) / s])

    large, _ = _left_at(left, 1e-2)
    small, room = left(1e-4)
    return _falls(small, large, 1, room)


def _between(A: Array, beta: float, limit: Array, delta: Array) -> Measurement:
    squares = np.linalg.svd(A, compute_uv=False) ** 2
    squares = squares[squares > 1e-12 * squares.max()]
    low, high = (beta * s / (1 + beta * s) for s in (squares.min(), squares.max()))
    away = norm(limit - delta) / norm(delta)
    return Measurement(max(low - away, away - high, 0.0), ROUNDING)


@small_output_error.control
def small_error_taken_for_small_nudge(draw: Draw) -> Measurement:
    """δ itself as the limit; the label lies where the outputs answer most."""
    case = _curved(draw)
    A, u = _labelled(case, draw, unit=True)
    beta = draw.uniform(0.5, 2.0) / float(np.linalg.norm(A, 2)) ** 2
    return _approached(case, u, beta, A.T @ u)


@claim(instances="random graphs and precisions", quantity="relative error")
def precision_ratio(draw: Draw) -> Measurement:
    """Πε*/β is backpropagation's error of the network shifted by -ε*, and tends to δ.

    Full precision matrices: the equilibrium in rescaled shifts, its adjoint by
    autograd, the force on the values; the distance to δ, which falls with β, and the
    value to first order; and the package: one precision for all is the same descent
    with β divided by it.
    """
    case = random_network(draw)
    roots = _roots(case, draw)
    landscape = shifted(case)
    units = Landscape(
        lambda b: landscape.loss(torch.from_numpy(roots) @ b), landscape.size
    )
    beta = _nudge(draw, units, 0.05, 0.3)
    found = equilibrium(units, beta, nearby=True)
    return worst(
        _weighted(case, found, roots, _inverse(roots).T),
        _tends(case, units, _inverse(roots).T, _nudge(draw, units, 0.005, 0.01)),
        _value_to_first_order(units, _nudge(draw, units, 0.005, 0.01)),
        _only_the_ratio(case, draw),
    )


def _roots(case: Instance, draw: Draw, low: float = 0.3, high: float = 3.0) -> Array:
    """Π^-½, block by block, with random symmetric positive definite blocks."""
    generator = np.random.default_rng(draw.integer(0, 2**31))
    width, count = case.x.numel(), len(case.hidden)
    whole = np.zeros((width * count, width * count))
    for k in range(count):
        turn, _ = np.linalg.qr(generator.normal(size=(width, width)))
        block = turn * generator.uniform(low, high, size=width) @ turn.T
        whole[k * width : (k + 1) * width, k * width : (k + 1) * width] = block
    return whole


def _weighted(
    case: Instance, found: Equilibrium, roots: Array, weights: Array
) -> Measurement:
    """weights·λ′ against the adjoint at shift -ε*, where b = Π^-½ b′; and the force."""
    lin, beta = case.linear, found.beta
    shift = roots @ found.shift
    xi = weights @ found.scaled
    adjoint = shifted(case).adjoint(shift)
    at = values(case, shift)
    leaves = {i: v.requires_grad_() for i, v in at.items()}
    stacked = torch.stack(
        [case.network.predict(i, leaves, case.x) - leaves[i] for i in case.hidden]
    ).flatten()
    precision = torch.from_numpy(np.linalg.inv(roots @ roots))
    energy = stacked @ precision @ stacked / 2 + beta * case.loss(leaves)
    force = lin.stacked(
        dict(zip(leaves, torch.autograd.grad(energy, [*leaves.values()]), strict=True))
    )
    here = case.linearise(at)
    condition = float(np.linalg.cond(roots)) ** 2
    largest = 1 + _largest(at)
    terms = float(here.sizes.sum(0).max()) + norm(
        found.landscape.curvature(found.shift)
    )
    room = (ROUNDING * terms * largest + found.residual) * condition * 10
    # The energy forms ε from values, whose roundings are divided by β.
    lost = ROUNDING * largest / beta * float(precision.norm())
    return worst(
        Measurement(norm(xi - adjoint), room),
        Measurement(norm(force) / beta, (room + lost) * (1 + norm(here.M))),
    )


def _tends(
    case: Instance, units: Landscape, weights: Array, beta: float
) -> Measurement:
    """Πε*/β - δ falls with β."""
    delta = case.linear.delta
    condition = float(np.linalg.cond(weights)) ** 2

    def left(beta: float) -> Array:
        found = equilibrium(units, beta, nearby=True)
        terms = float(case.linear.sizes.sum(0).max())
        terms += norm(units.curvature(found.shift))
        room = (ROUNDING * terms + found.residual) * condition * found.stretch
        return np.array([norm(weights @ found.scaled - delta), room])

    large, _ = _left_at(left, beta)
    small, room = left(beta / FACTOR)
    return _falls(small, large, 1, room)


def _value_to_first_order(landscape: Landscape, beta: float) -> Measurement:
    """φ - ℓ + (β/2)‖δ′‖², ‖δ′‖² = Σδᵀ Π⁻¹ δ, falls with β²."""
    zero = np.zeros(landscape.size)
    delta, start = landscape.adjoint(zero), landscape.at(zero)

    def left(beta: float) -> float:
        found = equilibrium(landscape, beta, nearby=True)
        return abs(found.value - start + beta / 2 * float(delta @ delta))

    room = ROUNDING * (1 + abs(start)) * 1e-2
    large = max(left(beta), left(2 * beta))
    return _falls(left(beta / FACTOR), large, 2, room)


def _only_the_ratio(case: Instance, draw: Draw) -> Measurement:
    """Five steps with precision π and weight β; with weight β/π and steps times π."""
    pi, beta = draw.uniform(0.3, 3.0), draw.uniform(0.1, 1.0)
    # Well below what is stable near v̂; Q stands for the size of the second derivatives.
    steepest = (1 + norm(case.linear.M)) ** 2
    steepest += beta / pi * norm(_lagrangian_hessian(case))
    step = 0.1 / steepest
    both = Strict(step_size=step / pi, steps=5, scale=beta, precision=pi)
    ratio = Strict(step_size=step, steps=5, scale=beta / pi)
    one, other = (all_states(case, rule)[-1] for rule in (both, ratio))
    lin = case.linear
    a, b = (lin.stacked(state.errors) for state in (one, other))
    slopes = (1 + norm(lin.M)) ** 2
    largest = 1 + _largest(one.values)
    return Measurement(norm(a - b), ROUNDING * largest * slopes * 10)


@precision_ratio.control
def precision_forgotten(draw: Draw) -> Measurement:
    """ε*/β in place of Πε*/β."""
    case = _curved(draw)
    roots, landscape = _roots(case, draw, 0.3, 0.6), shifted(case)
    units = Landscape(
        lambda b: landscape.loss(torch.from_numpy(roots) @ b), landscape.size
    )
    found = equilibrium(units, _nudge(draw, units, 0.05, 0.3))
    return _weighted(case, found, roots, roots)


# ---- what a nudge that is not small computes -----------------------------------------


@claim(instances="random graphs, small β", quantity="what is left over")
def finite_nudge_bias(draw: Draw) -> Measurement:
    """To first order predictive coding descends ℓ - (β/2)‖δ‖², in value and gradient.

    ∇E/β at v* against ∇ℓ - (β/2)∇‖δ‖², the latter by double backpropagation: the rest
    falls with β². The value, with the next term (β²/2)δᵀℋδ, falls with β³.
    """
    case = random_network(draw)
    landscape = shifted(case)
    beta = _nudge(draw, landscape, 0.005, 0.01)
    return worst(
        _biased(case, landscape, beta, 0.5), _value_to_second_order(landscape, draw)
    )


def _biased(
    case: Instance, landscape: Landscape, beta: float, share: float
) -> Measurement:
    """share: the coefficient of β∇‖δ‖² that is taken off."""
    exact = case.parameter_gradients()
    penalty = _penalty_gradient(case)

    def left(beta: float) -> Array:
        found = equilibrium(landscape, beta, nearby=True)
        ours = _work(case, values(case, found.shift), _named(case, found))
        expected = {p: g - share * beta * penalty[p] for p, g in exact.items()}
        off, size = _apart(ours, expected)
        slope = 1 + max(
            float(v.detach().abs().max()) for v in case.feedforward.values()
        )
        # Five digits in hand: the law is read at 10⁻⁸ of the gradient.
        room = ROUNDING * size + len(ours) * slope * case.x.numel() * _room(case, found)
        return np.array([off, room])

    large, _ = _left_at(left, beta)
    small, room = left(beta / FACTOR)
    return _falls(small, large, 2, room)


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
    delta, curvature, unit = _origin(landscape)
    zero, beta = np.zeros(landscape.size), draw.uniform(0.003, 0.006) / unit
    start = landscape.at(zero)
    slope, bend = float(delta @ delta), float(delta @ curvature @ delta)

    def left(beta: float) -> float:
        value = equilibrium(landscape, beta, nearby=True).value
        return abs(value - start + beta / 2 * slope - beta**2 / 2 * bend)

    room = ROUNDING * (1 + abs(start)) * 1e-2
    large = max(left(beta), left(2 * beta))
    return Measurement(left(beta / 10), 2 * SPARE * 1e-3 * large + room)


@finite_nudge_bias.control
def the_bias_forgotten(draw: Draw) -> Measurement:
    """Backpropagation's gradient itself: what is left falls with β only."""
    case = _chain(draw)
    landscape = shifted(case)
    return _biased(case, landscape, _nudge(draw, landscape, 0.005, 0.01), 0.0)


def _chain(draw: Draw) -> Instance:
    """Two tanh layers, one sample, weights and residual well away from zero."""
    case = curved(furnished(draw, {"v1": (), "v2": ("v1",)}, ["v2"]))
    generator = draw.generator()
    with torch.no_grad():
        for p in case.network.parameters():
            p.copy_((0.5 + torch.rand(p.shape, generator=generator) / 2) / p.shape[-1])
    x = case.x[:1] * 0 + 0.2
    return dataclasses.replace(case, x=x, y=x - 3.0)


@claim(instances="random graphs, small β", quantity="what is left over")
def centred_nudge(draw: Draw) -> Measurement:
    """The mean of the nudges β and -β is backpropagation up to second order.

    Errors and parameter gradients at β and -β, averaged; the rest falls with β².
    """
    case = random_network(draw)
    landscape = shifted(case)
    return _centred(case, _nudge(draw, landscape, 0.005, 0.01), -1.0)


def _centred(case: Instance, beta: float, sign: float) -> Measurement:
    landscape, exact = shifted(case), case.parameter_gradients()
    zero = np.zeros(landscape.size)
    delta = landscape.adjoint(zero)

    def left(beta: float) -> Array:
        pair = [equilibrium(landscape, b, nearby=True) for b in (beta, sign * beta)]
        mean = (pair[0].scaled + pair[1].scaled) / 2
        one, two = (_work(case, values(case, e.shift), _named(case, e)) for e in pair)
        off, size = _apart({p: (one[p] + two[p]) / 2 for p in exact}, exact)
        slope = 1 + max(
            float(v.detach().abs().max()) for v in case.feedforward.values()
        )
        room = sum(_room(case, e) for e in pair) / 2
        carried = ROUNDING * size + len(exact) * slope * case.x.numel() * room
        return np.array([norm(mean - delta), off, room + carried])

    errors, gradients, _ = _left_at(left, beta)
    errors2, gradients2, room = left(beta / FACTOR)
    return worst(
        _falls(errors2, errors, 2, room), _falls(gradients2, gradients, 2, room)
    )


@centred_nudge.control
def one_sided(draw: Draw) -> Measurement:
    """Both nudges on the same side."""
    case = _chain(draw)
    return _centred(case, _nudge(draw, shifted(case), 0.005, 0.01), 1.0)


# ---- multipliers ---------------------------------------------------------------------


@claim(instances="random graphs, fixed β", quantity="relative error")
def multiplier_iteration(draw: Draw) -> Measurement:
    """With λ ← λ + ε/β kept from round to round, λ goes to δ at fixed β, linearly.

    Each round: (I + βℋ̄)(λ′ - δ) = βℋ̄(λ - δ), the mean curvature by quadrature; the
    distance shrinks by max(βΛ/(1 + βΛ), βν/(1 - βν)) at least; the force of the
    augmented Lagrangian on the values, by autograd, is zero; the first λ is ε*/β.
    """
    case = random_network(draw)
    beta = _nudge(draw, shifted(case), 0.05, 0.3)
    return _rounds(case, beta, draw.integer(2, 3))


def _rounds(case: Instance, beta: float, count: int, kept: bool = True) -> Measurement:
    landscape, measured = shifted(case), []
    zero = np.zeros(landscape.size)
    delta, scaled = landscape.adjoint(zero), zero
    distance = norm(delta)
    first = equilibrium(landscape, beta, nearby=True).scaled
    for k in range(count):
        found = equilibrium(_tilted(landscape, scaled), beta, nearby=True)
        after = (scaled if kept else zero) + found.scaled
        room = _room(case, dataclasses.replace(found, landscape=landscape))
        if k == 0:
            measured.append(Measurement(norm(after - first), room))
        mean, coarse = (
            _mean(dataclasses.replace(found, landscape=landscape), n) for n in (6, 4)
        )
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
        measured.append(_no_force(case, beta, scaled, found, room))
        scaled, distance = after, norm(missing)
    return worst(*measured)


def _tilted(landscape: Landscape, scaled: Array) -> Landscape:
    """ℓ̄(b) - λᵀb: the augmented Lagrangian without its square."""
    tilt = torch.from_numpy(scaled.copy())
    return Landscape(lambda b: landscape.loss(b) - tilt @ b, landscape.size)


def _no_force(
    case: Instance, beta: float, scaled: Array, found: Equilibrium, room: float
) -> Measurement:
    leaves = {i: v.requires_grad_() for i, v in values(case, found.shift).items()}
    multipliers = named(case, scaled)
    terms = [case.loss(leaves)]
    for i, v in leaves.items():
        error = case.network.predict(i, leaves, case.x) - v
        square = error.square().sum() / (2 * beta)
        terms.append((multipliers[i] * error).sum() + square)
    force = torch.autograd.grad(torch.stack(terms).sum(), list(leaves.values()))
    lost = ROUNDING * (1 + norm(torch.stack(list(leaves.values())).detach())) / beta
    slope = 1 + norm(case.linearise(leaves).M)
    return Measurement(norm(torch.stack(force)), (room + lost) * slope)


@multiplier_iteration.control
def multipliers_forgotten(draw: Draw) -> Measurement:
    """Each round starts from λ = 0 again: the penalty alone."""
    case = _chain(draw)
    return _rounds(case, _nudge(draw, shifted(case), 0.1, 0.3), 3, kept=False)


# ---- finer cuts, and linear networks -------------------------------------------------


@claim(instances="random graphs, random cuts", quantity="relative excess")
def finer_cuts_relax(draw: Draw) -> Measurement:
    """More vertices with free values, lower equilibrium energy: fine ≤ coarse ≤ ℓ.

    Three nested sets of kept vertices, the largest of them all; the value to first
    order is ℓ - (β/2)Σ‖δ‖² over kept vertices; the coarse cut's energy against the
    package, cut at those vertices only.
    """
    case = _bounded(draw)
    landscape = shifted(case)
    kept = _kept(case, draw)
    more = [i for i in case.hidden if i in kept or draw.integer(0, 1)]
    coarse = _restricted(case, landscape, kept)
    beta = _nudge(draw, landscape, 0.05, 0.3)
    coarse_value = equilibrium(coarse, beta).value
    start = landscape.at(np.zeros(landscape.size))
    order = [
        equilibrium(landscape, beta).value,
        equilibrium(_restricted(case, landscape, more), beta).value,
        coarse_value,
        start,
    ]
    excess = max(0.0, *(a - b for a, b in itertools.pairwise(order)))
    rule = ErrorOptimisation(step_size=1.0, steps=60, scale=beta, tolerance=1e-14)
    at = _at(case, kept)
    *_, last = learning.infer(case.network, case.closure, rule, at)
    theirs = float(last.energy) / beta
    room = ROUNDING * (1 + abs(start))
    return worst(
        Measurement(excess, room),
        Measurement(abs(theirs - coarse_value), room * (1 + 1 / beta)),
        _first_order_of(
            coarse, _part(case, kept), _nudge(draw, landscape, 0.005, 0.01)
        ),
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
    place = [case.hidden.index(i) for i in kept]

    def loss(b: Tensor) -> Tensor:
        rows = b.new_zeros(len(case.hidden), width)
        index = torch.tensor(place)
        return landscape.loss(
            rows.index_copy(0, index, b.reshape(len(place), width)).flatten()
        )

    return Landscape(loss, width * len(kept))


def _part(case: Instance, kept: list[str]) -> float:
    """Σ‖δᵢ‖² over these vertices, δ of the whole network."""
    return sum(float(case.delta[i].square().sum()) for i in kept)


def _first_order_of(landscape: Landscape, squares: float, beta: float) -> Measurement:
    zero = np.zeros(landscape.size)
    start = landscape.at(zero)

    def left(beta: float) -> float:
        value = equilibrium(landscape, beta, nearby=True).value
        return abs(value - start + beta / 2 * squares)

    room = ROUNDING * (1 + abs(start)) * 1e-2
    large = max(left(beta), left(2 * beta))
    return _falls(left(beta / FACTOR), large, 2, room)


@finer_cuts_relax.control
def every_vertex_counted(draw: Draw) -> Measurement:
    """Σ‖δ‖² over all vertices, though only some are kept."""
    case = _chain(draw)
    landscape = shifted(case)
    coarse = _restricted(case, landscape, ["v2"])
    squares = _part(case, case.hidden)
    return _first_order_of(coarse, squares, _nudge(draw, landscape, 0.005, 0.01))


@claim(instances="random linear graphs, any β", quantity="relative error")
def linear_exact(draw: Draw) -> Measurement:
    """In a linear network ε*/β = AᵀS⁻¹r: backpropagation of the residual S⁻¹r.

    Equilibrium, energy, output and weight gradients against the closed form with
    autograd's A; and error optimisation by the package on a chain of matrices.
    """
    case = _linear(random_network(draw), draw)
    A, u = _labelled(case, draw)
    r = draw.uniform(0.1, 3.0) * u
    landscape = _with_residual(case, r)
    beta = draw.uniform(0.05, 5.0)
    chain = _chain_of_matrices(draw, min(beta, 0.5))
    return worst(*_linear_law(landscape, A, r, beta), *chain)


def _linear(case: Instance, draw: Draw) -> Instance:
    """The same wiring with linear vertices only."""
    wiring, width = case.network.wiring, case.x.shape[1]
    modules: dict[str, nn.Module] = {
        i: Vertex("linear", len(p), width, draw.generator()) for i, p in wiring.items()
    }
    network = Network(wiring, modules)
    return dataclasses.replace(case, network=network, direct=())


def _linear_law(
    landscape: Landscape, A: Array, r: Array, beta: float
) -> list[Measurement]:
    """λ and φ in closed form against Newton's method."""
    found = equilibrium(landscape, beta)
    scaled, value = theory.linear_equilibrium(A, r, beta)
    size = norm(A) ** 2 * (1 + beta)
    room = ROUNDING * (1 + norm(A)) * norm(r) * (1 + size) + found.residual
    return [
        Measurement(norm(found.scaled - scaled), room),
        Measurement(abs(found.value - value), room * (1 + norm(r)) * (1 + norm(A))),
    ]


def _chain_of_matrices(
    draw: Draw, beta: float, moved: bool = True
) -> list[Measurement]:
    """The package on W₃W₂W₁x: errors, and both factors of each weight's gradient.

    moved: whether the second factor is the value at equilibrium, or else at v̂.
    """
    generator = draw.generator()
    layers = [nn.Linear(3, 3, bias=False, dtype=torch.float64) for _ in range(3)]
    net = nn.Sequential(*layers)
    for layer in layers:
        with torch.no_grad():
            layer.weight.normal_(0, 3**-0.5, generator=generator)
    x, y = torch.randn(2, 3, generator=generator, dtype=torch.float64)

    def closure() -> Tensor:
        return (net(x) - y).square().sum() / 2

    W = [layer.weight.detach().numpy() for layer in layers]
    A = np.hstack([W[2] @ W[1], W[2]])
    r = W[2] @ W[1] @ W[0] @ x.numpy() - y.numpy()
    # Error optimisation descends a quadratic with this largest eigenvalue.
    largest = 1 + beta * float(np.linalg.norm(A, 2)) ** 2
    rule = ErrorOptimisation(
        step_size=1.9 / (1 + largest), steps=4000, scale=beta, tolerance=1e-14
    )
    for p in net.parameters():
        p.grad = None
    learning.backward(net, closure, rule)
    scaled, _ = theory.linear_equilibrium(A, r, beta)
    residual = theory.linear_residual(A, r, beta)
    values = [x.numpy()]
    for k in range(2):
        error = beta * scaled[3 * k : 3 * k + 3] if moved else 0.0
        values.append(W[k] @ values[-1] - error)
    lessons = [*np.split(scaled, 2), residual]
    size = 1 + max(norm(e) for e in lessons) * max(norm(v) for v in values)
    room = ROUNDING * size * largest * (1 + norm(A))
    return [
        Measurement(norm(layer.weight.grad - torch.from_numpy(np.outer(e, v))), room)
        for layer, e, v in zip(layers, lessons, values, strict=True)
        if layer.weight.grad is not None
    ]


@linear_exact.control
def values_of_the_feedforward_pass(draw: Draw) -> Measurement:
    """The right errors with v̂ in the weights' gradient."""
    return worst(*_chain_of_matrices(draw, draw.uniform(0.5, 2.0), moved=False))


@linear_exact.control
def a_curved_network(draw: Draw) -> Measurement:
    """The closed form, with A at v̂, for tanh vertices."""
    case = _chain(draw)
    A, u = _labelled(case, draw, unit=True)
    r = 2.0 * u
    return worst(*_linear_law(_with_residual(case, r), A, r, draw.uniform(0.5, 2.0)))
