"""Closed forms against exact rational arithmetic, enumeration and brute force."""

from __future__ import annotations

import ast
import itertools
import math
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcnotes import theory

probabilities = st.lists(st.floats(0, 1), min_size=0, max_size=7)
real_steps = st.lists(st.floats(-1, 3), min_size=0, max_size=8)
distances = st.integers(0, 8)
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def exact_tail(steps: list[float], distance: int) -> Fraction:
    """The polynomial Π(1 - η + ηz), multiplied out in rationals."""
    counts = [Fraction(1)]
    for eta in map(Fraction, steps):
        longer = [(1 - eta) * c for c in counts] + [Fraction(0)]
        for k, c in enumerate(counts):
            longer[k + 1] += eta * c
        counts = longer
    return sum(counts[distance:], Fraction(0))


def growth(steps: list[float]) -> float:
    return math.prod(abs(1 - eta) + abs(eta) for eta in steps)


# ---- shares --------------------------------------------------------------------------


@quick
@given(probabilities, distances)
def test_arrived_counts_successes(steps: list[float], distance: int) -> None:
    outcomes = itertools.product([0, 1], repeat=len(steps))
    chance = math.fsum(
        math.prod(p if hit else 1 - p for p, hit in zip(steps, o, strict=True))
        for o in outcomes
        if sum(o) >= distance
    )
    assert theory.arrived(steps, distance) == pytest.approx(chance, abs=1e-14)


@quick
@given(real_steps, distances)
def test_arrived_is_the_polynomial_for_any_steps(
    steps: list[float], distance: int
) -> None:
    off = abs(Fraction(theory.arrived(steps, distance)) - exact_tail(steps, distance))
    assert off <= 1e-14 * growth(steps)


@quick
@given(st.integers(0, 20), st.floats(-1, 3), distances)
def test_binomial_tail(n: int, eta: float, distance: int) -> None:
    exact = exact_tail([eta] * n, distance)
    off = abs(Fraction(theory.binomial_tail(n, eta, distance)) - exact)
    assert off <= 1e-14 * growth([eta] * n)


@quick
@given(st.integers(1, 30), st.data(), st.floats(0, 1))
def test_binomial_tail_is_an_incomplete_beta_function(
    n: int, data: st.DataObject, eta: float
) -> None:
    d = data.draw(st.integers(1, n))
    tail = theory.binomial_tail(n, eta, d)
    assert theory.incomplete_beta(d, n - d + 1, eta) == pytest.approx(tail, abs=1e-13)


@quick
@given(st.integers(0, 40), st.floats(0.01, 1.99), st.integers(0, 12))
def test_remaining_keeps_its_digits(n: int, eta: float, distance: int) -> None:
    exact = 1 - exact_tail([eta] * n, distance)
    found = theory.remaining(n, eta, distance)
    # 1 - η is rounded once, which counts up to n times; below that, underflow.
    assert abs(Fraction(found) - exact) <= abs(exact) * Fraction(1e-12) + 10**-300


@quick
@given(st.integers(0, 8), st.floats(0, 1), st.integers(0, 8))
def test_gauss_seidel_tail_counts_failures(n: int, eta: float, d: int) -> None:
    """1 - P[fewer than d successes before the n-th failure], term by term."""
    fewer = math.fsum(
        math.comb(n + k - 1, k) * (1 - eta) ** n * eta**k for k in range(d) if n
    )
    expected = 1 - fewer if n else float(d <= 0)
    assert theory.gauss_seidel_tail(n, eta, d) == pytest.approx(expected, abs=1e-13)


def test_steps_needed_is_the_first() -> None:
    for eta, distance in itertools.product([0.1, 0.37, 0.9, 1.0], [1, 4, 9]):
        n = theory.steps_needed(0.01, eta, distance)
        assert theory.remaining(n, eta, distance) <= 0.01
        assert theory.remaining(n - 1, eta, distance) > 0.01


def test_steps_needed_of_a_deep_network() -> None:
    assert [theory.steps_needed(0.01, 0.1, d) for d in (1, 4, 9, 19, 49)] == [
        *(44, 97, 170, 300, 658)
    ]


@pytest.mark.parametrize(
    ("tolerance", "eta"), [(0.01, 0.0), (0.01, 1.5), (0.01, math.nan), (0.0, 0.5)]
)
def test_steps_needed_refuses_what_never_ends(tolerance: float, eta: float) -> None:
    with pytest.raises(ValueError, match="must be in"):
        theory.steps_needed(tolerance, eta, 3)


# ---- time ----------------------------------------------------------------------------


@quick
@given(st.integers(1, 12), st.floats(0.01, 30))
def test_erlang_tail_is_a_poisson_tail(d: int, tau: float) -> None:
    late = math.fsum(
        math.exp(-tau + k * math.log(tau) - math.lgamma(k + 1)) for k in range(d, 200)
    )
    assert theory.erlang_tail(d, tau) == pytest.approx(late, abs=1e-12)


@quick
@given(st.integers(1, 200), st.floats(0.001, 1), st.integers(1, 10))
def test_arrival_bound(n: int, eta: float, d: int) -> None:
    off = theory.binomial_tail(n, eta, d) - theory.erlang_tail(d, eta * n)
    assert abs(off) <= theory.arrival_bound(eta, eta * n) + 1e-12


def test_arrival_bound_is_sharp_for_short_times() -> None:
    off = theory.erlang_tail(1, 0.01) - theory.binomial_tail(1, 0.01, 1)
    assert abs(off) > 0.99 * theory.arrival_bound(0.01, 0.01)


