"""Equilibria of the energy by Newton's method in the shifts b = v - f(v).

The independent side of the claims about nudging: nothing here relaxes values, and
nothing here uses the graphs or rules of the package. A network is only ever run as a
whole, with shifts added to its predictions. In these coordinates E_β = ½‖b‖² + β·ℓ̄(b),
where ℓ̄(b) is the loss of the shifted network, and an equilibrium is a solution of
λ = ∇ℓ̄(-βλ) in the scaled error λ = ε/β: no division by β, so β = 0 is allowed and
gives δ.

Adjoints and curvatures are taken at many shifts at once (see `derivatives`), and a
family of nudges is solved together, with curvatures that are kept while they serve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..theory import Array
from . import derivatives
from .instances import Instance
from .vertices import Values

_POLISH = 24
_DESCENT = 200

# Shares of λ at which a residual is small enough, and at which it may be rounding that
# keeps it from falling. What is left is measured, and allowed for, not assumed.
_SOLVED, _ROUNDED = 1e-14, 1e-10


@dataclass(frozen=True)
class Landscape:
    """ℓ̄, a function of N shifts, with its derivatives by autograd.

    loss: of shifts (…, N), the sum of ℓ̄ over all leading axes.
    """

    loss: Callable[[Tensor], Tensor]
    size: int

    def at(self, b: Array) -> float:
        """ℓ̄(b)."""
        with torch.no_grad():
            return float(self.loss(torch.from_numpy(b)))

    def adjoint(self, b: Array) -> Array:
        """∇ℓ̄(b), shape (…, N): backpropagation through the shifted network."""
        found: Array = derivatives.gradient(self.loss, torch.from_numpy(b)).numpy()
        return found

    def both(self, b: Array) -> tuple[Array, Array]:
        """∇ℓ̄(b) and ℋ(b) = ∇²ℓ̄(b), shapes (…, N) and (…, N, N)."""
        first, matrix = derivatives.both(self.loss, torch.from_numpy(b))
        return first.numpy(), ((matrix + matrix.mT) / 2).numpy()

    def curvature(self, b: Array) -> Array:
        """ℋ(b) alone."""
        return self.both(b)[1]

    @cached_property
    def start(self) -> tuple[Array, Array]:
        """δ and ℋ(0)."""
        return self.both(np.zeros(self.size))

    @property
    def delta(self) -> Array:
        """δ = ∇ℓ̄(0)."""
        return self.start[0]

    @cached_property
    def steepness(self) -> float:
        """1/β of a nudge that is no longer small.

        Small means that shifts βδ stay below the size of values, which is one, that
        β‖ℋ‖ is small, and so is what ℋ changes by along δ: all three have the unit of
        1/β.
        """
        delta, curvature = self.start
        sizes = float(np.linalg.norm(delta)), float(np.linalg.norm(curvature, 2))
        step = 0.1 / max(sizes)
        moved = self.curvature(-step * delta)
        change = float(np.linalg.norm(moved - curvature, 2)) / step
        return max(*sizes, math.sqrt(change))


def shifted(case: Instance) -> Landscape:
    """ℓ̄ of an instance; b is stacked in the order of its hidden vertices."""
    return Landscape(
        lambda b: case.loss_of(case.network(case.x, named(case, b))),
        case.x.numel() * len(case.hidden),
    )


def named(case: Instance, vector: Tensor | Array) -> Values:
    """N stacked numbers, (…, N), as {hidden vertex: tensor}."""
    return case.named(
        vector if isinstance(vector, Tensor) else torch.from_numpy(vector)
    )


def values(case: Instance, b: Array) -> Values:
    """The feed-forward pass of the shifted network, hidden vertices only."""
    with torch.no_grad():
        found = case.network(case.x, named(case, b))
    return {i: found[i] for i in case.hidden}


@dataclass(frozen=True)
class Equilibrium:
    """A critical point of E_β: λ = ε*/β, shape (N,), and how well it solves λ = ∇ℓ̄."""

    landscape: Landscape
    beta: float
    scaled: Array
    residual: float

    @property
    def shift(self) -> Array:
        """b* = -ε*."""
        return -self.beta * self.scaled

    @cached_property
    def value(self) -> float:
        """E_β/β = ℓ̄(b*) + (β/2)‖λ‖²."""
        square = float(self.scaled @ self.scaled)
        return self.landscape.at(self.shift) + self.beta / 2 * square

    @cached_property
    def curvature(self) -> Array:
        """ℋ(b*)."""
        return self.landscape.curvature(self.shift)

    @cached_property
    def stretch(self) -> float:
        """‖(I + βℋ(b*))⁻¹‖: how much larger an error of λ is than its residual."""
        matrix = np.eye(len(self.scaled)) + self.beta * self.curvature
        return float(1 / np.abs(np.linalg.eigvalsh(matrix)).min())

    def mean_curvature(self, *counts: int) -> list[Array]:
        """ℋ̄, the mean of ℋ from 0 to b*, by Gauss-Legendre with these many nodes."""
        rules = [np.polynomial.legendre.leggauss(count) for count in counts]
        points = (np.concatenate([p for p, _ in rules]) + 1) / 2
        matrices = self.landscape.curvature(np.outer(points, self.shift))
        parts = np.split(matrices, np.cumsum(counts)[:-1])
        return [
            np.tensordot(weights / 2, part, axes=1)
            for (_, weights), part in zip(rules, parts, strict=True)
        ]


def equilibrium(
    landscape: Landscape, beta: float, start: Array | None = None
) -> Equilibrium:
    """The minimum that descent from `start` (the feed-forward pass) leads to; β > 0.

    By Newton's method with negative curvature turned round; then the equation is solved
    to rounding.
    """
    start = np.zeros(landscape.size) if start is None else start
    b, curvature = _descend(landscape, beta, start)
    [found] = _polish(landscape, np.array([beta]), -b[None] / beta, curvature[None])
    return found


def branch(
    landscape: Landscape,
    betas: Sequence[float],
    start: tuple[Array, Array] | None = None,
) -> list[Equilibrium]:
    """The critical points near δ for nudges of any sign and zero, all at once.

    start: λ to begin with, and ℋ in its neighbourhood, in place of δ and ℋ(0).
    """
    scaled, curvature = landscape.start if start is None else start
    many = len(betas)
    starts, matrices = np.tile(scaled, (many, 1)), np.tile(curvature, (many, 1, 1))
    return _polish(landscape, np.array(betas), starts, matrices)


def _descend(landscape: Landscape, beta: float, b: Array) -> tuple[Array, Array]:
    """Minimise E until Newton's own steps take over: b, and ℋ where it was last."""

    def energy(b: Array) -> float:
        return float(b @ b) / 2 + beta * landscape.at(b)

    now = energy(b)
    for _ in range(_DESCENT):
        gradient, curvature = landscape.both(b) if b.any() else landscape.start
        slope = b + beta * gradient
        eigenvalues, vectors = np.linalg.eigh(np.eye(len(b)) + beta * curvature)
        convex = eigenvalues[0] > 0
        small = np.linalg.norm(slope) <= 1e-6 * np.linalg.norm(beta * gradient)
        if convex and small:
            break
        bent = np.maximum(np.abs(eigenvalues), 1e-3)
        step = -vectors @ ((vectors.T @ slope) / bent)
        length, fall = 1.0, float(step @ slope)
        while length > 1e-12 and not energy(b + length * step) <= now + length * (
            1e-4 * fall
        ):
            length /= 2
        if length <= 1e-12:  # flat to rounding
            break
        b = b + length * step
        now = energy(b)
    return b, curvature


