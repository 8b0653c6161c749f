"""Claims about coarser cuts, and the work that autograd does inside a vertex."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping

from torch import Tensor

from ... import learning
from ...graph import cut as cut_graph
from ...rules import ZIL, Exact, FixedPrediction, Rule
from ..cutting_a_graph.cuts import LOSS, Cut
from ..draw import Draw
from ..instances import Instance
from ..measuring import exactly, near_gradients
from ..networks import any_network, furnished, graded_network, random_network
from ..registry import Measurement, claim, worst
from ..schemes import Dynamics
from ..vertices import Network, Values, Wiring
from .lessons import calm
from .patterns import residual


class Tapped(Network):
    """A network that counts the products that a backward pass makes, edge by edge.

    inside, between: how many errors were handed from an operation that reads to the one
    that is read, where that one is not kept, and where it is.
    """

    def __init__(self, network: Network, kept: frozenset[str]) -> None:
        super().__init__(network.wiring, dict(network.named_children()))
        self.kept, self.inside, self.between = kept, 0, 0

    def predict(self, name: str, values: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """f of one vertex; each parent is read by an edge of its own."""
        return super().predict(name, _Edges(self, values), x)

    def forward(self, x: Tensor, shifts: Mapping[str, Tensor] | None = None) -> Values:
        """The values; the loss too reads each by an edge of its own."""
        values = super().forward(x, shifts)
        return {i: self.tap(i, v) for i, v in values.items()}

    def tap(self, name: str, value: Tensor) -> Tensor:
        """The same value, whose reader is counted when an error comes back from it."""
        edge = value.view_as(value)
        if edge.requires_grad:
            edge.register_hook(lambda _: self._count(name))
        return edge

    def _count(self, name: str) -> None:
        if name in self.kept:
            self.between += 1
        else:
            self.inside += 1


class _Edges(dict[str, Tensor]):
    """Values that are read by way of a tap."""

    def __init__(self, network: Tapped, values: Mapping[str, Tensor]) -> None:
        super().__init__(values)
        self.network = network

    def __getitem__(self, name: str) -> Tensor:
        return self.network.tap(name, super().__getitem__(name))


def counted(cut: Cut) -> tuple[int, int]:
    """(inside, between): what one reverse sweep of the package makes."""
    tapped = Tapped(cut.case.network, cut.kept)
    case = dataclasses.replace(cut.case, network=tapped)
    case.network.zero_grad(set_to_none=True)
    learning.backward(tapped, case.closure, Exact(), cut.at)
    return tapped.inside, tapped.between


def by_the_wiring(cut: Cut) -> tuple[int, int]:
    """The same from the wiring: edges with a path to the loss, by their tails."""
    useful, stack = {LOSS}, [LOSS]
    while stack:
        new = set(cut.reads[stack.pop()]) - useful
        useful |= new
        stack += new
    tails = [j for c in useful for j in cut.reads[c]]
    kept = sum(j in cut.kept for j in tails)
    return len(tails) - kept, kept


@claim(instances="random graphs and nested cuts", quantity="relative error")
def coarsening(draw: Draw) -> Measurement:
    """A coarser cut keeps the gradient and moves work from between to inside.

    Three rules by their own steps at two nested cuts against autograd; the products of
    a sweep, counted by hooks, against the wiring; depth and share monotone, 0 and 1 at
    the ends; whole levels left out of a graded graph leave a graded one.
    """
    case = calm(any_network(draw))
    fine = Cut(case, frozenset(i for i in case.hidden if draw.integer(0, 3)))
    fewer = frozenset(i for i in case.hidden if i in fine.kept and draw.integer(0, 1))
    coarse = Cut(case, fewer)
    truth = case.parameter_gradients()
    rules: list[Rule] = [FixedPrediction(), ZIL(), Exact()]
    rule = draw.choice(rules)
    cuts = [c for c in (fine, coarse) if c.kept]
    measured = [
        near_gradients(case, _at_cut(c, rule), truth, _spread(case)) for c in cuts
    ]
    measured += [exactly(float(counted(c) != by_the_wiring(c))) for c in cuts]
    shares = [_share(c) for c in (_everything(case), fine, coarse, Cut(case, _none))]
    depths = [_depth(c) for c in (_everything(case), fine, coarse)]
    ordered = [shares == sorted(shares), depths == sorted(depths, reverse=True)]
    ends = [shares[0] == 0.0, shares[-1] == 1.0]
    measured.append(exactly(float((ordered + ends).count(False))))
    return worst(*measured, _whole_levels(draw), _bottlenecks(draw))


_none: frozenset[str] = frozenset()


def _everything(case: Instance) -> Cut:
    """The finest cut; outputs are vertices here, as the theorem has it."""
    return Cut(case, frozenset(case.network.wiring))


def _share(cut: Cut) -> float:
    inside, between = by_the_wiring(cut)
    return inside / (inside + between)


def _depth(cut: Cut) -> int:
    """The largest number of kept vertices on a path, outputs apart."""
    kept = cut.kept - set(cut.case.outputs)
    return max(_reaching(Cut(cut.case, kept)).values(), default=0)


def _reaching(cut: Cut) -> dict[str, int]:
    found: dict[str, int] = {}
    for i in reversed([i for i in cut.case.network.wiring if i in cut.reached]):
        below = [found.get(c, 0) for c in cut.children(i) if c in found or c == LOSS]
        found[i] = 1 + max(below, default=0)
    return found


def _spread(case: Instance) -> float:
    largest = max(float(v.abs().max()) for v in case.feedforward.values())
    return 1 + largest / case.size


def _at_cut(cut: Cut, rule: Rule) -> dict[str, Tensor]:
    """What a rule's own steps leave in `.grad`, cut there."""
    network = cut.case.network
    network.zero_grad(set_to_none=True)
    learning.backward(network, cut.case.closure, Dynamics(rule), cut.at)
    named = network.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}


