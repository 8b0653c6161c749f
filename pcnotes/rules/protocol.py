"""What a rule is.

A rule is any object with `run(graph)`, a generator that yields {hidden vertex: error}
after each step, step 0 (the feed-forward pass) first. It may use `graph.evaluate`,
`graph.pull`, `graph.zeros` and `graph.predictions`. Its parameters learn from its last
errors at its last evaluation, unless it says otherwise by `graph.learn`.

A rule that has a cheaper road to the same lesson, proved equal, may also have
`teach(graph)`. A rule that descends another energy than ½Σ‖ε‖² + loss says which by a
method `objective()`.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..evaluation import Errors
from ..graph import Graph
from ..objective import Objective


@runtime_checkable
class Rule(Protocol):
    """What `pcnotes` asks of a rule."""

    def run(self, graph: Graph) -> Iterator[Errors]:
        """Yield the hidden vertices' errors after each step, step 0 first."""
        ...


def check_rule(rule: Rule) -> Rule:
    """The rule itself, or a TypeError that says what a rule is."""
    is_rule = isinstance(rule, Rule) and callable(rule.run)
    if isinstance(rule, type) or not is_rule:
        raise TypeError(
            "rule must be a rule such as pcnotes.FixedPrediction(), an object with "
            f"run(graph); got {rule!r}"
        )
    return rule


def teach(rule: Rule, graph: Graph, own_steps: bool = False) -> None:
    """Fill `graph.lessons`: by the rule's own steps if asked, else by its shortcut."""
    check_rule(rule)
    shortcut = getattr(rule, "teach", None)
    if shortcut is not None and not own_steps:
        shortcut(graph)
        return
    (errors,) = deque(run(rule, graph), maxlen=1)
    if not graph.told:
        graph.last.check_complete(errors)
        graph.learn(errors, loss=True)
    if late := [i for i in graph.hidden if i not in graph.learned]:
        raise KeyError(f"{rule!r} never let {', '.join(late)} learn")


def run(rule: Rule, graph: Graph) -> Iterator[Errors]:
    """The rule's steps; there must be one at least, and their errors finite."""
    errors, states = None, rule.run(graph)
    if not isinstance(states, Iterable):
        raise TypeError(
            f"run() of {rule!r} must be a generator that yields errors, it returned "
            f"{type(states).__name__}"
        )
    for errors in states:
        if not isinstance(errors, Mapping) or not all(
            isinstance(e, Tensor) for e in errors.values()
        ):
            raise TypeError(
                f"{rule!r} must yield mappings {{hidden vertex: tensor}}, it yielded "
                f"{errors!r:.80}"
            )
        _check_finite(errors)
        yield errors
    if errors is None:
        raise ValueError(f"{rule!r} yielded no errors: run() must yield step 0 first")


def label(rule: object) -> str:
    """The rule as one would write it: arguments that are not the defaults."""
    if not dataclasses.is_dataclass(rule) or isinstance(rule, type):
        return str(rule)
    given = [
        f"{f.name}={getattr(rule, f.name)!r}"
        for f in dataclasses.fields(rule)
        if getattr(rule, f.name) is not f.default and getattr(rule, f.name) != f.default
    ]
    return f"{type(rule).__name__}({', '.join(given)})"


def objective(rule: Rule) -> Objective:
    """The energy that the rule descends, or by which it is watched."""
    own = getattr(rule, "objective", None)
    return Objective() if own is None else own()


def _check_finite(errors: Errors) -> None:
    sums = [e.sum().double().cpu() for e in errors.values()]
    if sums and not bool(torch.isfinite(torch.stack(sums)).all()):
        bad = [i for i, e in errors.items() if not bool(torch.isfinite(e).all())]
        if bad:
            raise FloatingPointError(
                f"the errors of {', '.join(bad[:5])} are not finite: inference "
                "diverged (a smaller step_size, or fewer steps), or the model's own "
                "gradient is not finite there"
            )
