"""Cuts of random networks, and what the wiring alone says about them.

What a cut should look like is read off the wiring; the package's own reading of the
graph of autograd is one of the things that are held against it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from ...graph import Graph, cut
from ..draw import Draw
from ..instances import Instance
from ..vertices import Wiring

LOSS = "loss"  # the loss as one more vertex, which no module is called


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

    def graph(self) -> Graph:
        """The same cut by the package."""
        return cut(self.case.network, self.case.closure, self.at)

    def sources(self, modules: Collection[str]) -> bool:
        """Whether one of them reads the input."""
        return any(not self.case.network.wiring[m] for m in modules)


def any_cut(draw: Draw, case: Instance) -> Cut:
    """A cut at random vertices, at least one."""
    names = list(case.network.wiring)
    kept = {i for i in names if draw.integer(0, 1)}
    return Cut(case, frozenset(kept or {draw.choice(names)}))


def finest(case: Instance, without: Collection[str] = ()) -> Cut:
    """A cut at all vertices but these."""
    return Cut(case, frozenset(case.network.wiring) - frozenset(without))
