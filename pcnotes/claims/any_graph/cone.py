"""Claims about who moves when: graded graphs, and the light cone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ... import theory
from ..draw import Draw
from ..instances import Instance
from ..measuring import all_states, cut_graph, exactly
from ..networks import any_network, chain, curved, furnished, tame
from ..registry import Measurement, claim
from ..vertices import Wiring
from .ages import Age, Aged, drawn, live

# ---- graded graphs -------------------------------------------------------------------


@claim(instances="random graphs, in levels or not", quantity="share of disagreement")
def graded_levels(draw: Draw) -> Measurement:
    """Six ways to say that a graph is graded agree on every graph.

    One path length per vertex; d_min = d_max; levels that fall by one along each edge;
    no undirected cycle that slips; d_mor = d_max; and what the package says.
    """
    case = any_network(draw)
    told = cut_graph(case).graded
    return exactly(_disagreement([*_gradings(case.edges, case.loss_parents), told]))


def _gradings(edges: Wiring, loss_parents: Sequence[str]) -> list[bool]:
    d_min, d_max = theory.distances(edges, loss_parents)
    reaching = {c: [j for j in above if j in d_max] for c, above in edges.items()}
    lengths: dict[str, set[int]] = {}  # of all paths to the loss, by walking them
    for i in reversed(list(edges)):
        below = [c for c, above in reaching.items() if i in above]
        lengths[i] = {n + 1 for c in below for n in lengths[c]}
        lengths[i] |= {1} if i in loss_parents else set()
    pairs = [(j, c) for c, above in edges.items() for j in above]
    pairs += [(j, "loss") for j in loss_parents]
    return [
        all(len(found) <= 1 for found in lengths.values()),
        d_min == d_max,
        _potential_exists(pairs),
        not _slips(pairs),
        theory.moral_distances(edges, loss_parents) == d_max,
    ]


def _potential_exists(pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether k(j) - k(c) = 1 on all edges, k(loss) = 0, has a solution: linearly."""
    names = sorted({name for pair in pairs for name in pair} - {"loss"})
    incidence = np.zeros((len(pairs), len(names)))
    for row, (j, c) in enumerate(pairs):
        incidence[row, names.index(j)] = 1
        if c != "loss":
            incidence[row, names.index(c)] = -1
    k, *_ = np.linalg.lstsq(incidence, np.ones(len(pairs)), rcond=None)
    # Least squares of a whole-number problem: residuals are 0 or at least 1/edges.
    return bool(np.abs(incidence @ k - 1).max() < 0.1 / len(pairs))


def _slips(pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether some closed walk has more edges one way than the other."""
    height = {"loss": 0}
    walk = ["loss"]
    steps = [(j, c, 1) for j, c in pairs] + [(c, j, -1) for j, c in pairs]
    for at in walk:
        for to, here, up in steps:
            if here == at and to not in height:
                height[to] = height[at] + up
                walk.append(to)
    return any(height[j] - height[c] != 1 for j, c in pairs)


def _disagreement(answers: Sequence[bool]) -> float:
    return float(sum(a != answers[0] for a in answers)) / len(answers)


@graded_levels.control
def dead_end_in_the_graph(draw: Draw) -> Measurement:
    """A dead end that reads two vertices of a chain is not pruned."""
    edges = chain(draw.integer(3, 7))
    names = list(edges)
    above = draw.integer(0, len(names) - 3)
    below = draw.integer(above + 2, len(names) - 1)
    edges["dead"] = (names[above], names[below])
    return exactly(_disagreement(_gradings(edges, names[-1:])))


# ---- the light cone ------------------------------------------------------------------


@claim(instances="random graphs, steps and ages", quantity="share that moves too early")
def light_cone(draw: Draw) -> Measurement:
    """No value moves before the step that its distance in the moral graph allows.

    Real steps that differ by vertex and time, ingredients of random age or all live:
    how many numbers differ from v̂ before that step. None may, not by one bit.
    """
    case = tame(any_network(draw))
    steps = [draw.uniform(-0.5, 1.2) for _ in range(5)]
    sizes = {i: steps[k % 5] for k, i in enumerate(case.hidden)}
    age = drawn(draw, fresh=2) if draw.integer(0, 1) else live
    moral = theory.moral_distances(case.edges, case.loss_parents)
    return exactly(_moved_early(case, moral, age, sizes))


def _moved_early(
    case: Instance, until: Mapping[str, int], age: Age, sizes: Mapping[str, float]
) -> float:
    """The share of vertices and steps t < until[i] at which v_i is not v̂_i.

    And at which ε_i is not zero although its parents too should still be at v̂.
    """
    rule = Aged(age, max(until.values()), lambda i, now: sizes[i] / (1 + now))
    found = all_states(case, rule)
    pairs = [(i, t) for i in case.hidden for t in range(until[i])]
    start = found[0].values
    moved = [bool((found[t].values[i] != start[i]).any()) for i, t in pairs]
    moved += [bool(rule.u[t][i].any()) for i, t in pairs]
    for i, above in case.edges.items():
        still = range(min(until[j] for j in (i, *above)))
        moved += [bool(found[t].errors[i].any()) for t in still]
    return sum(moved) / len(moved)


@light_cone.control
def one_edge_back_per_step(draw: Draw) -> Measurement:
    """Directed distance, d_min: the moved parent of the loss also moves its child."""
    wiring = chain(draw.integer(4, 6))
    names = list(wiring)
    case = curved(furnished(draw, wiring, [names[0], names[-1]]))
    return _by_directed_distance(case)


@light_cone.control
def co_parents_forgotten(draw: Draw) -> Measurement:
    """A parent of the loss moves a child, and so the child's other parent."""
    wiring: Wiring = {"v1": (), "v2": (), "v3": ("v1", "v2"), "v4": ("v3",)}
    case = curved(furnished(draw, wiring, ["v2", "v4"]))
    return _by_directed_distance(case)


def _by_directed_distance(case: Instance) -> Measurement:
    d_min, _ = case.distances
    return exactly(_moved_early(case, d_min, live, dict.fromkeys(case.hidden, 0.5)))
