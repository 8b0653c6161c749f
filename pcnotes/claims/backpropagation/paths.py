"""Claims about δ as the solution of a recursion and as a sum over paths."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from ..draw import Draw
from ..instances import Instance
from ..measuring import (
    ROUNDING,
    cut_graph,
    exactly,
    gradients,
    near,
    near_gradients,
    random_values,
    shares,
)
from ..networks import chain, curved, furnished, random_network
from ..registry import Measurement, claim, worst
from ..schemes import Given
from ..vertices import Values, Wiring

# From a vertex to a parent of the loss; the last edge is left out.
Path = tuple[str, ...]

# ---- the adjoint ---------------------------------------------------------------------


@claim(instances="random graphs", quantity="relative error")
def adjoint_recursion(draw: Draw) -> Measurement:
    """The recursion δ = Mδ + g, solved by K sums along paths, is backpropagation.

    Cut graph against autograd on the uncut network, whose δ is the gradient in shifts
    v = f(v) + b: the residual of the recursion, the sum over k < K, the parameters.
    """
    return _adjoint_recursion(random_network(draw))


def _adjoint_recursion(case: Instance, values: Values | None = None) -> Measurement:
    delta = case.delta
    graph = cut_graph(case)
    graph.evaluate(values)
    over_paths = graph.zeros()
    for _ in range(case.depth):
        over_paths = graph.pull(over_paths)
    return worst(
        near(case, graph.pull(delta), delta),
        near(case, over_paths, delta),
        near_gradients(case, gradients(case, Given(delta)), case.parameter_gradients()),
    )


@adjoint_recursion.control
def jacobians_elsewhere(draw: Draw) -> Measurement:
    """Jacobians and loss gradient at other values than the feed-forward ones."""
    case = curved(random_network(draw, least_depth=2))
    return _adjoint_recursion(case, random_values(case, draw))


@adjoint_recursion.control
def one_path_too_short(draw: Draw) -> Measurement:
    """The sum over paths stops at K - 1."""
    case = random_network(draw)
    return near(case, shares(case, [1.0] * (case.depth - 1) + [0.0]), case.delta)


# ---- paths ---------------------------------------------------------------------------


@claim(instances="random graphs, some with dead ends", quantity="relative error")
def path_sums(draw: Draw) -> Measurement:
    """Each δ⁽ʲ⁾ is the sum, over all paths of j edges, of products of Jacobians and g.

    Paths enumerated one by one and multiplied out, against δ⁽ʲ⁾ from j pulls on the cut
    graph and, all together, against autograd; exact zeros where no path of j edges is;
    powers of M against paths between vertices; Mᴷ = 0 exactly once dead ends are
    pruned, Mᴷg = 0 exactly before.
    """
    case = random_network(draw)
    paths = [p for i in case.hidden for p in to_loss(case, i)]
    return worst(
        *_parts_from_paths(case, paths),
        near(case, sum_over(case, paths), case.delta),
        _powers(case, draw.integer(1, case.depth)),
        exactly(_left_after_depth(case, with_loss=False)),
        exactly(_left_after_depth(_unpruned(case), with_loss=True)),
    )


def to_loss(case: Instance, start: str) -> Iterator[Path]:
    """All paths from a vertex to the loss; one with j edges has j vertices."""
    if start in case.loss_parents:
        yield (start,)
    for child in case.children[start]:
        for rest in to_loss(case, child):
            yield (start, *rest)


def sum_over(case: Instance, paths: Sequence[Path]) -> Values:
    """Σ over these paths of J ᵀ…Jᵀg, at the vertex where each of them begins."""
    lin = case.linear
    total = np.zeros_like(lin.g)
    for path in paths:
        carried = lin.g[lin.rows[path[-1]]]
        for c, i in itertools.pairwise(reversed(path)):
            carried = lin.block(i, c) @ carried
        total[lin.rows[path[0]]] += carried
    return lin.named(total)


def _parts_from_paths(case: Instance, paths: Sequence[Path]) -> list[Measurement]:
    graph = cut_graph(case)
    pulled = graph.pull(graph.zeros())  # δ⁽¹⁾ = g
    measured = []
    for j in range(1, case.depth + 2):
        some = [p for p in paths if len(p) == j]
        measured.append(near(case, pulled, sum_over(case, some)))
        starts = {p[0] for p in some}
        silent = [int((pulled[i] != 0).sum()) for i in case.hidden if i not in starts]
        measured.append(exactly(float(sum(silent))))
        pulled = graph.pull(pulled, loss=0.0)
    return measured


def _powers(case: Instance, k: int) -> Measurement:
    """(Mᵏ)ᵢ꜀ against the paths of k edges from i to c, for all pairs."""
    lin = case.linear
    walks: list[Path] = [(i,) for i in case.hidden]
    for _ in range(k):
        walks = [(*w, c) for w in walks for c in case.children[w[-1]]]
    expected = np.zeros_like(lin.M)
    for walk in walks:
        product = np.eye(case.x.numel())
        for i, c in itertools.pairwise(walk):
            product = product @ lin.block(i, c)
        expected[lin.rows[walk[0]], lin.rows[walk[-1]]] += product
    found = np.linalg.matrix_power(lin.M, k)
    size = np.linalg.matrix_power(np.abs(lin.M), k).max()
    if size == 0:
        return exactly(float((found != expected).sum()))
    return Measurement(float(np.abs(found - expected).max() / size), ROUNDING)


class _Unpruned(Instance):
    """The same network with its dead ends among the hidden vertices."""

    @cached_property
    def edges(self) -> Wiring:
        """{hidden vertex: hidden parents}, dead ends too."""
        wiring = self.network.wiring
        return {i: p for i, p in wiring.items() if i not in self.outputs}


def _unpruned(case: Instance) -> Instance:
    return _Unpruned(case.network, case.x, case.y, case.outputs, case.direct)


def _left_after_depth(case: Instance, with_loss: bool) -> float:
    """How many numbers of Mᴷg, or of Mᴷ itself, are not exactly zero."""
    power = np.linalg.matrix_power(case.linear.M, case.depth)
    return float(np.count_nonzero(power @ case.linear.g if with_loss else power))


@path_sums.control
def one_path_forgotten(draw: Draw) -> Measurement:
    """One path, any, is left out of the sum."""
    case = random_network(draw)
    paths = [p for i in case.hidden for p in to_loss(case, i)]
    paths.pop(draw.integer(0, len(paths) - 1))
    return near(case, sum_over(case, paths), case.delta)


@path_sums.control
def dead_ends_kept(draw: Draw) -> Measurement:
    """Mᴷ itself, with a chain that leads nowhere among the vertices."""
    case = _unpruned(furnished(draw, chain(3), ["v1"]))
    return exactly(_left_after_depth(case, with_loss=False))