def _whole_levels(draw: Draw) -> Measurement:
    case = graded_network(draw, least_depth=2)
    level = case.distances[1]
    chosen = {k for k in range(1, case.depth + 1) if draw.integer(0, 1)} or {1}
    kept = frozenset(i for i in case.hidden if level[i] in chosen)
    graph = cut_graph(case.network, case.closure, Cut(case, kept).at)
    # What feeds the loss alone is an output for the package, of level zero.
    lowest = 1 if graph.outputs else 0
    wrong = [not graph.graded, graph.depth != len(chosen) - lowest]
    return exactly(float(wrong.count(True)))


def _bottlenecks(draw: Draw) -> Measurement:
    """Only the stem and the sums of residual blocks: a chain."""
    branches = [draw.integer(1, 3) for _ in range(draw.integer(1, 3))]
    pattern = residual(branches, True)
    case = furnished(draw, pattern.wiring, pattern.loss_parents)
    kept = {"stem", *(f"sum{b}" for b in range(1, len(branches) + 1))}
    kept |= set(case.outputs)
    graph = cut_graph(case.network, case.closure, lambda name, _: name in kept)
    chain = [max(len(p) for p in graph.parents.values()) == 1, graph.graded]
    right = [*chain, not graph.identity_vertices, graph.depth == len(branches) + 1]
    return exactly(float(right.count(False)))


@coarsening.control
def one_vertex_dropped(draw: Draw) -> Measurement:
    """A graded diamond without one of its two middle vertices is not graded."""
    wiring: Wiring = {"v1": (), "v2": ("v1",), "v3": ("v1",), "v4": ("v2", "v3")}
    case = furnished(draw, wiring, ["v4"])
    kept = {"v1", "v4", "out1", draw.choice(["v2", "v3"])}
    graph = cut_graph(case.network, case.closure, lambda name, _: name in kept)
    return exactly(float(not graph.graded))


@coarsening.control
def steps_of_the_coarser_cut(draw: Draw) -> Measurement:
    """Fixed prediction on the finer cut, with as many steps as the coarser is deep."""
    case = calm(random_network(draw, least_depth=3))
    fine = Cut(case, frozenset(case.hidden))
    truth = case.parameter_gradients()
    return near_gradients(case, _at_cut(fine, FixedPrediction(1.0, 1)), truth)


@coarsening.control
def only_kept_vertices_counted(draw: Draw) -> Measurement:
    """Taking all work for work between vertices, at a cut that leaves some out."""
    case = random_network(draw, least_depth=2)
    cut = Cut(copy.copy(case), frozenset(case.hidden[1:]))
    inside, between = counted(cut)
    return exactly(inside / (inside + between))
