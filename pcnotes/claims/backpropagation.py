"""Claims about backpropagation: adjoints, paths, multipliers, work and depth.

One function per theorem, named after its label. A measurement that a control repeats
with something changed takes that something as an argument.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .. import theory
from ..graph import cut
from ..rules import Exact
from .draw import Draw
from .measuring import (
    ROUNDING,
    exactly,
    gradients,
    near,
    near_gradients,
    norm,
    random_errors,
    random_values,
    shares,
    states,
)
from .networks import Instance, Values, Wiring, curved, furnished, random_network
from .registry import Measurement, claim, worst
from .schemes import Asynchronous, Given

Path = tuple[
    str, ...
]  # from a vertex to a parent of the loss; the last edge is left out

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
    graph = cut(case.network, case.closure, case.at)
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
    paths = [p for i in case.hidden for p in _to_loss(case, i)]
    return worst(
        *_parts_from_paths(case, paths),
        near(case, _sum_over(case, paths), case.delta),
        _powers(case, draw.integer(1, case.depth)),
        exactly(_left_after_depth(case, with_loss=False)),
        exactly(_left_after_depth(_unpruned(case), with_loss=True)),
    )


def _to_loss(case: Instance, start: str) -> Iterator[Path]:
    """All paths from a vertex to the loss; one with j edges has j vertices."""
    if start in case.loss_parents:
        yield (start,)
    for child in _children(case, start):
        for rest in _to_loss(case, child):
            yield (start, *rest)


def _children(case: Instance, parent: str) -> list[str]:
    return [c for c, above in case.edges.items() if parent in above]


def _sum_over(case: Instance, paths: Sequence[Path]) -> Values:
    """Σ over these paths of J ᵀ…Jᵀg, at the vertex where each of them begins."""
    g = _pieces(case, case.linear.g)
    total = {i: np.zeros_like(g[i]) for i in case.hidden}
    for path in paths:
        carried = g[path[-1]]
        for c, i in itertools.pairwise(reversed(path)):
            carried = _block(case, i, c) @ carried
        total[path[0]] = total[path[0]] + carried
    return case.linear.named(np.concatenate(list(total.values())))


def _pieces(case: Instance, vector: theory.Array) -> dict[str, theory.Array]:
    return dict(zip(case.hidden, np.split(vector, len(case.hidden)), strict=True))


def _block(case: Instance, i: str, c: str) -> theory.Array:
    """The transposed Jacobian of vertex c in its parent i."""
    size, names = len(case.linear.g) // len(case.hidden), list(case.hidden)
    row, column = names.index(i) * size, names.index(c) * size
    return case.linear.M[row : row + size, column : column + size]


def _parts_from_paths(case: Instance, paths: Sequence[Path]) -> list[Measurement]:
    graph = cut(case.network, case.closure, case.at)
    pulled = graph.pull(graph.zeros())  # δ⁽¹⁾ = g
    measured = []
    for j in range(1, case.depth + 2):
        some = [p for p in paths if len(p) == j]
        measured.append(near(case, pulled, _sum_over(case, some)))
        starts = {p[0] for p in some}
        silent = [int((pulled[i] != 0).sum()) for i in case.hidden if i not in starts]
        measured.append(exactly(float(sum(silent))))
        pulled = graph.pull(pulled, loss=0.0)
    return measured


def _powers(case: Instance, k: int) -> Measurement:
    """(Mᵏ)ᵢ꜀ against the paths of k edges from i to c, for all pairs."""
    size = len(case.linear.g) // len(case.hidden)
    walks: list[Path] = [(i,) for i in case.hidden]
    for _ in range(k):
        walks = [(*w, c) for w in walks for c in _children(case, w[-1])]
    expected = np.zeros_like(case.linear.M)
    names = list(case.hidden)
    for walk in walks:
        product = np.eye(size)
        for i, c in itertools.pairwise(walk):
            product = product @ _block(case, i, c)
        row, column = names.index(walk[0]) * size, names.index(walk[-1]) * size
        expected[row : row + size, column : column + size] += product
    found = np.linalg.matrix_power(case.linear.M, k)
    largest = np.linalg.matrix_power(np.abs(case.linear.M), k).max()
    if largest == 0:
        return exactly(float((found != expected).sum()))
    return Measurement(float(np.abs(found - expected).max() / largest), ROUNDING)


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
    paths = [p for i in case.hidden for p in _to_loss(case, i)]
    paths.pop(draw.integer(0, len(paths) - 1))
    return near(case, _sum_over(case, paths), case.delta)


@path_sums.control
def dead_ends_kept(draw: Draw) -> Measurement:
    """Mᴷ itself, with a chain that leads nowhere among the vertices."""
    wiring = {"v1": (), "v2": ("v1",), "v3": ("v2",)}
    case = _unpruned(furnished(draw, wiring, ["v1"]))
    return exactly(_left_after_depth(case, with_loss=False))


# ---- the multiplier ------------------------------------------------------------------


@claim(instances="random graphs", quantity="relative error")
def adjoint_is_multiplier(draw: Draw) -> Measurement:
    """ℓ(v) + λᵀ(f(v) - v) is stationary at v̂ and δ alone; there ∂_θ of it is dℓ/dθ.

    δ and dℓ/dθ from autograd on the uncut network, derivatives of the Lagrangian from
    autograd on its formula. At v̂ and a random λ the gradient in v is (I - M)(δ - λ); at
    random values the first error that is not zero is v̂ - v; near the stationary point
    the Lagrangian rises and falls.
    """
    case = random_network(draw)
    other, somewhere = random_errors(case, draw), random_values(case, draw)
    return worst(
        _stationary(case, case.delta),
        _parameters(case, case.feedforward),
        _force_off_the_price(case, other),
        _first_error(case, somewhere, draw.integer(0, len(case.hidden) - 1)),
        *(_slope_of_saddle(case, draw, sign) for sign in (1.0, -1.0)),
    )


def _lagrangian(case: Instance, v: Mapping[str, Tensor], lam: Values) -> Tensor:
    constraints = [
        (lam[i] * (case.network.predict(i, v, case.x) - v[i])).sum()
        for i in case.hidden
    ]
    return case.loss(v) + torch.stack(constraints).sum()


def _in_values(case: Instance, lam: Values) -> Values:
    """∂𝓛/∂v at the feed-forward values."""
    leaves = {i: v.clone().requires_grad_() for i, v in case.feedforward.items()}
    whole = _lagrangian(case, leaves, lam)
    return dict(
        zip(leaves, torch.autograd.grad(whole, list(leaves.values())), strict=True)
    )


def _stationary(case: Instance, lam: Values) -> Measurement:
    zeros = {i: torch.zeros_like(d) for i, d in lam.items()}
    return near(case, _in_values(case, lam), zeros)


def _parameters(case: Instance, values: Values) -> Measurement:
    found = case.gradients_of(_lagrangian(case, values, case.delta))
    return near_gradients(case, found, case.parameter_gradients())


def _force_off_the_price(case: Instance, lam: Values) -> Measurement:
    lin = case.linear
    found, price = lin.stacked(_in_values(case, lam)), lin.stacked(lam)
    gap = lin.stacked(case.delta) - price
    terms = np.abs(price) + np.abs(lin.M) @ np.abs(price) + lin.sizes.sum(0)
    graph = cut(case.network, case.closure, case.at)
    pulled = lin.stacked(graph.pull(lam)) - price
    expected = gap - lin.M @ gap
    off = max(np.abs(found - expected).max(), np.abs(pulled - expected).max())
    return Measurement(float(off / terms.max()), ROUNDING)


def _first_error(case: Instance, moved: Values, first: int) -> Measurement:
    """Values that differ from v̂ from this vertex on: its constraint is broken."""
    kept = case.hidden[:first]
    values = {i: case.feedforward[i] if i in kept else v for i, v in moved.items()}
    i = case.hidden[first]
    with torch.no_grad():
        error = case.network.predict(i, values, case.x) - values[i]
    gap = case.feedforward[i] - values[i]
    return Measurement(norm(error - gap) / (norm(gap) + norm(values[i])), ROUNDING)


def _slope_of_saddle(case: Instance, draw: Draw, sign: float) -> Measurement:
    """𝓛(v̂ + h, δ + au) - 𝓛(v̂, δ) is a‖(J - I)h‖ up to o(h), of the sign of a.

    A bound of one: beyond it the sign would be wrong. The remainder is of order h.
    """
    lin, size = case.linear, case.size
    h = 1e-7 * lin.stacked(random_errors(case, draw))
    pushed = lin.M.T @ h - h
    a = sign * size
    moved = lin.named(a * pushed / norm(pushed))
    there = {i: case.feedforward[i] + d for i, d in lin.named(h).items()}
    price = {i: d + moved[i] for i, d in case.delta.items()}
    with torch.no_grad():
        rise = _lagrangian(case, there, price)
        rise -= _lagrangian(case, case.feedforward, case.delta)
    expected = a * norm(pushed)
    return Measurement(abs(float(rise) / expected - 1), 1.0)


@adjoint_is_multiplier.control
def direct_prices(draw: Draw) -> Measurement:
    """λ = g: what the loss itself pays, without what the children pay."""
    case = random_network(draw, least_depth=2)
    return _stationary(case, case.linear.named(case.linear.g))


@adjoint_is_multiplier.control
def the_other_sign(draw: Draw) -> Measurement:
    """λ = -δ, the multiplier of v - f(v)."""
    case = random_network(draw)
    return _stationary(case, {i: -d for i, d in case.delta.items()})


@adjoint_is_multiplier.control
def constraint_broken(draw: Draw) -> Measurement:
    """The gradient in the parameters at values that are not the feed-forward ones."""
    case = curved(random_network(draw, least_depth=2))
    return _parameters(case, random_values(case, draw))


# ---- work and depth ------------------------------------------------------------------


@claim(instances="random graphs and orders", quantity="relative error")
def reverse_mode_work(draw: Draw) -> Measurement:
    """Children first: one product per edge, K rounds, and δ; other orders lose paths.

    Products counted in a substitution by hand and on the cut graph; one pass in random
    order against the paths that it visits from their ends; the first round in which a
    vertex may compute, played through, against d_max and the rule Exact; the ladder.
    """
    case = random_network(draw)
    return worst(
        *_one_product_per_edge(case),
        _ordered_paths(case, _shuffled(case, draw)),
        *_rounds(case),
        exactly(_ladder_off(draw.integer(2, 60))),
    )


def _one_product_per_edge(case: Instance) -> list[Measurement]:
    edges = sum(map(len, case.edges.values()))
    g, products = _pieces(case, case.linear.g), 0
    by_hand = dict(g)
    for c in reversed(case.hidden):  # children first: each is final when it speaks
        for i in case.edges[c]:
            by_hand[i] = by_hand[i] + _block(case, i, c) @ by_hand[c]
            products += 1
    stacked = np.concatenate([by_hand[i] for i in case.hidden])
    at = cut(case.network, case.closure, case.at).evaluate()
    errors, sent = {**at.zeros(), **at.loss_gradient}, 0
    for c in reversed(case.hidden):
        messages = at.vjp({c: errors[c]})
        errors |= {i: errors[i] + message for i, message in messages.items()}
        sent += len(messages)
    return [
        near(case, case.linear.named(stacked), case.delta),
        near(case, errors, case.delta),
        exactly(float(abs(products - edges) + abs(sent - edges))),
    ]


def _shuffled(case: Instance, draw: Draw) -> list[str]:
    order: list[str] = []
    for i in case.hidden:
        order.insert(draw.integer(0, len(order)), i)
    return order


def _ordered_paths(case: Instance, order: Sequence[str]) -> Measurement:
    """One update of each vertex, in this order, against the paths it respects."""
    start = {i: torch.zeros_like(d) for i, d in case.delta.items()}
    found = states(case, Asynchronous([[i] for i in order], start))[-1]
    place = {i: k for k, i in enumerate(order)}
    respected = [
        path
        for i in case.hidden
        for path in _to_loss(case, i)
        if all(place[a] > place[b] for a, b in itertools.pairwise(path))
    ]
    return near(case, found, _sum_over(case, respected))


def _rounds(case: Instance) -> list[Measurement]:
    """As soon as all children are final a vertex computes: in round d_max."""
    final: dict[str, int] = {}
    for number in itertools.count(1):
        waiting = [i for i in case.hidden if i not in final]
        if not waiting:
            break
        ready = [i for i in waiting if not {*_children(case, i)} - final.keys()]
        final |= dict.fromkeys(ready, number)
    _, d_max = case.distances
    found = states(case, Exact())
    off = sum(final[i] != d_max[i] for i in case.hidden)
    off += len(found) - 1 != case.depth
    return [
        exactly(float(off)),
        *(near(case, e, _final(case, t)) for t, e in enumerate(found)),
    ]


def _final(case: Instance, rounds: int) -> Values:
    """δ where d_max is at most this, and zero elsewhere."""
    _, d_max = case.distances
    return {i: d if d_max[i] <= rounds else 0 * d for i, d in case.delta.items()}


def _ladder_off(rungs: int) -> float:
    """Paths on the ladder, counted with Jacobians of one, against Fibonacci numbers."""
    M = np.eye(rungs, k=1) + np.eye(rungs, k=2)
    g = np.eye(rungs)[-1]
    paths = int(theory.path_parts(M, g)[:, 0].sum())
    a, b = 0, 1
    for _ in range(rungs):
        a, b = b, a + b
    golden = (1 + 5**0.5) / 2
    enough = a >= golden ** (rungs - 2) * (1 - ROUNDING)
    return float(abs(paths - a) + abs(M.sum() - (2 * rungs - 3)) + (not enough))


@reverse_mode_work.control
def parents_before_children(draw: Draw) -> Measurement:
    """One pass from the input to the loss, against all paths."""
    case = random_network(draw, least_depth=2)
    start = {i: torch.zeros_like(d) for i, d in case.delta.items()}
    found = states(case, Asynchronous([[i] for i in case.hidden], start))[-1]
    return near(case, found, case.delta)


@reverse_mode_work.control
def one_round_fewer(draw: Draw) -> Measurement:
    """The sweep stops after K - 1 rounds."""
    case = random_network(draw)
    return near(case, states(case, Exact())[-2], case.delta)
