"""The claim about the saddle function, whose stationary points are equilibria."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..draw import Draw
from ..equilibria import Equilibrium, equilibrium, hessian, named, shifted, values
from ..instances import Instance
from ..measuring import ROUNDING, UNIT, norm, stacked
from ..networks import random_network
from ..registry import Measurement, claim, worst
from ..vertices import Values
from .nudges import bent, nudge


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
    beta = draw.choice([1, -1, 0]) * nudge(draw, landscape, 0.05, 0.3)
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


def _unimodular(case: Instance) -> Measurement:
    """|det| = 1 of Φ's Hessian in (v, λ) at β = 0, as autograd gives it."""
    size = len(case.linear.g)
    start = np.concatenate([case.linear.stacked(case.feedforward), case.linear.delta])
    point = torch.from_numpy(start).requires_grad_()
    saddle = case.lagrangian(named(case, point[:size]), named(case, point[size:]))
    (first,) = torch.autograd.grad(saddle, point, create_graph=True)
    matrix = hessian(first, point)
    _, logarithm = np.linalg.slogdet(matrix)
    # d log det = tr(H⁻¹dH): what a rounding of each entry may do.
    condition = norm(np.linalg.inv(matrix)) * norm(matrix)
    return Measurement(abs(logarithm), ROUNDING * (1 + condition))


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


def _envelope(
    case: Instance, beta: float, draw: Draw, place: Callable[[Values], Values]
) -> Measurement:
    """dφ/dθ along a random direction, by differences, against ∂Φ/∂θ.

    place: where the parameter gradient is read, given v*.
    """
    found = equilibrium(shifted(case), beta, nearby=True)
    at = place(values(case, found.shift))
    gradients = case.gradients_of(case.work(at, named(case, found.scaled)))
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
    case = bent(draw)
    beta = nudge(draw, shifted(case), 0.3, 0.5)
    return _envelope(case, beta, draw, lambda at: case.feedforward)
