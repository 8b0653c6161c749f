"""The claim about the saddle function, whose stationary points are equilibria."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ...theory import Array
from ..derivatives import hessian
from ..draw import Draw
from ..equilibria import Equilibrium, Landscape, branch, named, shifted, values
from ..instances import Instance
from ..measuring import ROUNDING, UNIT, noise, norm, stacked
from ..networks import random_network
from ..registry import Measurement, claim, worst
from ..vertices import Values
from .nudges import bent, nudge, room_for

Place = Callable[[Values], Mapping[str, Tensor]]


@claim(instances="random graphs, β of both signs and zero", quantity="relative error")
def saddle_function(draw: Draw) -> Measurement:
    """Stationary points of Φ are equilibria; along them dΦ = ∂Φ, in β and in θ.

    At the equilibrium found in shifts: ∇Φ = 0 and Φ = E/β; a search from beside δ ends
    there too; at β = 0 the Hessian's determinant is ±1; φ_β = ℓ - ½∫‖λ‖²; and its
    derivative in the parameters, by differences of φ between two networks, is what
    autograd finds at fixed (v, λ).
    """
    case = random_network(draw)
    landscape = shifted(case)
    # Signs and zero; for a loss that is unbounded below only small β have a branch.
    beta = draw.choice([1, -1, 0]) * nudge(draw, landscape, 0.05, 0.3)
    (found, decrease) = _along(case, beta)
    return worst(
        _stationary(case, found),
        _alone(found, draw, landscape.start[1], room_for(case, found)),
        _unimodular(case),
        decrease,
        _envelope(case, found, draw, lambda at: at),
    )


def _along(case: Instance, beta: float) -> tuple[Equilibrium, Measurement]:
    """The equilibrium, and φ_β against ℓ(v̂) - ½∫‖λ_s‖² ds by Gauss-Legendre."""
    landscape = shifted(case)
    (nodes, weights), (fewer, their_weights) = map(
        np.polynomial.legendre.leggauss, (5, 3)
    )
    points = beta * (np.concatenate([nodes, fewer]) + 1) / 2
    found, *between = branch(landscape, [beta, *points])
    squares = np.array([float(at.scaled @ at.scaled) for at in between])
    fine = beta / 2 * float(weights @ squares[:5])
    coarse = beta / 2 * float(their_weights @ squares[5:])
    start = landscape.at(0 * landscape.delta)
    # The finer rule is closer to the integral than to the coarser one.
    room = abs(fine - coarse) + ROUNDING * (1 + abs(start) + abs(fine))
    return found, Measurement(abs(found.value - start + fine / 2), room)


def _stationary(case: Instance, found: Equilibrium) -> Measurement:
    beta = found.beta
    v = {i: x.requires_grad_() for i, x in values(case, found.shift).items()}
    scaled = {
        i: x.clone().requires_grad_() for i, x in named(case, found.scaled).items()
    }
    squares = stacked(scaled).square().sum()
    saddle = case.lagrangian(v, scaled) - beta / 2 * squares
    found_gradient = torch.autograd.grad(saddle, [*v.values(), *scaled.values()])
    size = norm(found.scaled) + norm(stacked(v).detach())
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


def _alone(
    found: Equilibrium, draw: Draw, curvature: Array, room: float
) -> Measurement:
    """A search from λ + something of a tenth of its size against where λ was found.

    curvature: ℋ in the neighbourhood, for the search.
    """
    beside = noise(draw, len(found.scaled)).numpy()
    beside *= 0.1 * max(norm(found.scaled), 1.0) / norm(beside)
    start = found.scaled + beside, curvature
    [again] = branch(found.landscape, [found.beta], start)
    apart = norm(again.scaled - found.scaled)
    return Measurement(apart, room + again.residual * again.stretch)


def _unimodular(case: Instance) -> Measurement:
    """|det| = 1 of Φ's Hessian in (v, λ) at β = 0, as autograd gives it."""
    start = torch.cat([stacked(case.feedforward), stacked(case.delta)]).flatten()

    def lagrangian(point: Tensor) -> Tensor:
        v, multipliers = point.chunk(2, dim=-1)
        return case.lagrangian(case.named(v), case.named(multipliers))

    matrix = hessian(lagrangian, start).numpy()
    _, logarithm = np.linalg.slogdet(matrix)
    # d log det = tr(H⁻¹dH): what a rounding of each entry may do.
    condition = norm(np.linalg.inv(matrix)) * norm(matrix)
    return Measurement(abs(logarithm), ROUNDING * (1 + condition))


def _envelope(
    case: Instance, found: Equilibrium, draw: Draw, place: Place
) -> Measurement:
    """dφ/dθ along a random direction, by differences, against ∂Φ/∂θ.

    place: where the parameter gradient is read, given v*.
    """
    at = place(values(case, found.shift))
    gradients = case.gradients_of(case.work(at, named(case, found.scaled)))
    generator = draw.generator()
    parameters = dict(case.network.named_parameters())
    way = {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for name, p in parameters.items()
    }
    expected = sum(float((gradients[n] * way[n]).sum()) for n in gradients)

    def move(step: float) -> None:
        with torch.no_grad():
            for name, p in parameters.items():
                p.add_(way[name], alpha=step)

    def moved(step: float) -> float:
        move(step)
        near = found.scaled, found.curvature
        [there] = branch(shifted(case), [found.beta], near)
        value = there.value
        move(-step)
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
    case = bent(draw)
    landscape = shifted(case)
    [found] = branch(landscape, [nudge(draw, landscape, 0.3, 0.5)])
    return _envelope(case, found, draw, lambda at: case.feedforward)


@saddle_function.control
def no_second_derivative(draw: Draw) -> Measurement:
    """ℓ = -⅔a|v - v̂|^(3/2), which is (S1) but not (S2): three points near (v̂, δ).

    One vertex, δ = 0; for every β > 0 the stationary points are λ = 0 and λ = ±a²β.
    """
    a, beta = draw.uniform(0.3, 1.0), draw.uniform(0.05, 0.3)
    landscape = Landscape(lambda b: -2 / 3 * a * (b.abs() ** 1.5).sum(), 1)
    at_rest = Equilibrium(landscape, beta, np.zeros(1), residual=0.0)
    return _alone(at_rest, draw, np.zeros((1, 1)), ROUNDING)
