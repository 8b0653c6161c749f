"""Identity vertices: a graph in which every edge spans exactly one level.

A value that is read two levels further down, or by the loss, is passed along a line of
delayed copies, `a+1`, `a+2`, …, each of which predicts nothing but its predecessor. The
user's model knows nothing of copies, so the closure is run once per level, and in each
run a parent hands on the copy that this level reads.
"""

from __future__ import annotations

import weakref

from torch import Tensor

from .evaluation import Errors, Evaluation, Gradients, Sums
from .graph import Graph

# Each copy is as large as its vertex, and there may be as many as edges squared.
MOST_IDENTITY_VERTICES = 10_000


class LevelledGraph:
    """A graph with its identity vertices put in.

    hidden: the names of its vertices with free values, copies included.
    """

    def __init__(self, graph: Graph) -> None:
        # The graph keeps our evaluations: a strong reference back would be a circle.
        self.graph = weakref.proxy(graph)
        self.start = graph.evaluate()
        copies = graph.identity_vertices
        if (total := sum(copies.values())) > MOST_IDENTITY_VERTICES:
            raise ValueError(
                f"levelling this graph takes {total} identity vertices, more than "
                f"{MOST_IDENTITY_VERTICES}; choose coarser vertices with at= (whole "
                "blocks, say), or use backward, which needs none of them"
            )
        self.source = {
            copy_name(j, q): (j, q)
            for j in graph.hidden
            for q in range(copies.get(j, 0) + 1)
        }
        if len(self.source) < len(graph.hidden) + total:
            raise ValueError(
                "the names of identity vertices, such as 'a+1', are taken by modules "
                "of the model: rename these"
            )

    @property
    def hidden(self) -> tuple[str, ...]:
        """Vertices with free values, each followed by its copies."""
        return tuple(self.source)

    def zeros(self) -> dict[str, Tensor]:
        """A zero for each of them."""
        zeros = self.start.zeros()
        return {n: zeros[j] for n, (j, _) in self.source.items()}

    def seen(self, parent: str, level: int) -> str:
        """The copy of a parent that vertices of this level read."""
        return copy_name(parent, self.graph.levels[parent] - level - 1)

    def begin(self) -> LevelledEvaluation:
        """The feed-forward pass, which nothing has to be run for again."""
        runs = [self.start] * (self.graph.depth + 1)
        return LevelledEvaluation(self, runs, self.zeros())

    def evaluate(self, displacement: Errors) -> LevelledEvaluation:
        """Run the closure with these values, given as distances from v̂."""
        feedforward = self.start.predictions

        def handed(level: int) -> dict[str, Tensor]:
            names = {
                j: self.seen(j, level)
                for j in self.graph.hidden
                if self.graph.levels[j] > level
            }
            return {
                j: feedforward[j] + displacement[n]
                for j, n in names.items()
                if n in displacement
            }

        if self.graph.graded:
            values = {j: feedforward[j] + displacement[j] for j in self.graph.hidden}
            runs = [self.graph.probe(values)] * (self.graph.depth + 1)
        else:
            runs = [self.graph.probe(handed(k)) for k in range(self.graph.depth + 1)]
        return LevelledEvaluation(self, runs, displacement)


class LevelledEvaluation(Evaluation):
    """What the runs of all levels say, every vertex by the run of its level."""

    def __init__(
        self, graph: LevelledGraph, runs: list[Evaluation], displacement: Errors
    ) -> None:
        self.structure = graph.start.structure
        self._graph = graph
        self._runs = runs
        self._displacement = displacement
        start = graph.start.predictions
        self.values = {
            n: start[j] + displacement[n] for n, (j, _) in graph.source.items()
        }
        self.predictions = {
            i: runs[level].predictions[i] for i, level in self.structure.levels.items()
        }
        self.predictions |= {  # a copy predicts its predecessor
            n: self.values[copy_name(j, q - 1)]
            for n, (j, q) in graph.source.items()
            if q
        }

    @property
    def hidden(self) -> tuple[str, ...]:
        """Vertices with free values, copies included."""
        return self._graph.hidden

    @property
    def loss(self) -> Tensor:
        """The loss of this run, detached."""
        return self._runs[0].loss

    @property
    def output_errors(self) -> dict[str, Tensor]:
        """∂loss/∂μ of every output."""
        return self._runs[0].output_errors

    def errors(self) -> dict[str, Tensor]:
        """ε = (μ - v̂) - u; a copy's prediction is its predecessor's value."""
        u, start = self._displacement, self._graph.start.predictions
        return {
            n: u[copy_name(j, q - 1)] - u[n]
            if q
            else (self.predictions[j] - start[j]) - u[n]
            for n, (j, q) in self._graph.source.items()
        }

    def pull(self, errors: Errors, loss: float = 1.0) -> dict[str, Tensor]:
        """Jᵀε + loss·g for every vertex and copy."""
        graph = self._graph
        found = Sums(graph.zeros())
        g = self._runs[0].loss_gradient
        found.add({graph.seen(j, 0): loss * e for j, e in g.items()})
        for level, names in enumerate(self.structure.by_level[1:], 1):
            sent = self._runs[level].vjp({i: errors[i] for i in names})
            found.add({graph.seen(j, level): e for j, e in sent.items()})
        for n, (j, q) in graph.source.items():
            if q:
                found.add_one(copy_name(j, q - 1), errors[n])
        return found

    def gradients(
        self, errors: Errors, loss: bool = True, factor: float | Tensor | None = None
    ) -> Gradients:
        """As of any evaluation; copies have no parameters."""
        total: Gradients = []
        for level, run in enumerate(self._runs):
            here = {
                i: e for i, e in errors.items() if self.structure.levels.get(i) == level
            }
            with_loss = loss and level == 0
            if here or with_loss:
                total += run.gradients(here, with_loss, factor)
        return total

    def zeros(self) -> dict[str, Tensor]:
        """A zero error for every vertex and copy."""
        return self._graph.zeros()

    def check_complete(self, errors: Errors) -> None:
        """Raise unless every vertex has an error."""
        if missing := [n for n in self.hidden if n not in errors]:
            raise KeyError(f"the rule gave no error for {', '.join(missing)}")


def copy_name(vertex: str, delay: int) -> str:
    """`a+2` is the value of `a` two steps later; `a+0` is `a` itself."""
    return f"{vertex}+{delay}" if delay else vertex