def test_arrival_moments() -> None:
    eta, d = 0.6, 4
    t = np.arange(200)
    chance = -np.diff([theory.remaining(n, eta, d) for n in range(201)])
    mean = float(((t + 1) * chance).sum())
    second = float(((t + 1) ** 2 * chance).sum())
    expected, deviation = theory.arrival_moments(eta, d)
    assert mean == pytest.approx(expected, rel=1e-12)
    assert second - mean**2 == pytest.approx(deviation**2, rel=1e-11)


# ---- beyond unit step ----------------------------------------------------------------


@pytest.mark.parametrize("eta", [1.01, 1.2, 1.5, 1.9])
@pytest.mark.parametrize("d", [1, 2, 5, 12])
def test_transient_between_floor_and_bound(eta: float, d: int) -> None:
    steps = range(d + math.ceil(2 * d / (2 - eta)))
    heights = [abs(theory.remaining(n, eta, d)) for n in steps]
    assert theory.transient_floor(eta, d) <= max(heights)
    assert max(heights) <= theory.transient_bound(eta, d) * (1 + 1e-13)
    for n, height in zip(steps, heights, strict=True):
        if n >= d:  # bounds on the integral that `remaining` is
            unit = eta ** (d - 1) * (eta - 1) ** (n - d + 1)
            assert math.comb(n - 1, d - 1) * unit <= height * (1 + 1e-12)
            assert height <= math.comb(n, d - 1) * unit * (1 + 1e-12)


def test_growth_per_edge_is_exact() -> None:
    """The d-th root of floor / bound tends to one: both grow by η/(2 - η) an edge."""
    roots = []
    for d in (10, 100, 300):
        floor, bound = theory.transient_floor(1.5, d), theory.transient_bound(1.5, d)
        roots.append((floor / bound) ** (1 / d))
    assert roots == sorted(roots)
    assert roots[-1] > 0.98


# ---- graphs --------------------------------------------------------------------------

WIRING = {"a": (), "b": ("a",), "c": ("a", "b"), "d": ("c",), "dead": ("b", "d")}


def paths(i: str, loss_parents: set[str]) -> list[int]:
    """The lengths of all paths from a vertex to the loss, one by one."""
    below = [child for child, above in WIRING.items() if i in above]
    longer = [1 + length for c in below for length in paths(c, loss_parents)]
    return longer + ([1] if i in loss_parents else [])


@pytest.mark.parametrize("loss_parents", [{"d"}, {"b", "d"}, {"a"}, set("abcd")])
def test_distances_enumerate_paths(loss_parents: set[str]) -> None:
    d_min, d_max = theory.distances(WIRING, sorted(loss_parents))
    lengths = {i: paths(i, loss_parents) for i in WIRING}
    assert d_min == {i: min(n) for i, n in lengths.items() if n}
    assert d_max == {i: max(n) for i, n in lengths.items() if n}
    assert "dead" not in d_min


def test_rounds_needed_go_both_ways() -> None:
    assert theory.rounds_needed(WIRING, ["dead"]) == {
        **{"dead": 1, "b": 2, "d": 2, "a": 3, "c": 3}
    }


def test_path_parts_of_a_random_graph() -> None:
    M = np.triu(np.random.default_rng(0).normal(size=(5, 5)), 1)
    g = np.arange(5.0)
    parts = theory.path_parts(M, g)
    assert len(parts) == 5
    assert np.allclose(parts.sum(0), np.linalg.solve(np.eye(5) - M, g), rtol=1e-13)
    assert theory.path_parts(M, 0 * g).shape == (0, 5)


def test_path_parts_refuse_a_cycle() -> None:
    with pytest.raises(ValueError, match="cycle"):
        theory.path_parts(np.array([[0.0, 1.0], [1.0, 0.0]]), np.ones(2))


# ---- floating point ------------------------------------------------------------------


@given(st.floats(2.0**-60, 2.0**60, width=32))
@quick
def test_half_gap_is_where_rounding_starts_to_move(v: float) -> None:
    x = np.float32(v)
    a = theory.half_gap(np.array([x]))[0]
    inside = np.nextafter(a, np.float32(0))
    assert x + inside == x
    assert x - inside == x
    assert x - np.float32(1.001) * a < x or x - np.float32(2) * a < x


def test_plateau_of_one_vertex_is_half_an_ulp_over_eta() -> None:
    none = np.zeros((1, 1))
    found = theory.plateau(none, none[0], np.float32([[3.0]]), none, eta=0.25)
    assert found[0] == np.spacing(np.float32(3)) / 0.5


# ---- the module itself ---------------------------------------------------------------


def test_every_public_function_has_an_example() -> None:
    functions = [f for f in vars(theory).values() if callable(f)]
    public = [f for f in functions if f.__module__ == "pcnotes.theory"]
    for function in (f for f in public if not f.__name__.startswith("_")):
        assert ">>>" in (function.__doc__ or ""), function
        assert "Label: `" in (function.__doc__ or ""), function


def test_theory_knows_nothing_of_the_implementation() -> None:
    sources = sorted(Path(theory.__file__).parent.glob("*.py"))
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sources]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""] if node.level == 0 else []
            assert node.level < 2, "nothing from outside of the folder"
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            root = name.partition(".")[0]
            assert root == "numpy" or root in sys.stdlib_module_names


def test_tails_beyond_unit_step_against_exact_fractions() -> None:
    eta = Fraction(39, 20)
    for n, d in [(8, 3), (60, 1), (60, 4), (60, 10), (200, 6)]:
        terms = (math.comb(n, k) * eta**k * (1 - eta) ** (n - k) for k in range(d))
        exact = float(1 - sum(terms))
        for tail in (
            theory.binomial_tail(n, float(eta), d),
            theory.arrived([float(eta)] * n, d),
        ):
            assert tail == pytest.approx(exact, rel=1e-11)
