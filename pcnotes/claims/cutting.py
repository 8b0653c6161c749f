"""Claims about cuts: what is local after one, and what does not depend on it.

What a cut should look like is read off the wiring of the random network alone, and what
it does look like off the graph of autograd; the package's own reading of that graph is
one of the things that are held against them.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .. import learning, theory
from ..evaluation import Errors
from ..graph import Graph
from ..graph import cut as cut_graph
from ..hooks import Given as Handed
from ..hooks import cutting
from ..levelling import LevelledGraph
from ..rules import Exact, FixedPrediction, Rule, Strict
from .draw import Draw
from .measuring import ROUNDING, exactly, near_gradients
from .networks import Instance, Values, Wiring, curved, furnished, random_network
from .registry import Measurement, claim, worst
from .schemes import Given

LOSS = "loss"  # the loss as one more vertex, which no module is called

# ---- what the wiring says ------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """An instance and the vertices at which it is cut, outputs and dead ends too."""

    case: Instance
    kept: frozenset[str]

    def at(self, name: str, module: nn.Module) -> bool:
        """The same for the package."""
        return name in self.kept

    @cached_property
    def reads(self) -> Wiring:
        """What every vertex and the loss read directly in the uncut network."""
        loss = (*self.case.outputs, *self.case.direct)
        return {**self.case.network.wiring, LOSS: loss}

    def parents(self, i: str) -> set[str]:
        """Kept vertices with a path to i on which no other one is kept."""
        above = ({j} if j in self.kept else self.parents(j) for j in self.reads[i])
        return set().union(*above)

    def made_of(self, i: str) -> set[str]:
        """The modules in the local graph of i: its own, and those not kept above it."""
        above = (self.made_of(j) for j in self.reads[i] if j not in self.kept)
        return ({i} - {LOSS}).union(*above)

    @cached_property
    def reached(self) -> set[str]:
        """The kept vertices from which the loss can be reached."""
        found: set[str] = set()
        stack = [LOSS]
        while stack:
            new = self.parents(stack.pop()) - found
            found |= new
            stack += new
        return found

    @cached_property
    def hidden(self) -> list[str]:
        """Those that feed another one; what feeds the loss alone is part of it."""
        feeding = set().union(*(self.parents(c) for c in self.reached))
        return [i for i in self.case.network.wiring if i in feeding]

    @cached_property
    def inner(self) -> Cut:
        """The same cut without its outputs: the loss contains them."""
        return Cut(self.case, frozenset(self.hidden))

    def children(self, j: str) -> set[str]:
        """Vertices that read the value of j, the loss among them."""
        return {c for c in (*self.kept, LOSS) if j in self.parents(c)}

    def sources(self, modules: Collection[str]) -> bool:
        """Whether one of them reads the input."""
        return any(not self.case.network.wiring[m] for m in modules)


def _any_cut(draw: Draw, case: Instance) -> Cut:
    names = list(case.network.wiring)
    kept = {i for i in names if draw.integer(0, 1)}
    return Cut(case, frozenset(kept or {draw.choice(names)}))


def _finest(case: Instance, without: Collection[str] = ()) -> Cut:
    return Cut(case, frozenset(case.network.wiring) - frozenset(without))


# ---- locality ------------------------------------------------------------------------


@claim(instances="random graphs and cuts", quantity="share that is not local")
def locality_of_the_cut(draw: Draw) -> Measurement:
    """After a cut a prediction reaches its parents' values and its own leaves only.

    The leaves of autograd below every prediction and the loss, walked here, against the
    wiring; the force on one vertex and the lesson of one vertex, bit for bit, while
    every error, value, parameter, input and label that is not listed is changed.
    """
    found = _any_cut(draw, random_network(draw))
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
        graph = cut_graph(case.network, case.closure, found.at)
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
        _finest(case), _finest(case, [draw.choice(case.hidden)]).kept
    )


@locality_of_the_cut.control
def coparents_not_listed(draw: Draw) -> Measurement:
    """The force is said to depend on the errors and weights of the children alone."""
    wiring: Wiring = {"v1": (), "v2": (), "v3": ("v1", "v2")}
    found = _finest(curved(furnished(draw, wiring, ["v3"])))
    seen = _seen_by_force(found.inner, "v1")
    return _unmoved(found, seen._replace(values=seen.values - {"v2"}), draw)


# ---- adjoints ------------------------------------------------------------------------


@claim(instances="random graphs and cuts", quantity="relative error")
def cut_adjoints(draw: Draw) -> Measurement:
    """Kept vertices have the adjoints of the uncut network, wherever it is cut.

    The package's cut graph against the uncut network: values; Mε + g at random errors
    against the Schur complement of the finest M; the solution of δ = Mδ + g against
    the gradient in shifts; and the parameters' gradient from these errors.
    """
    found = _any_cut(draw, random_network(draw))
    return worst(*_pulls(found, draw, theory.eliminate), *_adjoints(found))


Elimination = Callable[
    [theory.Array, theory.Array, Sequence[int]], tuple[theory.Array, theory.Array]
]


def _pulls(found: Cut, draw: Draw, eliminate: Elimination) -> list[Measurement]:
    case, hidden = found.case, found.hidden
    graph = cut_graph(case.network, case.closure, found.at)
    if list(graph.hidden) != hidden:
        return [exactly(1.0)]
    if not hidden:
        return []
    values = graph.evaluate().values
    generator = draw.generator()
    errors = {
        i: torch.randn(case.x.shape, generator=generator, dtype=case.x.dtype)
        for i in hidden
    }
    lin, rows = case.linear, _rows(case, hidden)
    M, g = eliminate(lin.M, lin.g, rows)
    sizes, direct = theory.eliminate(np.abs(lin.M), np.abs(lin.g), rows)
    e = _stacked(errors, hidden)
    off = _stacked(graph.pull(errors), hidden) - (M @ e + g)
    size = (sizes @ np.abs(e) + direct).max()
    true = _stacked(case.feedforward, hidden)
    moved = np.abs(_stacked(values, hidden) - true).max() / np.abs(true).max()
    return [
        Measurement(float(np.abs(off).max() / size), ROUNDING),
        Measurement(float(moved), ROUNDING),
    ]


def _rows(case: Instance, hidden: Sequence[str]) -> list[int]:
    size = case.x.numel()
    places = [case.hidden.index(i) for i in hidden]
    return [k * size + row for k in places for row in range(size)]


def _stacked(values: Mapping[str, Tensor], names: Sequence[str]) -> theory.Array:
    vector: theory.Array = torch.stack([values[i] for i in names]).flatten().numpy()
    return vector


def _adjoints(found: Cut) -> list[Measurement]:
    case, hidden = found.case, found.hidden
    graph = cut_graph(case.network, case.closure, found.at)
    graph.evaluate()
    errors = graph.zeros()
    for _ in range(graph.depth):
        errors = graph.pull(errors)
    taught = _gradients(found, Given({i: case.delta[i] for i in hidden}))
    measured = [near_gradients(case, taught, case.parameter_gradients())]
    if hidden:
        off = _stacked(errors, hidden) - _stacked(case.delta, hidden)
        error = float(np.abs(off).max() / np.abs(case.linear.delta).max())
        measured.append(Measurement(error, ROUNDING * case.linear.cancellation))
    return measured


def _gradients(found: Cut, rule: Rule) -> dict[str, Tensor]:
    """What the rule leaves in `.grad` of the parameters, at this cut."""
    network = found.case.network
    network.zero_grad(set_to_none=True)
    learning.backward(network, found.case.closure, rule, found.at)
    return {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


@cut_adjoints.control
def paths_through_the_rest_forgotten(draw: Draw) -> Measurement:
    """The kept rows of M and g as they are, without the paths that leave them."""
    case = random_network(draw, least_depth=3)
    found = _finest(case, ["v2"])  # between v1 and v3

    def restrict(
        M: theory.Array, g: theory.Array, kept: Sequence[int]
    ) -> tuple[theory.Array, theory.Array]:
        return M[np.ix_(kept, kept)], g[kept]

    return worst(*_pulls(found, draw, restrict))


# ---- levels --------------------------------------------------------------------------


@claim(instances="random graphs and pairs of cuts", quantity="share of wrong levels")
def cut_levels(draw: Draw) -> Measurement:
    """The level of a vertex counts the kept vertices on its paths through the whole.

    Largest and smallest number, whether they agree, and the depth, on all paths of the
    uncut network one by one; a coarser cut has no higher level anywhere.
    """
    fine = _any_cut(draw, random_network(draw))
    chosen = sorted(fine.kept)
    some = {i for i in chosen if draw.integer(0, 1)} or {draw.choice(chosen)}
    coarse = Cut(fine.case, frozenset(some))
    lower, higher = (_graph(c).levels for c in (coarse, fine))
    rises = [i for i in coarse.hidden if lower[i] > higher.get(i, 0)]
    return worst(
        _levels(fine, fine.inner.kept),
        _levels(coarse, coarse.inner.kept),
        exactly(len(rises) / len(chosen)),
    )


def _graph(found: Cut) -> Graph:
    return cut_graph(found.case.network, found.case.closure, found.at)


def _levels(found: Cut, counted: Collection[str]) -> Measurement:
    """The package's levels against all paths, on which these vertices count."""
    graph = _graph(found)
    counts = {i: set(_counts(found.case, i, counted)) for i in found.hidden}
    most = max((max(c) for c in counts.values()), default=0)
    wrong = [
        i
        for i, c in counts.items()
        if (graph.structure.nearest[i], graph.levels[i]) != (min(c), max(c))
    ]
    graded = all(len(c) == 1 for c in counts.values())
    missed = len(wrong) + (graph.depth != most) + (graph.graded != graded)
    return exactly(missed / (len(counts) + 2))


