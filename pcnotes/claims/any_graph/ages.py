"""Strict steps whose ingredients may be of any age.

Predictions, Jacobians and loss gradients are taken at the present state, at the first
one, or at any state between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ...evaluation import Errors, Evaluation
from ...graph import Graph
from ..draw import Draw
from ..instances import Instance
from ..measuring import exactly, near, states
from ..networks import curved, random_network
from ..registry import Measurement, worst
from ..vertices import Values

# (what is taken: "prediction", "jacobian" or "loss"; of which vertex; by which vertex;
# at which time) -> the time of the state that it is taken at.
Age = Callable[[str, str, str, int], int]


def live(kind: str, of: str, by: str, now: int) -> int:
    """Z-IL: everything at the present state."""
    return now


def frozen(kind: str, of: str, by: str, now: int) -> int:
    """Fixed prediction: everything at the feed-forward pass."""
    return 0


def drawn(draw: Draw, fresh: int) -> Age:
    """Random ages: out of three ingredients about `fresh` are not from the start."""
    return lambda kind, of, by, now: (
        draw.integer(0, now) if draw.integer(1, 3) <= fresh else 0
    )


@dataclass
class Aged:
    """v ← v + γ(ε - Jᵀε - g) from v̂, ε = μ - v, with ingredients of any age.

    Kept are displacements u = v - v̂, so that small errors keep their digits. After the
    run: the displacements and predictions at every time, and the ages that were used.
    """

    age: Age
    steps: int
    step_size: Callable[[str, int], float] = lambda vertex, now: 1.0
    u: list[Values] = field(default_factory=list)
    mu: list[Values] = field(default_factory=list)
    used: dict[tuple[str, str, str, int], int] = field(default_factory=dict)

    def run(self, graph: Graph) -> Iterator[Errors]:
        """The errors after each step."""
        start = graph.evaluate()
        past: list[Evaluation] = [start]
        base = start.predictions
        self.u, self.mu, self.used = [graph.zeros()], [], {}
        for now in range(self.steps + 1):
            mu = {
                i: past[self._at("prediction", i, i, now)].predictions[i]
                for i in graph.hidden
            }
            errors = {i: (mu[i] - base[i]) - self.u[now][i] for i in mu}
            self.mu.append(mu)
            yield errors
            asked = self._asked(graph, past, errors, now)
            moved = {
                i: u + self.step_size(i, now) * (errors[i] - asked[i])
                for i, u in self.u[now].items()
            }
            self.u.append(moved)
            if now < self.steps:
                past.append(graph.evaluate({i: base[i] + moved[i] for i in moved}))

    def _at(self, kind: str, of: str, by: str, now: int) -> int:
        return self.used.setdefault((kind, of, by, now), self.age(kind, of, by, now))

    def _asked(
        self, graph: Graph, past: Sequence[Evaluation], errors: Errors, now: int
    ) -> dict[str, Tensor]:
        """Jᵀε + g, edge by edge."""
        total = graph.zeros()
        for i in graph.structure.loss_parents:
            g = past[self._at("loss", i, i, now)].loss_gradient[i]
            total[i] = total[i] + g
        for c in graph.hidden:
            sent: dict[int, dict[str, Tensor]] = {}
            for i in graph.parents[c]:
                t = self._at("jacobian", i, c, now)
                if t not in sent:
                    sent[t] = past[t].vjp({c: errors[c]})
                total[i] = total[i] + sent[t][i]
        return total


def with_shortcut(draw: Draw) -> Instance:
    """A curved network in which the first vertex feeds the loss directly too."""
    return curved(random_network(draw, least_depth=2, skip=True))


def at_their_levels(case: Instance, age: Age) -> Measurement:
    """ε_i at step d_max(i) against autograd's δ_i, its parents still at v̂."""
    _, level = case.distances
    rule = Aged(age, case.depth)
    found = states(case, rule)
    at_level = {i: found[level[i]][i] for i in case.hidden}
    moved = sum(
        bool(rule.u[level[c]][i].any()) for c in case.hidden for i in case.edges[c]
    )
    return worst(near(case, at_level, case.delta), exactly(float(moved)))
