"""Claims about what has to be small: not an error but a ratio of precisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...rules import Strict
from ...theory import Array
from ..draw import Draw
from ..equilibria import (
    Equilibrium,
    Landscape,
    branch,
    equilibrium,
    named,
    shifted,
    values,
)
from ..instances import Instance
from ..measuring import ROUNDING, all_states, largest, norm, stacked
from ..networks import random_network
from ..registry import Measurement, claim, worst
from .distance import lagrangian_hessian
from .nudges import bent, law, nudge, value_law, with_hundredths

# ---- output error --------------------------------------------------------------------

# How far the label is from the output: s, 2s and s/100.
_RESIDUALS = (1e-2, 2e-2, 1e-4)


def labelled(case: Instance, draw: Draw, unit: bool = False) -> tuple[Array, Array]:
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
    return torch.cat([found[o].flatten(-2) for o in case.outputs], dim=-1)


def with_residual(case: Instance, residual: Array) -> Landscape:
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
    A, u = labelled(case, draw)
    beta = draw.uniform(0.3, 2.0) / float(np.linalg.norm(A, 2)) ** 2
    delta = A.T @ u
    limit = np.linalg.inv(np.eye(A.shape[1]) + beta * A.T @ A) @ delta
    near = _close(case, u, beta)
    return worst(
        _approached(case, near, limit),
        _between(A, beta, limit, delta),
        *_descended(case, near[0]),
    )


def _close(case: Instance, u: Array, beta: float) -> list[Equilibrium]:
    """The equilibrium near δ for each of the residuals."""
    delta, curvature = with_residual(case, 1e-2 * u).start
    return [
        branch(with_residual(case, s * u), [beta], (s / 1e-2 * delta, curvature))[0]
        for s in _RESIDUALS
    ]


def _lost(case: Instance, found: Equilibrium) -> float:
    """Rounding in λ: the residual of the label is a difference of outputs."""
    start = largest(case.network(case.x))
    return (ROUNDING * (1 + start) + found.residual) * found.stretch


def _descended(case: Instance, near: Equilibrium) -> list[Measurement]:
    """The equilibrium near δ against the one that descent reaches; and E(v̂)."""
    landscape = near.landscape
    down = equilibrium(landscape, near.beta)
    room = 2 * _lost(case, near) + down.residual * near.stretch
    rise = near.value - landscape.at(np.zeros(landscape.size))
    return [
        Measurement(norm(near.scaled - down.scaled), room),
        Measurement(max(rise, 0.0), room),
    ]


def _approached(
    case: Instance, near: Sequence[Equilibrium], limit: Array
) -> Measurement:
    """λ/s against the limit."""
    *large, small = (
        norm(at.scaled / s - limit) for at, s in zip(near, _RESIDUALS, strict=True)
    )
    return law(large, small, 1e-2, _lost(case, near[-1]) / _RESIDUALS[-1])


def _between(A: Array, beta: float, limit: Array, delta: Array) -> Measurement:
    squares = np.linalg.svd(A, compute_uv=False) ** 2
    squares = squares[squares > 1e-12 * squares.max()]
    low, high = (beta * s / (1 + beta * s) for s in (squares.min(), squares.max()))
    away = norm(limit - delta) / norm(delta)
    return Measurement(max(low - away, away - high, 0.0), ROUNDING)


@small_output_error.control
def small_error_taken_for_small_nudge(draw: Draw) -> Measurement:
    """δ itself as the limit; the label lies where the outputs answer most."""
    case = bent(draw)
    A, u = labelled(case, draw, unit=True)
    beta = draw.uniform(0.5, 2.0) / float(np.linalg.norm(A, 2)) ** 2
    return _approached(case, _close(case, u, beta), A.T @ u)


# ---- precisions ----------------------------------------------------------------------


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
    units = _rescaled(shifted(case), roots)
    weights = np.asarray(np.linalg.inv(roots).T, float)
    [found] = branch(units, [nudge(draw, units, 0.05, 0.3)])
    small = [nudge(draw, units, 0.005, 0.01) for _ in range(2)]
    family, another = with_hundredths(units, *small)
    return worst(
        _weighted(case, found, roots, weights),
        _tends(case, family, weights),
        value_law(another, norm(units.delta) ** 2),
        _only_the_ratio(case, draw),
    )


def _roots(case: Instance, draw: Draw, low: float = 0.3, high: float = 3.0) -> Array:
    """Π^-½, block by block, with random symmetric positive definite blocks."""
    generator = np.random.default_rng(draw.integer(0, 2**31))
    width, whole = case.x.numel(), np.zeros_like(case.linear.M)
    for own in case.linear.rows.values():
        turn, _ = np.linalg.qr(generator.normal(size=(width, width)))
        whole[own, own] = turn * generator.uniform(low, high, size=width) @ turn.T
    return whole


def _rescaled(landscape: Landscape, roots: Array) -> Landscape:
    """The same loss as a function of b′ = Π^½b, in which the precision is one."""
    matrix = torch.from_numpy(roots)
    return Landscape(lambda b: landscape.loss(b @ matrix.mT), landscape.size)


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
    errors = stacked(case.errors(leaves)).flatten()
    precision = torch.from_numpy(np.linalg.inv(roots @ roots))
    energy = errors @ precision @ errors / 2 + beta * case.loss(leaves)
    force = lin.stacked(
        dict(zip(leaves, torch.autograd.grad(energy, [*leaves.values()]), strict=True))
    )
    here = case.linearise(at)
    condition = float(np.linalg.cond(roots)) ** 2
    values_size = 1 + largest(at)
    terms = float(here.sizes.sum(0).max()) + norm(found.curvature)
    room = (ROUNDING * terms * values_size + found.residual) * condition * 10
    # The energy forms ε from values, whose roundings are divided by β.
    lost = ROUNDING * values_size / beta * float(precision.norm())
    return worst(
        Measurement(norm(xi - adjoint), room),
        Measurement(norm(force) / beta, (room + lost) * (1 + norm(here.M))),
    )


def _tends(
    case: Instance, family: Sequence[Equilibrium], weights: Array
) -> Measurement:
    """Πε*/β - δ falls with β."""
    delta = case.linear.delta
    condition = float(np.linalg.cond(weights)) ** 2

    *large, small = (norm(weights @ at.scaled - delta) for at in family)
    last = family[-1]
    terms = float(case.linear.sizes.sum(0).max()) + norm(last.curvature)
    room = (ROUNDING * terms + last.residual) * condition * last.stretch
    return law(large, small, 1e-2, room)


def _only_the_ratio(case: Instance, draw: Draw) -> Measurement:
    """Two steps with precision π and weight β; with weight β/π and steps times π."""
    pi, beta = draw.uniform(0.3, 3.0), draw.uniform(0.1, 1.0)
    # Well below what is stable near v̂; Q stands for the size of the second derivatives.
    steepest = (1 + norm(case.linear.M)) ** 2
    steepest += beta / pi * norm(lagrangian_hessian(case))
    step = 0.1 / steepest
    both = Strict(step_size=step / pi, steps=2, scale=beta, precision=pi)
    ratio = Strict(step_size=step, steps=2, scale=beta / pi)
    one, other = (all_states(case, rule)[-1] for rule in (both, ratio))
    lin = case.linear
    a, b = (lin.stacked(state.errors) for state in (one, other))
    slopes = (1 + norm(lin.M)) ** 2
    size = 1 + largest(one.values)
    return Measurement(norm(a - b), ROUNDING * size * slopes * 10)


@precision_ratio.control
def precision_forgotten(draw: Draw) -> Measurement:
    """ε*/β in place of Πε*/β."""
    case = bent(draw)
    roots = _roots(case, draw, 0.3, 0.6)
    units = _rescaled(shifted(case), roots)
    [found] = branch(units, [nudge(draw, units, 0.05, 0.3)])
    return _weighted(case, found, roots, roots)
