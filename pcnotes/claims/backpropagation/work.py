"""The claim about what backpropagation costs: products, rounds, orders."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from ... import theory
from ...rules import Exact
from ..draw import Draw
from ..instances import Instance
from ..measuring import ROUNDING, cut_graph, exactly, near, states
from ..networks import random_network
from ..registry import Measurement, claim, worst
from ..schemes import Asynchronous
from ..vertices import Values
from .paths import sum_over, to_loss


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
    edges, products = sum(map(len, case.edges.values())), 0
    lin = case.linear
    by_hand = lin.g.copy()
    for c in reversed(case.hidden):  # children first: each is final when it speaks
        for i in case.edges[c]:
            by_hand[lin.rows[i]] += lin.block(i, c) @ by_hand[lin.rows[c]]
            products += 1
    at = cut_graph(case).evaluate()
    errors, sent = {**at.zeros(), **at.loss_gradient}, 0
    for c in reversed(case.hidden):
        messages = at.vjp({c: errors[c]})
        errors |= {i: errors[i] + message for i, message in messages.items()}
        sent += len(messages)
    return [
        near(case, lin.named(by_hand), case.delta),
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
        for path in to_loss(case, i)
        if all(place[a] > place[b] for a, b in itertools.pairwise(path))
    ]
    return near(case, found, sum_over(case, respected))


def _rounds(case: Instance) -> list[Measurement]:
    """As soon as all children are final a vertex computes: in round d_max."""
    final: dict[str, int] = {}
    for number in itertools.count(1):
        waiting = [i for i in case.hidden if i not in final]
        if not waiting:
            break
        ready = [i for i in waiting if not {*case.children[i]} - final.keys()]
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
