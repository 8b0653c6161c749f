"""The rules as the studies of training know them: by name, with their candidates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn

import pcnotes as pc
from pcnotes.evaluation import Errors
from pcnotes.graph import Closure, Graph
from pcnotes.lessons import Lessons
from pcnotes.rules.protocol import teach

BASELINE = "bp"
# Proved to have BP's gradient: they have BP's candidates, and so BP's choice.
EXACT = ("exact", "z-il", "fp")
# Tuned on their own.
OTHERS = ("fp-half", "strict", "error", "incremental")
RULES = (BASELINE, *EXACT, *OTHERS)

# Ten candidates for each rule. Who has settings of its own has fewer rates.
RATES = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)
FEWER_RATES = (0.001, 0.004, 0.016, 0.064, 0.256)
# It makes several steps of the optimizer for one of the others.
LOWER_RATES = (0.00025, 0.001, 0.004, 0.016, 0.064)


@dataclass(frozen=True)
class Settings:
    """rate: of the optimizer. The rest is the rule's own, None if it has none.

    scale: β for one sample; the rule is given β times the batch, as losses are means.
    """

    rate: float
    step_size: float | None = None
    steps: int | None = None
    scale: float | None = None


def own(enough: int) -> dict[str, tuple[Settings, Settings]]:
    """Settings of the rules that have some, but for rates. enough: steps of inference
    in which news of the label can come to every vertex.
    """
    half = enough // 2
    return {
        "fp-half": (Settings(0, 0.5, half), Settings(0, 0.5, enough)),
        "strict": (Settings(0, 0.2, enough, 1.0), Settings(0, 0.2, enough, 0.1)),
        "error": (Settings(0, 0.3, enough, 1.0), Settings(0, 0.3, enough, 0.1)),
        "incremental": (Settings(0, 0.2, half, 1.0), Settings(0, 0.2, enough, 1.0)),
    }


def candidates(rule: str, enough: int) -> list[Settings]:
    """What is tried on the validation part, ten for each rule.

    >>> {len(candidates(rule, 4)) for rule in ("bp", *OTHERS)}
    {10}
    """
    if rule not in OTHERS:
        return [Settings(rate) for rate in RATES]
    return [
        replace(settings, rate=rate)
        for settings in own(enough)[rule]
        for rate in (LOWER_RATES if rule == "incremental" else FEWER_RATES)
    ]


@dataclass(frozen=True)
class OwnSteps:
    """A rule that goes through its own dynamics, and takes no proved shortcut."""

    rule: pc.rules.Rule

    def run(self, graph: Graph) -> Iterator[Errors]:
        """As the rule itself does."""
        return iter(self.rule.run(graph))


def made(rule: str, own: Settings, batch: int) -> pc.rules.Rule:
    """The rule of the package."""
    if rule == "bp":
        return pc.Backprop()
    if rule == "exact":
        return pc.Exact()
    if rule == "z-il":
        return OwnSteps(pc.ZIL())
    if rule == "fp":
        return OwnSteps(pc.FixedPrediction())
    if own.step_size is None or own.steps is None:
        raise ValueError(f"{rule} needs a step size and a number of steps, got {own}")
    if rule == "fp-half":
        return pc.FixedPrediction(own.step_size, own.steps)
    kinds = {
        "strict": pc.Strict,
        "error": pc.ErrorOptimisation,
        "incremental": pc.Incremental,
    }
    scale = (own.scale or 1.0) * batch
    return kinds[rule](step_size=own.step_size, steps=own.steps, scale=scale)


@dataclass(frozen=True)
class Spent:
    """What one batch costs: runs of the network, and products by vertex."""

    evaluations: int
    vjps: int
    lessons: int
    vertices: int

    @property
    def products(self) -> int:
        """One for a run of a vertex, for what it sends back, for its lesson."""
        return self.evaluations * self.vertices + self.vjps + self.lessons


def spent(rule: pc.rules.Rule, model: nn.Module, closure: Closure) -> Spent:
    """The counts of one batch by the rule's own steps; `.grad` is zero after it.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> x = torch.ones(1, 2)
    >>> spent(pc.Exact(), net, lambda: net(x).sum()).products
    5
    """
    graph = Graph(model, closure)
    if isinstance(rule, pc.Incremental):
        for _ in rule.run(graph):
            pass
    else:
        graph.lessons = Lessons()
        teach(rule, graph, own_steps=True)
    model.zero_grad()
    work = graph.work
    return Spent(work.evaluations, work.vjps, work.taught.total(), len(graph.vertices))
