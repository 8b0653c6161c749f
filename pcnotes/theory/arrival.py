"""How much of δ has arrived after some steps of fixed prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from .arrays import Array


def arrived(steps: Sequence[float], distance: int) -> float:
    """The share of δ⁽ᵈ⁾ that has arrived: P[at least d of the steps succeed].

    Step t succeeds with probability ηₜ. For real ηₜ outside [0, 1] it is the same
    polynomial: the sum of cₖ, k ≥ d, where Πₜ(1 - ηₜ + ηₜz) = Σ cₖzᵏ.
    Label: `fp-varying-steps`.

    >>> arrived([0.5, 0.5], distance=1)
    0.75
    >>> arrived([1.0, 0.3, 1.0], distance=2)  # two unit steps deliver distance two
    1.0
    """
    counts, d = np.ones(1), max(distance, 0)
    for eta in steps:
        counts = np.convolve(counts, [1 - eta, eta])
    few, many = counts[:d], counts[d:]
    # Outside [0, 1] terms alternate: sum on the side where less is to cancel.
    fewer = np.abs(few).sum() < np.abs(many).sum()
    inside = all(0 <= eta <= 1 for eta in steps)
    return 1 - math.fsum(few) if fewer and not inside else math.fsum(many)


def binomial_tail(n: int, eta: float, distance: int) -> float:
    """The share of δ⁽ᵈ⁾ after n equal steps: P[Bin(n, η) ≥ d].

    A polynomial in η, so every real η is allowed. Label: `fp-closed-form`.

    >>> binomial_tail(3, 0.5, distance=2)
    0.5
    >>> binomial_tail(3, 1.5, distance=2)  # beyond unit steps shares may vanish
    0.0
    """
    if eta > 1:  # the terms of the sum would alternate and cancel
        return 1 - remaining(n, eta, distance)
    successes = range(max(distance, 0), n + 1)
    return math.fsum(math.comb(n, k) * eta**k * (1 - eta) ** (n - k) for k in successes)


def incomplete_beta(a: int, b: int, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b) for whole a, b ≥ 1, real x.

    P[Bin(n, η) ≥ d] = I_η(d, n - d + 1). The integrand is a polynomial, so that
    Gauss-Legendre quadrature is exact. Label: `fp-closed-form`.

    >>> round(incomplete_beta(2, 2, 0.5), 15)
    0.5
    """
    return a * math.comb(a + b - 1, a) * _beta_integral(a, b, 0.0, x)


def remaining(n: int, eta: float, distance: int) -> float:
    """The share of δ⁽ᵈ⁾ that has not arrived, 1 - P[Bin(n, η) ≥ d], to full precision.

    d·C(n, d)·∫ tᵈ⁻¹(1 - t)ⁿ⁻ᵈ dt from η to 1: for η > 0 the integrand has one sign, so
    nothing cancels, however far the transient swings. Label: `fp-stability`.

    >>> remaining(2, 0.5, distance=1)
    0.25
    >>> round(remaining(16, 1.5, distance=9))  # beyond unit step it grows first
    982
    """
    d = max(distance, 0)
    if n < d:
        return 1.0
    if d == 0:
        return 0.0
    return d * math.comb(n, d) * _beta_integral(d, n - d + 1, eta, 1.0)


