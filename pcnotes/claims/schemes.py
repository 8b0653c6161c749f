"""Other orders, starts and freezings of the same dynamics, as rules of the package.

Claims need them to say what the theorems say about *any* order or *any* start. Each is
a rule in the sense of `pcnotes.rules`, so `pcnotes.infer` runs it on any network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..evaluation import Errors, Evaluation
from ..graph import Graph
from ..rules import Rule


@dataclass(frozen=True)
class Given:
    """No dynamics: these errors, at the feed-forward pass."""

    errors: Errors

    def run(self, graph: Graph) -> Iterator[Errors]:
        """Step 0 only."""
        graph.evaluate()
        yield self.errors


@dataclass(frozen=True)
class Dynamics:
    """A rule without its shortcut: what its steps teach, not what a theorem says."""

    rule: Rule

    def run(self, graph: Graph) -> Iterator[Errors]:
        """The rule's own steps."""
        return self.rule.run(graph)


@dataclass(frozen=True)
class Relaxation:
    """Fixed prediction with real steps of any sign, from any start."""

    steps: Sequence[float]
    start: Errors | None = None

    def run(self, graph: Graph) -> Iterator[Errors]:
        """ε ← (1 - η)ε + η(Mε + g), all vertices at once."""
        graph.evaluate()
        errors = graph.zeros() if self.start is None else self.start
        yield errors
        for eta in self.steps:
            pulled = graph.pull(errors)
            errors = {i: (1 - eta) * e + eta * pulled[i] for i, e in errors.items()}
            yield errors


@dataclass(frozen=True)
class Asynchronous:
    """Unit steps of some vertices at a time, in the given order, from any start."""

    updates: Sequence[Sequence[str]]
    start: Errors

    def run(self, graph: Graph) -> Iterator[Errors]:
        """ε_i ← (Mε + g)_i for the vertices of each update, together."""
        graph.evaluate()
        errors = dict(self.start)
        yield errors
        for chosen in self.updates:
            pulled = graph.pull(errors)
            errors = {**errors, **{i: pulled[i] for i in chosen}}
            yield errors


@dataclass(frozen=True)
class Sweeps:
    """One vertex after the other, each with the newest errors of its children.

    from_loss: from the loss to the input (Gauss-Seidel), or the other way round.
    """

    eta: float
    sweeps: int
    from_loss: bool = True

    def run(self, graph: Graph) -> Iterator[Errors]:
        """A state after each sweep."""
        graph.evaluate()
        errors = graph.zeros()
        yield errors
        order = graph.hidden[::-1] if self.from_loss else graph.hidden
        for _ in range(self.sweeps):
            for i in order:
                pulled = graph.pull(errors)[i]
                mixed = (1 - self.eta) * errors[i] + self.eta * pulled
                errors = {**errors, i: mixed}
            yield errors


@dataclass(frozen=True)
class PartlyFrozen:
    """v ← v + η(ε - Bᵀε - g) with ε = p - v, each ingredient live or frozen at v̂.

    predictions, jacobians, loss_gradient: whether p, B and g are frozen.
    """

    predictions: bool
    jacobians: bool = True
    loss_gradient: bool = True
    eta: float = 1.0
    steps: int = 1
    start: Errors | None = None

    def run(self, graph: Graph) -> Iterator[Errors]:
        """From the values `start`, or v̂; yields ε = p - v."""
        frozen = live = graph.evaluate()
        values = {i: frozen.predictions[i] for i in graph.hidden}
        values = values if self.start is None else dict(self.start)
        for step in range(self.steps + 1):
            live = graph.evaluate(values)
            p = (frozen if self.predictions else live).predictions
            errors = {i: p[i] - v for i, v in values.items()}
            yield errors
            if step < self.steps:
                carried = (frozen if self.jacobians else live).pull(errors, loss=0.0)
                g = (frozen if self.loss_gradient else live).pull(graph.zeros())
                values = {
                    i: v + self.eta * (errors[i] - carried[i] - g[i])
                    for i, v in values.items()
                }


@dataclass(frozen=True)
class LocalScheme:
    """An arbitrary synchronous scheme in which vertices see their neighbours only.

    The state of a vertex has the shape of its value; its next state is a function of
    its own, its neighbours' and, at parents of the loss, the loss's gradient there.
    weights: {(vertex, vertex it sees): number}; own states are seen too.
    """

    weights: Mapping[tuple[str, str], float]
    rounds: int

    def run(self, graph: Graph) -> Iterator[Errors]:
        """The states after each round; they start at zero."""
        graph.evaluate()
        states = graph.zeros()
        told = graph.pull(graph.zeros())  # g: zero except at the parents of the loss
        yield states
        for _ in range(self.rounds):
            seen = {
                i: [w * states[j] for (to, j), w in self.weights.items() if to == i]
                for i in states
            }
            states = {i: torch.sin(sum(seen[i], told[i] + 1)) for i in states}
            yield states


@dataclass(frozen=True)
class Live:
    """Descent of the energy with live predictions, any real steps, from any start.

    steps: one entry for each update, a number for all vertices or {vertex: number or
    matrix}. precisions: {vertex: symmetric matrix}, as the metric of its error; the
    identity if not named. Matrices act on the last axis.
    """

    steps: Sequence[float | Mapping[str, float | torch.Tensor]]
    start: Errors | None = None
    precisions: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def run(self, graph: Graph) -> Iterator[Errors]:
        """v ← v - Γ∇E, all at once; yields ε = f(v) - v."""
        at = graph.evaluate()
        ground = {i: at.predictions[i] for i in graph.hidden}
        moved, errors = graph.zeros(), graph.zeros()
        if self.start is not None:
            moved = {i: v - ground[i] for i, v in self.start.items()}
            at, errors = self._at(graph, ground, moved)
        yield errors
        for step in self.steps:
            weighted = {i: self._weighted(i, e) for i, e in errors.items()}
            asked = at.pull(weighted)
            size = step if isinstance(step, Mapping) else dict.fromkeys(moved, step)
            moved = {
                i: u + _times(size[i], weighted[i] - asked[i]) for i, u in moved.items()
            }
            at, errors = self._at(graph, ground, moved)
            yield errors

    def _weighted(self, vertex: str, error: torch.Tensor) -> torch.Tensor:
        return _times(self.precisions.get(vertex, 1.0), error)

    @staticmethod
    def _at(
        graph: Graph, ground: Errors, moved: Errors
    ) -> tuple[Evaluation, dict[str, torch.Tensor]]:
        """The evaluation at v̂ + u, with ε = (f - v̂) - u, which keeps its digits."""
        at = graph.evaluate({i: ground[i] + u for i, u in moved.items()})
        return at, {i: (at.predictions[i] - ground[i]) - u for i, u in moved.items()}


def _times(factor: float | torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    return vector @ factor if isinstance(factor, torch.Tensor) else factor * vector
