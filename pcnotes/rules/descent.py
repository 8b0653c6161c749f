"""Going down an energy step by step, and noticing when it goes up instead."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..evaluation import Errors, Evaluation
from ..graph import Graph
from ..objective import Objective, norm, positive
from .arguments import count, share
from .protocol import label

# A stable descent never raises the energy. Past this factor the parameters would learn
# from an iteration that is running away.
LARGEST_GROWTH = 10.0


@dataclass(frozen=True)
class Descends:
    """The arguments of every rule that goes down an energy."""

    step_size: float = 0.1
    steps: int = 20
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "step_size", positive("step_size", self.step_size))
        object.__setattr__(self, "steps", count("steps", self.steps))
        tolerance = getattr(self, "tolerance", None)
        if tolerance is not None:
            object.__setattr__(self, "tolerance", share("tolerance", tolerance))
        self.objective()

    def objective(self) -> Objective:
        """The energy that it descends."""
        return Objective(
            self.scale, getattr(self, "precision", None), getattr(self, "energy", None)
        )


class Descent(ABC):
    """A point on the way down, from the feed-forward pass on."""

    def __init__(self, graph: Graph, objective: Objective, rule: object) -> None:
        self.graph, self.objective, self.rule = graph, objective, rule
        self.at: Evaluation = graph.evaluate()
        self.errors: dict[str, Tensor] = graph.zeros()
        self.step = 0

    @abstractmethod
    def force(self) -> dict[str, Tensor]:
        """The energy's negative gradient in what is moved."""

    @abstractmethod
    def move(self, force: Errors, step_size: float) -> None:
        """One step along the force; `at` and `errors` follow."""

    def lesson(self) -> dict[str, Tensor]:
        """What the parameters learn from here."""
        return self.objective.lesson(self.objective.slopes(self.at, self.errors))

    def walk(
        self, steps: int, step_size: float, tolerance: float | None
    ) -> Iterator[Errors]:
        """Yield the errors after each step; the parameters learn from the last."""
        first = usual = 0.0
        for self.step in range(steps + 1):
            energy = self.energy()
            force = {}
            if self.step < steps or tolerance is not None:
                force = self.force()
            if self.step == 0:
                first = norm(force)
                # ‖∇E‖² is what a unit step would gain: a loss that happens to be near
                # zero is no measure of the energies to come.
                usual = abs(energy) + first**2
            still = tolerance is not None and norm(force) <= tolerance * first
            if still or self.step == steps:
                if self.step and abs(energy) > LARGEST_GROWTH * usual:
                    raise self.diverged(f"E grew more than {LARGEST_GROWTH:g}-fold")
                self.graph.learn(self.lesson(), loss=True)
                yield self.errors
                return
            yield self.errors
            self.move(force, step_size)

    def energy(self) -> float:
        """E at this point; not finite raises."""
        energy = self.objective.value(self.at, self.errors)
        if not bool(torch.isfinite(energy)):
            raise self.diverged("E is not finite")
        return float(energy)

    def diverged(self, what: str) -> FloatingPointError:
        """The exception, with the step that theory allows."""
        return FloatingPointError(
            f"{label(self.rule)} diverged: {what} after {self.step} steps. "
            f"{self.advice()} If the loss is unbounded below, no step size helps"
        )

    def advice(self) -> str:
        """What step size to take instead."""
        return "Take a smaller step_size or a smaller scale."


class InValues(Descent):
    """Values move, all at once; predictions are computed anew after every step.

    Kept are the displacements u of the values from the feed-forward pass: μ - v would
    lose the digits of a small error, (μ - v̂) - u does not.
    """

    def __init__(self, graph: Graph, objective: Objective, rule: object) -> None:
        super().__init__(graph, objective, rule)
        self.start = {i: self.at.predictions[i] for i in graph.hidden}
        self.displacement = graph.zeros()

    def force(self) -> dict[str, Tensor]:
        """-∇E in the values."""
        slopes = self.objective.slopes(self.at, self.errors)
        return self.objective.force(self.at, slopes)

    def move(self, force: Errors, step_size: float) -> None:
        """v ← v - step_size·∇E."""
        for i, u in self.displacement.items():
            u.add_(force[i], alpha=step_size)
        del self.at  # one evaluation at a time
        self.graph.release()
        self.at = self.graph.evaluate(
            {i: self.start[i] + u for i, u in self.displacement.items()}
        )
        self.errors = {
            i: (self.at.predictions[i] - self.start[i]).sub_(u)
            for i, u in self.displacement.items()
        }

    def advice(self) -> str:
        """What theory allows at the feed-forward pass."""
        largest = self.graph.step_size(self.rule)
        if not math.isfinite(largest):
            return "The energy itself, or the loss, is not finite there."
        return (
            "At the feed-forward pass the largest stable step_size is about "
            f"{largest:.2g} (graph.step_size(rule)): take less, or a smaller scale."
        )


class InErrors(Descent):
    """Errors move; values follow by a forward pass with v = μ - ε."""

    def force(self) -> dict[str, Tensor]:
        """β·δ(ε) - ε, where δ(ε) is the adjoint of the shifted network."""
        adjoints = self.at.adjoints()
        scale = self.objective.scale
        return {i: scale * adjoints[i] - e for i, e in self.errors.items()}

    def move(self, force: Errors, step_size: float) -> None:
        """ε ← ε + step_size·(β·δ(ε) - ε)."""
        self.errors = {
            i: e.add(force[i], alpha=step_size) for i, e in self.errors.items()
        }
        del self.at
        self.graph.release()
        self.at = self.graph.evaluate(errors=self.errors)