def _polish(
    landscape: Landscape, betas: Array, scaled: Array, curvature: Array
) -> list[Equilibrium]:
    """Newton's method on λ - ∇ℓ̄(-βλ) = 0, one row for each nudge.

    curvature: at the start, (rows, N, N). It is kept as long as every step divides the
    residual by ten; with a fresh one, a step that does not even halve it is the last.
    """
    eye, column = np.eye(landscape.size), betas[:, None]
    best, least = scaled, np.full(len(betas), np.inf)
    matrix, fresh = eye + column[:, None] * curvature, False
    for _ in range(_POLISH):
        off = scaled - landscape.adjoint(-column * scaled)
        residual = np.linalg.norm(off, axis=1)
        better = residual < least
        best = np.where(better[:, None], scaled, best)
        slow, stuck = ~(residual < least / 10), ~(residual < least / 2)
        least = np.minimum(least, residual)
        size = np.linalg.norm(best, axis=1)
        solved = least <= _SOLVED * size
        solved |= stuck & (fresh | (least <= _ROUNDED * size))
        if solved.all():
            break
        fresh = bool(np.any(slow & ~solved))
        if fresh:
            scaled = best
            gradient, curvature = landscape.both(-column * scaled)
            off, matrix = scaled - gradient, eye + column[:, None] * curvature
        scaled = scaled - np.linalg.solve(matrix, off[..., None])[..., 0]
    return [
        Equilibrium(landscape, float(beta), row, float(left))
        for beta, row, left in zip(betas, best, least, strict=True)
    ]
