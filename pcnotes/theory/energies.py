"""Equilibria, and energies on the way to them or away from them."""

from __future__ import annotations

import math

import numpy as np

from .arrays import Array


def nudge_bound(beta: float, upward: float, downward: float) -> float:
    """The largest ‖ε*/β - δ‖/‖δ‖: max(βΛ/(1 + βΛ), βm/(1 - βm)).

    upward, downward: Λ, m ≥ 0 with -mI ⪯ C̄ ⪯ ΛI; needs β ≥ 0; infinite if βm ≥ 1.
    Only curvature downwards limits β. Label: `nudge-identity`.

    >>> nudge_bound(1.0, upward=3.0, downward=0.0)
    0.75
    >>> nudge_bound(0.5, upward=0.0, downward=1.0)
    1.0
    """
    up = beta * upward / (1 + beta * upward)
    if beta * downward >= 1:
        return math.inf
    return max(up, beta * downward / (1 - beta * downward))


def linear_residual(A: Array, r: Array, beta: float) -> Array:
    """S⁻¹r with S = I + βAAᵀ: the residual of a linear network at equilibrium.

    Shapes: A (outputs, N), the outputs' answer to shifts of N hidden numbers; r
    (outputs,), the residual ŷ - y of the feed-forward pass. Label: `linear-exact`.

    >>> linear_residual(np.array([[1.0]]), np.array([2.0]), beta=1.0)
    array([1.])
    """
    return np.asarray(np.linalg.solve(np.eye(len(r)) + beta * A @ A.T, r), float)


def linear_equilibrium(A: Array, r: Array, beta: float) -> tuple[Array, float]:
    """(ε*/β, F_β) = (AᵀS⁻¹r, ½rᵀS⁻¹r) of a linear network with the loss ½‖h - y‖².

    Arguments as for `linear_residual`; β = 0 gives δ = Aᵀr and the loss.
    Label: `linear-exact`.

    >>> linear_equilibrium(np.array([[1.0]]), np.array([2.0]), beta=1.0)
    (array([1.]), 1.0)
    """
    residual = linear_residual(A, r, beta)
    return A.T @ residual, float(r @ residual) / 2


def descent_energies(
    H: Array, g: Array, start: float, step: float, count: int
) -> Array:
    """E after 0, 1, …, count steps down a quadratic energy, from where its slope is g.

    E* + ½Σ (1 - γλ)²ᵗ(uᵀg)²/λ over the eigenpairs (λ, u) of H (N, N), which must be
    positive definite; start is E(v(0)), and E* = start - ½Σ (uᵀg)²/λ.
    Label: `unit-step-unstable`.

    >>> descent_energies(np.diag([1.0, 3.0]), np.array([1.0, 3.0]), 2.0, 1.0, 2)
    array([ 2.,  6., 24.])
    """
    eigenvalues, vectors = np.linalg.eigh(H)
    weights = (vectors.T @ g) ** 2 / (2 * eigenvalues)
    t = np.arange(count + 1)[:, None]
    energies: Array = (
        start - weights.sum() + (1 - step * eigenvalues) ** (2 * t) @ weights
    )
    return energies


def orthogonal_chain_energy(t: int, layers: int, squared: float = 1.0) -> float:
    """E after t unit steps in a linear chain of L layers with orthogonal weights.

    (‖r‖²/2L)·(1 + Σ (1 + cos ϑ)(2cos ϑ - 1)²ᵗ), ϑ = jπ/L, j = 1..L - 1, where squared =
    ‖r‖² is the squared residual of the feed-forward pass, and the loss half of it.
    Label: `zil-orthogonal-chain`.

    >>> orthogonal_chain_energy(0, layers=5)
    0.5
    >>> [round(orthogonal_chain_energy(t, layers=3), 12) for t in (1, 2, 3)]
    [0.5, 1.5, 5.5]
    """
    cosines = [math.cos(math.pi * j / layers) for j in range(1, layers)]
    terms = ((1 + c) * (2 * c - 1) ** (2 * t) for c in cosines)
    return squared / (2 * layers) * (1 + math.fsum(terms))