def _beta_integral(a: int, b: int, low: float, high: float) -> float:
    """∫ tᵃ⁻¹(1 - t)ᵇ⁻¹ dt: a polynomial of degree a + b - 2."""
    nodes, weights = _gauss_legendre((a + b) // 2)
    half = (high - low) / 2
    t = low + half * (nodes + 1)
    rest = (1 - high) + half * (1 - nodes)  # 1 - t without cancellation near t = 1
    return float(half * np.sum(weights * t ** (a - 1) * rest ** (b - 1)))


@lru_cache(maxsize=256)
def _gauss_legendre(count: int) -> tuple[Array, Array]:
    """Nodes and weights on [-1, 1], exact up to degree 2·count - 1."""
    return np.polynomial.legendre.leggauss(count)


def gauss_seidel_tail(sweeps: int, eta: float, distance: int) -> float:
    """The share of δ⁽ᵈ⁾ after n sweeps from the loss with fresh children: I_η(d, n).

    P[at most n - 1 failures before the d-th success] = P[Bin(n + d - 1, η) ≥ d].
    Label: `fp-gauss-seidel`.

    >>> gauss_seidel_tail(1, 1.0, distance=7)  # one unit sweep is reverse mode
    1.0
    >>> gauss_seidel_tail(1, 0.5, distance=2)
    0.25
    """
    if distance <= 0:
        return 1.0
    return binomial_tail(sweeps + distance - 1, eta, distance) if sweeps else 0.0


def steps_needed(tolerance: float, eta: float, distance: int) -> int:
    """The first n with P[Bin(n, η) < d] ≤ tolerance, for 0 < η ≤ 1.

    The relative error of a vertex at that distance then stays below the tolerance,
    since it never grows for such η. Label: `fp-stability`.

    >>> [steps_needed(0.01, eta, distance=9) for eta in (0.1, 0.2, 0.5, 1.0)]
    [170, 83, 30, 9]
    """
    if not 0 < eta <= 1:
        raise ValueError(f"eta must be in (0, 1], got {eta}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be in (0, 1), got {tolerance}")
    n, fewer = 0, np.eye(1, max(distance, 0))[0]  # P[k successes], k < d
    while fewer.sum() > tolerance:
        fewer[1:] = (1 - eta) * fewer[1:] + eta * fewer[:-1]
        fewer[0] *= 1 - eta
        n += 1
    return n


def erlang_tail(distance: int, tau: float) -> float:
    """P(d, τ) = P[Poisson(τ) ≥ d]: the share that has arrived by τ = ηn as η → 0.

    Label: `fp-arrival-time`.

    >>> round(erlang_tail(1, math.log(2)), 15)
    0.5
    """
    before = (tau**k / math.factorial(k) for k in range(max(distance, 0)))
    return 1 - math.exp(-tau) * math.fsum(before)


def arrival_bound(eta: float, tau: float) -> float:
    """How far the binomial share at n = τ/η may be from the Erlang law, for any d.

    ητ/2: each toss differs from a Poisson variable of mean η by at most η²/2 in any
    tail. Needs 0 ≤ η ≤ 1. Label: `fp-arrival-time`.

    >>> arrival_bound(0.25, tau=1.0)
    0.125
    """
    return eta * tau / 2


def arrival_moments(eta: float, distance: int) -> tuple[float, float]:
    """Mean and standard deviation of the number of steps until δ⁽ᵈ⁾ arrives.

    d/η and √(d(1 - η))/η: the waiting time for the d-th success.
    Label: `fp-arrival-time`.

    >>> arrival_moments(0.5, distance=8)
    (16.0, 4.0)
    """
    return distance / eta, math.sqrt(distance * (1 - eta)) / eta


def transient_bound(eta: float, distance: int) -> float:
    """No |1 - P[Bin(n, η) ≥ d]| exceeds (η/(2 - η))ᵈ⁻¹, whatever n, for 1 ≤ η < 2.

    Label: `fp-stability`.

    >>> transient_bound(1.5, distance=3)
    9.0
    """
    return (eta / (2 - eta)) ** (distance - 1)


def transient_floor(eta: float, distance: int) -> float:
    """What some n exceeds: (η/(2 - η))ᵈ⁻¹·η/(4(2 - η) + 8√(2d(η - 1))).

    So the growth per edge, η/(2 - η), is exact up to a factor of order √d.
    Needs 1 < η < 2. Label: `fp-stability`.

    >>> peak = max(abs(remaining(n, 1.5, 9)) for n in range(60))
    >>> transient_floor(1.5, 9) < peak < transient_bound(1.5, 9)
    True
    """
    width = 4 * (2 - eta) + 8 * math.sqrt(2 * distance * (eta - 1))
    return eta / width * transient_bound(eta, distance)
