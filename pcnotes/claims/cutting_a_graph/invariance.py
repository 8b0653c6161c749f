"""Claims about what does not depend on the cut: adjoints, levels, gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ... import theory
from ...evaluation import Errors
from ...graph import Graph
from ...levelling import LevelledGraph
from ...rules import Exact, FixedPrediction, Rule, Strict
from ..draw import Draw
from ..instances import Instance
from ..measuring import ROUNDING, exactly, gradients, near_gradients
from ..networks import chain, curved, furnished, random_network
from ..registry import Measurement, claim, worst
from ..schemes import Given
from .cuts import Cut, any_cut, finest

# ---- adjoints ------------------------------------------------------------------------


@claim(instances="random graphs and cuts", quantity="relative error")
def cut_adjoints(draw: Draw) -> Measurement:
    """Kept vertices have the adjoints of the uncut network, wherever it is cut.

    The package's cut graph against the uncut network: values; Mε + g at random errors
    against the Schur complement of the finest M; the solution of δ = Mδ + g against
    the gradient in shifts; and the parameters' gradient from these errors.
    """
    found = any_cut(draw, random_network(draw))
    return worst(*_pulls(found, draw, theory.eliminate), *_adjoints(found))


Elimination = Callable[
    [theory.Array, theory.Array, Sequence[int]], tuple[theory.Array, theory.Array]
]


def _pulls(found: Cut, draw: Draw, eliminate: Elimination) -> list[Measurement]:
    case, hidden = found.case, found.hidden
    graph = found.graph()
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
    lin = case.linear
    rows = [k for i in hidden for k in range(*lin.rows[i].indices(len(lin.g)))]
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


def _stacked(values: Mapping[str, Tensor], names: Sequence[str]) -> theory.Array:
    vector: theory.Array = torch.stack([values[i] for i in names]).flatten().numpy()
    return vector


def _adjoints(found: Cut) -> list[Measurement]:
    case, hidden = found.case, found.hidden
    graph = found.graph()
    graph.evaluate()
    errors = graph.zeros()
    for _ in range(graph.depth):
        errors = graph.pull(errors)
    taught = gradients(case, Given({i: case.delta[i] for i in hidden}), found.at)
    measured = [near_gradients(case, taught, case.parameter_gradients())]
    if hidden:
        off = _stacked(errors, hidden) - _stacked(case.delta, hidden)
        error = float(np.abs(off).max() / np.abs(case.linear.delta).max())
        measured.append(Measurement(error, ROUNDING * case.linear.cancellation))
    return measured


@cut_adjoints.control
def paths_through_the_rest_forgotten(draw: Draw) -> Measurement:
    """The kept rows of M and g as they are, without the paths that leave them."""
    case = random_network(draw, least_depth=3)
    found = finest(case, ["v2"])  # between v1 and v3

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
    fine = any_cut(draw, random_network(draw))
    chosen = sorted(fine.kept)
    some = {i for i in chosen if draw.integer(0, 1)} or {draw.choice(chosen)}
    coarse = Cut(fine.case, frozenset(some))
    lower, higher = (c.graph().levels for c in (coarse, fine))
    rises = [i for i in coarse.hidden if lower[i] > higher.get(i, 0)]
    return worst(
        _levels(fine, fine.inner.kept),
        _levels(coarse, coarse.inner.kept),
        exactly(len(rises) / len(chosen)),
    )


def _levels(found: Cut, counted: Collection[str]) -> Measurement:
    """The package's levels against all paths, on which these vertices count."""
    graph = found.graph()
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
    for child in case.children[i]:
        yield from (here + k for k in _counts(case, child, counted))


@cut_levels.control
def every_vertex_counts(draw: Draw) -> Measurement:
    """All vertices of the uncut chain are counted, also the one that is not kept."""
    wiring = chain(draw.integer(2, 5))
    names = list(wiring)
    case = furnished(draw, wiring, names[-1:])
    return _levels(finest(case, [draw.choice(names[1:])]), names)


# ---- invariance ----------------------------------------------------------------------


@claim(instances="random graphs and cuts, random steps", quantity="relative error")
def cut_invariance(draw: Draw) -> Measurement:
    """Three rules return the gradient of the uncut network, wherever it is cut.

    The reverse sweep; fixed prediction, by default and step by step with as many unit
    steps as the cut graph is deep or more; Z-IL as dynamics on the levelled graph, with
    random steps whose products are divided out.
    """
    found = any_cut(draw, random_network(draw))
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
    return near_gradients(found.case, gradients(found.case, rule, found.at), truth)


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
    return _invariant(finest(case), StepByStep(FixedPrediction(), extra=-1))


@cut_invariance.control
def products_not_divided_out(draw: Draw) -> Measurement:
    """Z-IL with steps below one, its lessons taken as they are."""
    case = random_network(draw)
    steps = [draw.uniform(0.2, 0.8)] * len(case.hidden)
    return _invariant(finest(case), LeadingEdge(steps, divided=False))


@cut_invariance.control
def inference_learning(draw: Draw) -> Measurement:
    """Strict inference at two cuts, each the other's truth."""
    case = curved(random_network(draw, least_depth=2))
    rule = Strict(step_size=0.02, steps=5)
    fine, coarse = (
        gradients(case, rule, finest(case, without).at) for without in ((), ["v1"])
    )
    return near_gradients(case, coarse, fine)
