"""Claims about Z-IL on a graph as it is, without identity vertices."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

from ... import theory
from ..draw import Draw
from ..instances import Instance
from ..measuring import exactly, near, states
from ..networks import any_network, chain, curved, furnished, tame
from ..registry import Measurement, claim, worst
from ..vertices import Wiring
from .ages import Aged, drawn, live
from .whole import Weights, linear_network, of_one_sign, sideways


@claim(instances="random graphs and ages", quantity="relative error")
def naive_z_il_criterion(draw: Draw) -> Measurement:
    """Z-IL without identity vertices is right at the clear vertices, and at no other.

    Clear vertices: at step d_max, ages live or random, any network, against autograd.
    The others, and all at other steps: linear networks in exact arithmetic, off by the
    formula's whole number; from d_max on with weights of one sign, before it on a
    longest path alone.
    """
    case = tame(any_network(draw))
    edges, ends = case.edges, case.loss_parents
    clear = theory.clear(edges, ends)
    wiring, read = sideways(draw)
    weights = of_one_sign(draw, wiring, read)
    return worst(
        _right_at(case, clear, draw, still=True),
        exactly(float((len(clear) == len(edges)) != _graded(case))),
        _off_by_the_formula(edges, ends, of_one_sign(draw, edges, ends), clear),
        _off_by_the_formula(wiring, read, weights, theory.clear(wiring, read)),
        _too_early(case),
    )


def _graded(case: Instance) -> bool:
    d_min, d_max = case.distances
    return d_min == d_max


def _right_at(
    case: Instance, vertices: Collection[str], draw: Draw, still: bool = False
) -> Measurement:
    """ε_i at step d_max against autograd's δ_i; the others are not looked at.

    still: also that the parents are at v̂ at that step.
    """
    level = case.distances[1]
    measured = []
    for age in (live, drawn(draw, fresh=2)) if still else (live,):
        rule = Aged(age, case.depth)
        found = states(case, rule)
        at_level = {i: found[level[i]][i] for i in vertices}
        measured.append(near(case, {**case.delta, **at_level}, case.delta))
        parents = [(level[i], j) for i in vertices for j in case.edges[i]]
        moved = sum(bool(rule.u[t][j].any()) for t, j in parents)
        measured.append(exactly(float(moved * still)))
    return worst(*measured)


def _off_by_the_formula(
    edges: Wiring, ends: Sequence[str], weights: Weights, clear: Collection[str]
) -> Measurement:
    """ε_i(n) - δ_i, n ≥ d_max: a number that is zero exactly where it should be."""
    case = linear_network(edges, ends, weights)
    level, last = case.distances[1], case.depth + 1
    found = states(case, Aged(live, last))
    extra = _terms(case, last)
    wrong = 0
    for k, i in enumerate(case.hidden):
        alone = not edges[i] and not case.children[i]
        for n in range(level[i], last + 1):
            off = float(found[n][i] - case.delta[i])
            right = alone or (i in clear and n == level[i])
            wrong += off != (-1) ** (n - 1) * extra[n][k] or (off == 0) != right
    return exactly(float(wrong))


def _terms(case: Instance, last: int) -> list[list[int]]:
    """Σ |M|ⁿ⁻¹⁻ᵗ|J||I - H|ᵗg, t < n, for n = 0..last, counted in whole numbers."""
    size = range(len(case.hidden))
    M = [[abs(int(m)) for m in row] for row in case.linear.M]
    g = [int(x) for x in case.linear.g]

    def up(x: Sequence[int]) -> list[int]:
        return [sum(M[i][c] * x[c] for c in size) for i in size]

    def down(x: Sequence[int]) -> list[int]:
        return [sum(M[j][i] * x[j] for j in size) for i in size]

    found, moved = [[0] * len(g)], g
    for _ in range(last):
        pushed = down(moved)
        found.append([a + b for a, b in zip(up(found[-1]), pushed, strict=True)])
        both = zip(pushed, up(moved), up(pushed), strict=True)
        moved = [sum(terms) for terms in both]
    return found


def _too_early(case: Instance) -> Measurement:
    """Before step d_max on a longest path alone: ε = 0, but δ is not."""
    d_max = case.distances[1]
    path = [max(case.hidden, key=lambda i: d_max[i])]
    while d_max[path[-1]] > 1:
        below = case.children[path[-1]]
        path.append(next(c for c in below if d_max[c] == d_max[path[-1]] - 1))
    used = {*pairwise(path), (path[-1], "loss")}
    every = [(j, c) for c, above in case.edges.items() for j in above]
    every += [(j, "loss") for j in case.loss_parents]
    weights = {edge: float(edge in used) for edge in every}
    thin = linear_network(case.edges, case.loss_parents, weights)
    found = states(thin, Aged(live, case.depth))
    wrong = [bool(found[n][i]) for i in path for n in range(d_max[i])]
    wrong += [float(thin.delta[i]) != 1 for i in path]
    return exactly(float(sum(wrong)))


@naive_z_il_criterion.control
def one_path_length_is_enough(draw: Draw) -> Measurement:
    """d_min = d_max alone: below a shortcut, vertices whose parent has moved."""
    case = _with_shortcut(draw)
    d_min, d_max = case.distances
    return _right_at(case, [i for i in d_min if d_min[i] == d_max[i]], draw)


@naive_z_il_criterion.control
def distances_along_edges(draw: Draw) -> Measurement:
    """d_min in place of the moral distance: a parent that moves forwards is missed."""
    case = _with_shortcut(draw)
    d_min, d_max = case.distances
    below, clear = True, []
    for c in reversed(case.hidden):
        below = below and all(d_min[p] == d_max[c] + 1 for p in case.edges[c])
        clear += [c] if below else []
    return _right_at(case, clear, draw)


def _with_shortcut(draw: Draw) -> Instance:
    """A curved chain whose first vertex feeds the loss too."""
    wiring = chain(draw.integer(4, 6))
    return curved(furnished(draw, wiring, ["v1", list(wiring)[-1]]))


@naive_z_il_criterion.control
def weights_that_cancel(draw: Draw) -> Measurement:
    """Two parents of the loss whose moves cancel in their child's prediction."""
    wiring: Wiring = {"v1": (), "v2": (), "v3": ("v1", "v2")}
    ends = ["v1", "v2", "v3"]
    a, b = draw.integer(1, 3), draw.integer(1, 3)
    weights: Weights = {
        **{("v1", "v3"): a, ("v1", "loss"): b},
        **{("v2", "v3"): -b, ("v2", "loss"): a},
        ("v3", "loss"): draw.integer(1, 3),
    }
    return _off_by_the_formula(wiring, ends, weights, theory.clear(wiring, ends))