def _counts(case: Instance, i: str, counted: Collection[str]) -> Iterator[int]:
    """For every path from i to the loss, how many of its vertices count."""
    here = int(i in counted)
    if i in case.loss_parents:
        yield here
    for child, parents in case.edges.items():
        if i in parents:
            yield from (here + k for k in _counts(case, child, counted))


@cut_levels.control
def every_vertex_counts(draw: Draw) -> Measurement:
    """All vertices of the uncut chain are counted, also the one that is not kept."""
    names = [f"v{k}" for k in range(draw.integer(2, 5))]
    wiring = {name: tuple(names[:k][-1:]) for k, name in enumerate(names)}
    case = furnished(draw, wiring, names[-1:])
    return _levels(_finest(case, [draw.choice(names[1:])]), names)


# ---- invariance ----------------------------------------------------------------------


@claim(instances="random graphs and cuts, random steps", quantity="relative error")
def cut_invariance(draw: Draw) -> Measurement:
    """Three rules return the gradient of the uncut network, wherever it is cut.

    The reverse sweep; fixed prediction, by default and step by step with as many unit
    steps as the cut graph is deep or more; Z-IL as dynamics on the levelled graph, with
    random steps whose products are divided out.
    """
    found = _any_cut(draw, random_network(draw))
    extra, depth = draw.integer(0, 2), len(found.kept)
    steps = [draw.uniform(0.1, 1.0) for _ in range(depth)]
    rules: list[Rule] = [
        Exact(),
        FixedPrediction(),
        StepByStep(FixedPrediction(), extra),
        LeadingEdge(steps),
    ]
    return worst(*(_invariant(found, rule) for rule in rules))


