"""Zero-divergence inference learning: parameters read at the leading edge."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..evaluation import Errors
from ..graph import Graph
from ..levelling import LevelledGraph
from ..objective import positive

# What step_size ** depth may reach, in decimal digits: float32 ends at 38.
LARGEST_POWER = 30


@dataclass(frozen=True)
class ZIL:
    """Strict dynamics, but each vertex learns at the instant when its error arrives.

    Values start at the feed-forward pass and descend the energy ½Σ‖μ - v‖² + loss, all
    at once, with predictions computed anew after every step. The error of a vertex of
    level k is zero before step k, and after exactly k steps it is step_sizeᵏ times
    backpropagation's, while its parents have not moved yet; at that instant its
    parameters learn. So the gradient is backpropagation's for step_size 1, and layer
    by layer a power of step_size of it otherwise (Song et al. 2020, Salvatori et al.
    2022). Outputs learn at step 0. The schedule is computed from the graph;
    `state.learned` names who learns when.

    A graph on which a vertex reaches the loss over ways of unequal length is levelled
    by identity vertices first (`graph.identity_vertices`): copies that carry a value
    one level further a step, with values and errors of their own, `a+1`, `a+2`, … .

    `infer` runs the dynamics, K steps on a graph of depth K, every one a pass through
    the whole network, or one for each level where identity vertices are needed.
    `backward` evaluates only the leading edge, which is one reverse sweep.

    >>> import torch, pcnotes as pc
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    >>> states = pc.infer(net, lambda: net(torch.ones(4, 2)).square().sum(), pc.ZIL())
    >>> [state.learned for state in states]
    [('1',), ('0',)]
    """

    step_size: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "step_size", positive("step_size", self.step_size))

    def run(self, graph: Graph) -> Iterator[Errors]:
        """The dynamics; after step k the vertices of level k learn."""
        levelled = LevelledGraph(graph)
        displacement, errors = levelled.zeros(), levelled.zeros()
        graph.last = at = levelled.begin()
        graph.learn({}, loss=True)
        yield errors
        for step in range(1, graph.depth + 1):
            asked = at.pull(errors)
            displacement = {
                n: u + self.step_size * (errors[n] - asked[n])
                for n, u in displacement.items()
            }
            graph.last = at = levelled.evaluate(displacement)
            errors = at.errors()
            graph.learn({i: errors[i] for i in graph.structure.by_level[step]})
            yield errors

    def teach(self, graph: Graph) -> None:
        """The leading edge alone: a level's errors are final when they arrive."""
        if self.step_size == 1:
            graph.sweep()
            return
        depth = graph.linearise().structure.depth
        if depth * math.log10(self.step_size) > LARGEST_POWER:
            raise FloatingPointError(
                f"{self} multiplies errors by {self.step_size:g} at each of {depth} "
                "levels, which floats do not hold; Z-IL's step size is near 1"
            )
        graph.sweep(lambda level: self.step_size**level)
