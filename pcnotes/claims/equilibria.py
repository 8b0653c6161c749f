"""Equilibria of the energy by Newton's method in the shifts b = v - f(v).

The independent side of the claims about nudging: nothing here relaxes values, and
nothing here uses the graphs or rules of the package. A network is only ever run as a
whole, with shifts added to its predictions. In these coordinates E_β = ½‖b‖² + β·ℓ̄(b),
where ℓ̄(b) is the loss of the shifted network, and an equilibrium is a solution of
λ = ∇ℓ̄(-βλ) in the scaled error λ = ε/β: no division by β, so β = 0 is allowed and
gives δ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..theory import Array
from .instances import Instance
from .vertices import Values

# Newton's method ends once a step no longer halves the residual: at rounding level.
_POLISH = 12
_DESCENT = 200


@dataclass(frozen=True)
class Landscape:
    """ℓ̄, a function of N shifts, with its derivatives by autograd."""

    loss: Callable[[Tensor], Tensor]
    size: int

    def at(self, b: Array) -> float:
        """ℓ̄(b)."""
        with torch.no_grad():
            return float(self.loss(torch.from_numpy(b)))

    def adjoint(self, b: Array) -> Array:
        """∇ℓ̄(b), shape (N,): backpropagation through the shifted network."""
        leaf = torch.from_numpy(b).clone().requires_grad_()
        (found,) = torch.autograd.grad(self.loss(leaf), leaf)
        gradient: Array = found.numpy()
        return gradient

    def both(self, b: Array) -> tuple[Array, Array]:
        """∇ℓ̄(b) and ℋ(b) = ∇²ℓ̄(b), shapes (N,) and (N, N)."""
        leaf = torch.from_numpy(b).clone().requires_grad_()
        (first,) = torch.autograd.grad(self.loss(leaf), leaf, create_graph=True)
        matrix = hessian(first, leaf)
        return first.detach().numpy(), (matrix + matrix.T) / 2

    def curvature(self, b: Array) -> Array:
        """ℋ(b) alone."""
        return self.both(b)[1]


def hessian(gradient: Tensor, leaf: Tensor) -> Array:
    """The Jacobian of a gradient that was taken with create_graph, (N, N)."""
    size = len(leaf)
    rows = None
    if gradient.requires_grad:
        eye = torch.eye(size, dtype=torch.float64)
        (rows,) = torch.autograd.grad(
            gradient, leaf, eye, is_grads_batched=True, allow_unused=True
        )
    return np.zeros((size, size)) if rows is None else rows.numpy()


def shifted(case: Instance) -> Landscape:
    """ℓ̄ of an instance; b is stacked in the order of its hidden vertices."""
    return Landscape(
        lambda b: case.loss_of(case.network(case.x, named(case, b))),
        case.x.numel() * len(case.hidden),
    )


def named(case: Instance, vector: Tensor | Array) -> Values:
    """N stacked numbers as {hidden vertex: tensor}."""
    tensor = vector if isinstance(vector, Tensor) else torch.from_numpy(vector)
    pieces = tensor.reshape(-1, *case.x.shape)
    return dict(zip(case.hidden, pieces, strict=True))


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
    def stretch(self) -> float:
        """‖(I + βℋ(b*))⁻¹‖: how much larger an error of λ is than its residual."""
        matrix = np.eye(len(self.scaled)) + self.beta * self.landscape.curvature(
            self.shift
        )
        return float(1 / np.abs(np.linalg.eigvalsh(matrix)).min())

    def along(self, nodes: int) -> tuple[Array, Array]:
        """ℋ(sb*) at the Gauss-Legendre nodes s of [0, 1], and the weights."""
        points, weights = np.polynomial.legendre.leggauss(nodes)
        matrices = [self.landscape.curvature((s + 1) / 2 * self.shift) for s in points]
        return np.array(matrices), weights / 2


def equilibrium(
    landscape: Landscape,
    beta: float,
    start: Array | None = None,
    nearby: bool = False,
) -> Equilibrium:
    """The critical point that descent from `start` (the feed-forward pass) leads to.

    beta > 0: E is minimised by Newton's method with negative curvature turned round,
    then the equation is solved to rounding. beta may be zero or negative: then, and
    with nearby=True, by Newton's method alone, from λ = δ or from `start`.
    """
    b = np.zeros(landscape.size) if start is None else start
    if beta > 0 and not nearby:
        b = _descend(landscape, beta, b)
    scaled = -b / beta if beta and b.any() else landscape.adjoint(b)
    return _polish(landscape, beta, scaled)


def _descend(landscape: Landscape, beta: float, b: Array) -> Array:
    """Minimise E until Newton's own steps take over."""

    def energy(b: Array) -> float:
        return float(b @ b) / 2 + beta * landscape.at(b)

    now = energy(b)
    for _ in range(_DESCENT):
        gradient, curvature = landscape.both(b)
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
    return b


def _polish(landscape: Landscape, beta: float, scaled: Array) -> Equilibrium:
    """Newton's method on λ - ∇ℓ̄(-βλ) = 0."""
    best, least = scaled, np.inf
    for _ in range(_POLISH):
        gradient, curvature = landscape.both(-beta * scaled)
        off = scaled - gradient
        residual = float(np.linalg.norm(off))
        done = not residual < least / 2
        if residual < least:
            best, least = scaled, residual
        if done or residual == 0:
            break
        matrix = np.eye(len(scaled)) + beta * curvature
        scaled = scaled - np.linalg.solve(matrix, off)
    return Equilibrium(landscape, beta, best, least)