def _invariant(found: Cut, rule: Rule) -> Measurement:
    truth = found.case.parameter_gradients()
    return near_gradients(found.case, _gradients(found, rule), truth)


@dataclass(frozen=True)
class StepByStep:
    """Unit steps of fixed prediction, without the shortcut that `backward` takes."""

    rule: FixedPrediction
    extra: int

    def run(self, graph: Graph) -> Iterator[Errors]:
        """As many steps as the graph is deep, and some more (or, below zero, fewer)."""
        graph.evaluate()
        if steps := graph.depth + self.extra:
            yield from dataclasses.replace(self.rule, steps=steps).run(graph)
        else:
            yield graph.zeros()


@dataclass(frozen=True)
class LeadingEdge:
    """Strict dynamics on the levelled graph; lessons divided by the steps' product.

    steps: γ₁, γ₂, …, at least as many as the graph is deep. divided: or not.
    """

    steps: Sequence[float]
    divided: bool = True

    def run(self, graph: Graph) -> Iterator[Errors]:
        """After step k the vertices of level k learn, and are what is yielded."""
        levelled = LevelledGraph(graph)
        moved, errors = levelled.zeros(), levelled.zeros()
        graph.last = at = levelled.begin()
        graph.learn({}, loss=True)
        yield {}
        share = 1.0
        for gamma, names in zip(self.steps, graph.structure.by_level[1:], strict=False):
            asked = at.pull(errors)
            moved = {n: u + gamma * (errors[n] - asked[n]) for n, u in moved.items()}
            graph.last = at = levelled.evaluate(moved)
            errors = at.errors()
            share *= gamma if self.divided else 1.0
            told = {i: errors[i] / share for i in names}
            graph.learn(told)
            yield told


@cut_invariance.control
def one_step_short(draw: Draw) -> Measurement:
    """One unit step less than the cut graph is deep."""
    case = random_network(draw)
    return _invariant(_finest(case), StepByStep(FixedPrediction(), extra=-1))


@cut_invariance.control
def products_not_divided_out(draw: Draw) -> Measurement:
    """Z-IL with steps below one, its lessons taken as they are."""
    case = random_network(draw)
    steps = [draw.uniform(0.2, 0.8)] * len(case.hidden)
    return _invariant(_finest(case), LeadingEdge(steps, divided=False))


@cut_invariance.control
def inference_learning(draw: Draw) -> Measurement:
    """Strict inference at two cuts, each the other's truth."""
    case = curved(random_network(draw, least_depth=2))
    rule = Strict(step_size=0.02, steps=5)
    fine, coarse = (
        _gradients(_finest(case, without), rule) for without in ((), ["v1"])
    )
    return near_gradients(case, coarse, fine)
