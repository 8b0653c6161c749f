"""The claim about what is local after a cut."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...evaluation import Errors
from ...graph import Graph
from ...hooks import Given as Handed
from ...hooks import cutting
from ..draw import Draw
from ..instances import Instance
from ..measuring import exactly
from ..networks import curved, furnished, random_network
from ..registry import Measurement, claim, worst
from ..vertices import Values, Wiring
from .cuts import LOSS, Cut, any_cut, finest


@claim(instances="random graphs and cuts", quantity="share that is not local")
def locality_of_the_cut(draw: Draw) -> Measurement:
    """After a cut a prediction reaches its parents' values and its own leaves only.

    The leaves of autograd below every prediction and the loss, walked here, against the
    wiring; the force on one vertex and the lesson of one vertex, bit for bit, while
    every error, value, parameter, input and label that is not listed is changed.
    """
    found = any_cut(draw, random_network(draw))
    measured = [_leaves_are_local(found, found.kept)]
    if found.hidden:
        force = _seen_by_force(found.inner, draw.choice(found.hidden))
        lesson = _seen_by_lesson(found.inner, draw.choice(found.hidden))
        measured += [_unmoved(found, seen, draw) for seen in (force, lesson)]
    return worst(*measured)


def _leaves_are_local(found: Cut, cut_at: Collection[str]) -> Measurement:
    """The share of leaves that are there and should not be, or the other way round."""
    x, y = (t.clone().requires_grad_() for t in (found.case.x, found.case.y))
    case = dataclasses.replace(found.case, x=x, y=y)
    modules = dict(case.network.named_children())
    places = {modules[i]: i for i in case.network.wiring if i in cut_at}
    with cutting(places, set(), True, Handed({}, False, set())) as records:
        loss = case.closure()
    roots = {key[0]: record.prediction for key, record in records.items()}
    values = {key[0]: record.value for key, record in records.items()}
    wrong = total = 0
    for i, root in {**roots, LOSS: loss}.items():
        made_of = found.made_of(i)
        expected = {id(values.get(j, j)) for j in found.parents(i)}
        expected |= {id(p) for m in made_of for p in modules[m].parameters()}
        expected |= {id(x)} if found.sources(made_of) else set()
        expected |= {id(y)} if i == LOSS else set()
        there = {id(leaf) for leaf in _leaves(root)}
        wrong, total = wrong + len(expected ^ there), total + len(expected | there)
    return exactly(wrong / total)


def _leaves(root: Any) -> list[Tensor]:
    """Every leaf of autograd below a tensor: a walk of our own."""
    seen: set[Any] = set()
    stack: list[Any] = [root.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [below for below, _ in node.next_functions]
    return [node.variable for node in seen if hasattr(node, "variable")]


class Seen(NamedTuple):
    """A quantity that belongs to a vertex, and what it may depend on."""

    quantity: Callable[[Graph, Errors], list[Tensor]]
    errors: set[str]
    values: set[str]
    modules: set[str]
    label: bool


def _seen_by_force(cut: Cut, j: str) -> Seen:
    """∂/∂v_j of Σ⟨ε, μ⟩ + ℓ: children's errors and all that these are made of."""
    children = cut.children(j)
    return Seen(
        quantity=lambda graph, errors: [graph.pull(errors)[j]],
        errors=children - {LOSS},
        values=set().union(*(cut.parents(c) for c in children)),
        modules=set().union(*(cut.made_of(c) for c in children)),
        label=LOSS in children,
    )


def _seen_by_lesson(cut: Cut, i: str) -> Seen:
    """(∂μ/∂θ)ᵀε of a vertex: its own error and what its prediction is made of."""

    def lesson(graph: Graph, errors: Errors) -> list[Tensor]:
        return [g for _, g in graph.last.gradients({i: errors[i]}, loss=False)]

    return Seen(lesson, {i}, cut.parents(i), cut.made_of(i), label=False)


def _unmoved(found: Cut, seen: Seen, draw: Draw) -> Measurement:
    """The share of numbers that change when everything is that may not be seen."""
    case, hidden = found.case, found.hidden
    generator = draw.generator()

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    def moved(old: Values, listed: set[str]) -> Values:
        return {i: t if i in listed else t + noise(t) for i, t in old.items()}

    values = {i: case.feedforward[i] + noise(case.x) for i in hidden}
    errors = {i: noise(case.x) for i in hidden}
    network = copy.deepcopy(case.network)
    modules = dict(network.named_children())
    listed = {id(p) for m in seen.modules for p in modules[m].parameters()}
    with torch.no_grad():
        for p in network.parameters():
            if id(p) not in listed:
                p.add_(noise(p))
    x = case.x if found.sources(seen.modules) else case.x + noise(case.x)
    y = case.y if seen.label else case.y + noise(case.y)
    other = dataclasses.replace(case, network=network, x=x, y=y)

    def measured(case: Instance, values: Values, errors: Values) -> list[Tensor]:
        graph = found.graph()
        graph.evaluate(values)
        return seen.quantity(graph, errors)

    before = measured(case, values, errors)
    after = measured(other, moved(values, seen.values), moved(errors, seen.errors))
    if len(before) != len(after):
        return exactly(1.0)
    pairs = list(zip(before, after, strict=True))
    changed = sum(int((a != b).sum()) for a, b in pairs)
    return exactly(changed / max(1, sum(a.numel() for a, _ in pairs)))


@locality_of_the_cut.control
def one_vertex_not_detached(draw: Draw) -> Measurement:
    """One vertex hands its prediction on, in place of a value."""
    case = random_network(draw)
    return _leaves_are_local(
        finest(case), finest(case, [draw.choice(case.hidden)]).kept
    )


@locality_of_the_cut.control
def coparents_not_listed(draw: Draw) -> Measurement:
    """The force is said to depend on the errors and weights of the children alone."""
    wiring: Wiring = {"v1": (), "v2": (), "v3": ("v1", "v2")}
    found = finest(curved(furnished(draw, wiring, ["v3"])))
    seen = _seen_by_force(found.inner, "v1")
    return _unmoved(found, seen._replace(values=seen.values - {"v2"}), draw)
