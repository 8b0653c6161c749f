"""Closed forms: what the theorems predict.

Each function is one formula of the book and names the statement that it belongs to.
Nothing here knows the rules or the graphs of this package: numbers in, numbers out, so
that theory and implementation can check each other.

Words used throughout. n: steps done. eta: step size η. distance d: number of edges on a
path from a vertex to the loss; a parent of the loss has 1. M: the transposed Jacobian
Aᵀ of all predictions at the feed-forward pass, N × N; g: the loss's own gradient there,
N; both with the vertices in topological order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Parents = Mapping[str, Sequence[str]]

# ---- adjoints and paths --------------------------------------------------------------


def path_parts(M: Array, g: Array) -> Array:
    """The rows δ⁽ʲ⁾ = Mʲ⁻¹g, j = 1..K: what arrives along paths of exactly j edges.

    Shapes: M (N, N), g (N,), result (K, N), where K is the longest such path. Their sum
    is the adjoint δ = Σⱼ δ⁽ʲ⁾. Label: `adjoint-recursion`.

    >>> M = np.array([[0.0, 2.0], [0.0, 0.0]])  # vertex 0 feeds vertex 1
    >>> path_parts(M, np.array([1.0, 3.0]))  # both feed the loss
    array([[1., 3.],
           [6., 0.]])
    """
    parts: list[Array] = []
    part = np.asarray(g, dtype=float)
    while part.any():
        if len(parts) == len(g):
            raise ValueError("M is not nilpotent: the graph behind it has a cycle")
        parts.append(part)
        part = M @ part
    return np.array(parts).reshape(len(parts), len(g))


def distances(
    parents: Parents, loss_parents: Iterable[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """(d_min, d_max): edges on the shortest and the longest path to the loss.

    parents: {vertex: its parents} in topological order. A vertex without a path to the
    loss has no entry. Label: `fp-finite-termination`.

    >>> distances({"a": [], "b": ["a"], "dead": ["b"]}, loss_parents=["a", "b"])
    ({'b': 1, 'a': 1}, {'b': 1, 'a': 2})
    """
    d_min = dict.fromkeys(loss_parents, 1)
    d_max = dict(d_min)
    for child in reversed(list(parents)):
        if child not in d_min:
            continue
        for i in parents[child]:
            d_min[i] = min(d_min.get(i, len(parents)), d_min[child] + 1)
            d_max[i] = max(d_max.get(i, 0), d_max[child] + 1)
    order = [i for i in reversed(list(parents)) if i in d_min]
    return {i: d_min[i] for i in order}, {i: d_max[i] for i in order}


def rounds_needed(parents: Parents, loss_parents: Iterable[str]) -> dict[str, int]:
    """The first round in which a vertex can know anything about the label.

    One, plus the distance to the nearest parent of the loss along edges in either
    direction. Label: `fp-no-faster-local-scheme`.

    >>> rounds_needed({"a": [], "b": ["a"], "c": ["b"]}, loss_parents=["c"])
    {'c': 1, 'b': 2, 'a': 3}
    """
    neighbours: dict[str, set[str]] = {i: set() for i in parents}
    for child, above in parents.items():
        for i in above:
            neighbours[i].add(child)
            neighbours[child].add(i)
    rounds = dict.fromkeys(loss_parents, 1)
    reached = list(rounds)
    for i in reached:  # grows while it is read: breadth first
        for j in sorted(neighbours[i] - rounds.keys()):
            rounds[j] = rounds[i] + 1
            reached.append(j)
    return rounds


# ---- how much of δ has arrived -------------------------------------------------------


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


# ---- arrival in continuous time ------------------------------------------------------


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


# ---- beyond unit step ----------------------------------------------------------------


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


# ---- floating point ------------------------------------------------------------------


def gamma(roundings: int, unit: float) -> float:
    """γₖ = ku/(1 - ku): the relative error that k roundings may leave behind.

    unit: the unit roundoff u, 2⁻²⁴ in float32. Label: `value-form-cancellation`.

    >>> gamma(3, unit=0.01)
    0.030927835051546393
    """
    return roundings * unit / (1 - roundings * unit)


def half_gap(v: NDArray[np.floating]) -> NDArray[np.floating]:
    """Half the distance from v to its nearer neighbour; a smaller increment is lost.

    Same shape and type as v. Label: `value-form-cancellation`.

    >>> v = np.float32([1.0, 1.5])
    >>> bool((v + np.float32(0.99) * half_gap(v) == v).all())
    True
    """
    away = np.abs(v)
    return (away - np.nextafter(away, v.dtype.type(-np.inf))) / v.dtype.type(2)


def plateau(
    M: Array, g: Array, values: NDArray[np.floating], errors: Array, eta: float
) -> Array:
    """How far from δ the value form may end: (I - |M|)⁻¹(ulp(v)/2η + roundings).

    M (N, N) and g (N,) hold numbers of the type of `values` (cycle, N), the states in
    which the iteration ends (one if it stops); errors (cycle, N) are v̂ - v there;
    0 < η ≤ 1. ulp is the larger gap next to v; the second term, of the size of ε rather
    than v, is what computing ε - Mε - g in that type may lose.
    Label: `value-form-cancellation`.

    >>> zero = np.zeros((1, 1))
    >>> plateau(zero, zero[0], np.float32([[1.0]]), zero, eta=0.5)
    array([1.1920929e-07])
    """
    unit = float(np.finfo(values.dtype).eps) / 2
    magnitudes, ends = np.abs(M), np.abs(errors).max(0)
    ulp = np.spacing(np.abs(values).max(0)).astype(float)
    roundings = gamma(len(g) + 4, unit) * (ends + magnitudes @ ends + np.abs(g))
    return np.linalg.solve(np.eye(len(g)) - magnitudes, ulp / (2 * eta) + roundings)


# ---- cuts ----------------------------------------------------------------------------


def eliminate(
    M: Array, g: Array, kept: Sequence[int] | NDArray[np.intp]
) -> tuple[Array, Array]:
    """(M, g) of the coarser cut that keeps these rows and composes all others away.

    I - M on the kept rows becomes the Schur complement of what is left out. Shapes: M
    (N, N), g (N,), results (n, n) and (n,) for n kept rows. Label: `cut-adjoints`.

    >>> M = np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 5.0], [0.0, 0.0, 0.0]])
    >>> eliminate(M, np.array([0.0, 1.0, 1.0]), [0, 2])  # the chain 0, 1, 2 without 1
    (array([[ 0., 10.],
           [ 0.,  0.]]), array([2., 1.]))
    """
    inside = np.zeros(len(g), dtype=bool)
    inside[kept] = True
    C, U = np.flatnonzero(inside), np.flatnonzero(~inside)
    through = np.linalg.inv(np.eye(len(U)) - M[np.ix_(U, U)])
    across = M[np.ix_(C, U)] @ through
    return M[np.ix_(C, C)] + across @ M[np.ix_(U, C)], g[C] + across @ g[U]


# ---- any graph -----------------------------------------------------------------------


def moral_distances(parents: Parents, loss_parents: Iterable[str]) -> dict[str, int]:
    """Distance to the loss in the moral graph: no value moves before that step.

    Parent and child are joined, and so are two parents of one child; the parents of the
    loss have 1. parents: {vertex: its parents}. Label: `light-cone`.

    >>> moral_distances({"a": [], "b": [], "c": ["a", "b"], "d": ["c"]}, ["b", "d"])
    {'b': 1, 'd': 1, 'a': 2, 'c': 2}
    """
    families = [{child, *above} for child, above in parents.items()]
    order = list(parents)
    found = {i: 1 for i in order if i in set(loss_parents)}
    reached = list(found)
    for i in reached:  # grows while it is read: breadth first
        near = set().union(*(family for family in families if i in family))
        for j in sorted(near - found.keys(), key=order.index):
            found[j] = found[i] + 1
            reached.append(j)
    return found


def delays(
    parents: Parents, loss_parents: Iterable[str], levels: Mapping[str, int]
) -> dict[tuple[str, str], int]:
    """Identity vertices that each edge needs, {(vertex, child): level difference - 1}.

    The loss has level 0; its name here is "loss". One line of copies per vertex serves
    all of its children: it is as long as the largest number. Label: `identity-count`.

    >>> delays({"a": [], "b": ["a"]}, ["a", "b"], {"a": 2, "b": 1})
    {('a', 'b'): 0, ('a', 'loss'): 1, ('b', 'loss'): 0}
    """
    edges = [(j, c) for c, above in parents.items() for j in above]
    edges += [(j, "loss") for j in loss_parents]
    return {(j, c): levels[j] - levels.get(c, 0) - 1 for j, c in edges}


# ---- inference with unit steps -------------------------------------------------------


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

    (‖r‖²/2L)·(1 + Σ (1 + cos φ)(2cos φ - 1)²ᵗ), φ = jπ/L, j = 1..L - 1, where squared =
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


# ---- equilibria ----------------------------------------------------------------------


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
