"""Drawn models as matrices: what theory says the rules must do, without pcnotes.

Jacobians come from autograd on the drawn wiring, everything after that is numpy. v: the
values of all vertices in one vector; A = ∂f/∂v, strictly lower triangular; g = ∂ℓ/∂v;
M = Aᵀ; ε = f(v) - v.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from dags import Dag
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


class Dense:
    """A model linearised at values of its vertices: by default the feed-forward pass.

    vertices: those with values; by default the hidden ones, so that outputs are part of
    the loss. The parameters, then the input if it requires grad, are one vector too:
    B = ∂f/∂θ, h = ∂ℓ/∂θ at fixed v.
    """

    def __init__(
        self,
        dag: Dag,
        values: Mapping[str, Tensor] | None = None,
        vertices: Sequence[str] | None = None,
    ) -> None:
        self.dag = dag
        self.vertices = dag.wiring.hidden if vertices is None else tuple(vertices)
        if values is None:
            values = dag.run()[0]
        self._values = {i: values[i].detach().requires_grad_() for i in self.vertices}
        self._predictions, self._loss = dag.run(self._values)
        self.v = self.stack(self._values)
        self.loss = float(self._loss.detach())

    @property
    def leaves(self) -> list[Tensor]:
        extra = [self.dag.x] if self.dag.x.requires_grad else []
        return [*self.dag.parameters(), *extra]

    def stack(self, tensors: Mapping[str, Tensor]) -> Array:
        """One vector of the vertices' tensors."""
        flat = [tensors[i].detach().flatten() for i in self.vertices]
        return torch.cat([torch.zeros(0, dtype=torch.float64), *flat]).numpy()

    def split(self, vector: Array) -> dict[str, Tensor]:
        """The vertices' tensors of one vector."""
        sizes = [self._values[i].numel() for i in self.vertices]
        pieces = torch.from_numpy(np.array(vector)).split(sizes) if sizes else ()
        return {
            i: piece.view(self._values[i].shape)
            for i, piece in zip(self.vertices, pieces, strict=True)
        }

    def _gradient(self, scalar: Tensor) -> tuple[Array, Array]:
        """∂scalar/∂v and ∂scalar/∂θ."""
        inputs = [*self._values.values(), *self.leaves]
        if not scalar.requires_grad:
            found = [torch.zeros_like(t) for t in inputs]
        else:
            found = torch.autograd.grad(
                scalar, inputs, retain_graph=True, materialize_grads=True
            )
        flat = torch.cat([f.flatten() for f in found]).numpy()
        return flat[: len(self.v)], flat[len(self.v) :]

    @cached_property
    def _rows(self) -> tuple[Array, Array]:
        entries = [e for i in self.vertices for e in self._predictions[i].flatten()]
        pairs = [self._gradient(e) for e in entries]
        n, p = len(self.v), sum(t.numel() for t in self.leaves)
        A = np.array([a for a, _ in pairs]).reshape(n, n)
        return A, np.array([b for _, b in pairs]).reshape(n, p)

    @property
    def jacobian(self) -> Array:
        return self._rows[0]

    @property
    def parameter_jacobian(self) -> Array:
        return self._rows[1]

    @cached_property
    def _loss_gradients(self) -> tuple[Array, Array]:
        return self._gradient(self._loss)

    @property
    def g(self) -> Array:
        return self._loss_gradients[0]

    @property
    def h(self) -> Array:
        return self._loss_gradients[1]

    @cached_property
    def curvature(self) -> Array:
        """∂²ℓ/∂v²."""
        if not self._values:
            return np.zeros((0, 0))
        leaves = list(self._values.values())
        first = torch.autograd.grad(
            self._loss, leaves, create_graph=True, materialize_grads=True
        )
        rows = [self._gradient(e)[0] for t in first for e in t.flatten()]
        return np.array(rows).reshape(len(self.v), len(self.v))

    # What theory says.

    @cached_property
    def delta(self) -> Array:
        """δ: the adjoint, (I - M)⁻¹g."""
        return np.linalg.solve(np.eye(len(self.v)) - self.jacobian.T, self.g)

    @cached_property
    def parts(self) -> list[Array]:
        """δ⁽ʲ⁾ = Mʲ⁻¹g: what came along paths of exactly j edges, j = 1..K."""
        found = [self.g]
        for _ in range(self.dag.wiring.depth - 1):
            found.append(self.jacobian.T @ found[-1])
        return found

    def parameters(self, errors: Array) -> Array:
        """h + Bᵀε: the parameters' gradient that these errors give."""
        return self.h + self.parameter_jacobian.T @ errors

    def arrived(self, steps: Sequence[float]) -> Array:
        """Σⱼ P[at least j of the steps succeed]·δ⁽ʲ⁾."""
        counts = np.ones(1)
        for eta in steps:
            counts = np.convolve(counts, [1 - eta, eta])
        tails = [math.fsum(counts[j:]) for j in range(1, len(self.parts) + 1)]
        pairs = zip(tails, self.parts, strict=True)
        return sum((t * part for t, part in pairs), np.zeros_like(self.v))

    @cached_property
    def energy_hessian(self) -> Array:
        """∂²E/∂v² at β = 1 without the loss's part: (A - I)ᵀ(A - I)."""
        down = self.jacobian - np.eye(len(self.v))
        return down.T @ down

    def descent(self, gamma: float, steps: int, beta: float) -> Iterator[Array]:
        """u(n) = v(n) - v̂ of gradient descent on E_β: affine f, quadratic ℓ."""
        u = np.zeros_like(self.v)
        yield u
        for _ in range(steps):
            u = u - gamma * (
                self.energy_hessian @ u + beta * (self.g + self.curvature @ u)
            )
            yield u

    def energy(self, u: Array, beta: float) -> tuple[float, float]:
        """(E_β, ℓ) at v̂ + u: affine f, quadratic ℓ."""
        loss = self.loss + self.g @ u + u @ self.curvature @ u / 2
        return u @ self.energy_hessian @ u / 2 + beta * loss, loss

    def errors(self, u: Array) -> Array:
        """ε at v̂ + u: affine f."""
        return (self.jacobian - np.eye(len(u))) @ u

    def equilibrium(self, beta: float) -> Array:
        """u* = v* - v̂: affine f, quadratic ℓ."""
        return -np.linalg.solve(
            self.energy_hessian + beta * self.curvature, beta * self.g
        )

    def error_descent(self, rate: float, steps: int, beta: float) -> Iterator[Array]:
        """ε ← (1 - λ)ε + λβδ(ε), with δ(ε) the adjoint of the network shifted by -ε."""
        eps = np.zeros_like(self.v)
        yield eps
        down = np.eye(len(self.v)) - self.jacobian
        for _ in range(steps):
            u = -np.linalg.solve(down, eps)
            delta = np.linalg.solve(down.T, self.g + self.curvature @ u)
            eps = (1 - rate) * eps + rate * beta * delta
            yield eps

    def slack(self, roundings: int, unit: float) -> Array:
        """How far two orders of summation may carry the parameters' gradients apart.

        Per parameter: 2γₖ·(|h| + |B|ᵀ(I - |M|)⁻¹|g|). Both are the same sums of
        products over paths, whose absolute values add up to the bracket; k counts the
        roundings on the longest path.
        """
        down = np.eye(len(self.v)) - np.abs(self.jacobian).T
        size = np.abs(self.parameter_jacobian).T @ np.linalg.solve(down, np.abs(self.g))
        gamma = roundings * unit / (1 - roundings * unit)
        return 2 * gamma * (np.abs(self.h) + size)
