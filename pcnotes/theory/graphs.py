"""Paths, distances and levels of a graph, and what a cut makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, Parents


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


def clear(parents: Parents, loss_parents: Iterable[str]) -> list[str]:
    """The vertices that Z-IL gets right at step d_max without identity vertices.

    Vertex i is clear if every parent p of c has the moral distance d_max(c) + 1, where
    c is i or any of its descendants. parents: {vertex: its parents} in topological
    order, no dead ends. Label: `naive-z-il-criterion`.

    >>> clear({"a": [], "b": ["a"], "c": ["b"], "d": ["c"], "e": ["a"]}, ["d", "e"])
    ['e', 'd', 'c']
    """
    _, d_max = distances(parents, loss_parents)
    moral = moral_distances(parents, loss_parents)
    spoiled: set[str] = set()
    for c in reversed(list(parents)):
        if c in spoiled or any(moral[p] != d_max[c] + 1 for p in parents[c]):
            spoiled |= {c, *parents[c]}
    return [c for c in reversed(list(parents)) if c not in spoiled]


def live_errors(M: Array, g: Array, steps: int) -> Array:
    """The rows ε(n)/β, n = 0..steps, of unit steps with a weak loss, β → 0.

    ε(n)/β tends to Σ δ⁽ʲ⁾, j ≤ n, less Σ Mⁿ⁻¹⁻ᵗJ(I - H)ᵗg, t < n. For linear vertices
    and a linear loss this holds for every β. Label: `weak-loss`.

    >>> M = np.array([[0.0, 2.0], [0.0, 0.0]])  # vertex 0 feeds vertex 1
    >>> live_errors(M, np.array([1.0, 3.0]), 2)  # both feed the loss
    array([[ 0.,  0.],
           [ 1.,  1.],
           [ 3., -1.]])
    """
    J, moved = M.T, np.array(g, dtype=float)
    found = [np.zeros_like(moved)]
    for _ in range(steps):
        found.append(M @ found[-1] + g - J @ moved)
        moved = J @ moved + M @ moved - M @ (J @ moved)
    return np.array(found)


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
