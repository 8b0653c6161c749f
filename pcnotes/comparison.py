"""How close rules come to backpropagation, and at what cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .evaluation import Errors
from .graph import Closure, Graph
from .lessons import Lessons
from .rules import Rule, check_rule, label, teach
from .selection import At, Models, named_parameters
from .tables import Table


class Comparison:
    """How close rules come to backpropagation, from `compare`. Print it.

    Printed are relative error and cosine over all parameters together, and what was
    spent: `runs` of the closure, `vjps`, products of a vertex's transposed Jacobian
    with an error, and `lessons`, gradients of a vertex's parameters (a dash where
    autograd did all in one). `by_vertex()` and `by_parameter()` are tables of the same
    for each of them.

    rows: one dict per rule with `rule`, `relative_error` and `cosine` (over all
    parameters together), `evaluations`, `vjps`, `lessons`, and by name `parameters` and
    `vertices` (each with its own `relative_error`, `cosine` and cost), and `untouched`:
    hidden vertices whose error is still exactly zero although backpropagation's is not.
    A vertex's error is the one that its parameters learn from.
    """

    def __init__(self, rows: list[dict[str, Any]], depth: int, graded: bool) -> None:
        self.rows = rows
        self.depth = depth
        self.graded = graded

    def __add__(self, other: Comparison) -> Comparison:
        """The rules of both, of comparisons on the same model."""
        return Comparison(self.rows + other.rows, self.depth, self.graded)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and names, ready for json; what is undefined is None."""
        rows = [_without_nan(row) for row in self.rows]
        return {"depth": self.depth, "graded": self.graded, "rules": rows}

    def by_vertex(self) -> Table:
        """One row for each rule and hidden vertex."""
        return self._each("vertices", "vertex", ("vjps", "lessons"))

    def by_parameter(self) -> Table:
        """One row for each rule and parameter."""
        return self._each("parameters", "parameter", ("lessons",))

    def __str__(self) -> str:
        return str(self.overview())

    def _repr_html_(self) -> str:
        return self.overview()._repr_html_()

    __repr__ = __str__

    def overview(self) -> Table:
        """One row for each rule."""
        columns = ["rule", "rel. error", "cosine", "runs", "vjps", "lessons"]
        rows = [
            [row["rule"], *_closeness(row), str(row["evaluations"]), *_spent(row)]
            for row in self.rows
        ]
        notes = [
            f"{row['rule']} leaves {', '.join(row['untouched'])} untouched: the graph "
            f"is {self.depth} edges deep, and the errors have not arrived there."
            for row in self.rows
            if row["untouched"]
        ]
        return Table(columns, rows, notes)

    def _each(self, key: str, name: str, costs: Sequence[str]) -> Table:
        rows = [
            [row["rule"], i, *_closeness(own), *(str(own[c]) for c in costs)]
            for row in self.rows
            for i, own in row[key].items()
        ]
        return Table(["rule", name, "rel. error", "cosine", *costs], rows)


def compare(
    model: Models,
    closure: Closure,
    rules: Sequence[Rule],
    at: At = None,
    *,
    own_steps: bool = False,
) -> Comparison:
    """Hold the gradients of several rules against plain autograd.

    Arguments as for `backward`; rules: a list of them. own_steps: every rule goes
    through the steps that `infer` shows, and what they cost is counted; otherwise, as
    in `backward`, a rule may take a shorter road that is proved to end at the same
    gradient. Leaves `.grad`, buffers and random states as they were (what the model
    itself does to its parameters when it runs is not undone). `print` the result, or
    take its `to_dict()`.

    >>> import torch, pcnotes as pc
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)).double()
    >>> x = torch.ones(4, 2, dtype=torch.float64)
    >>> table = pc.compare(net, lambda: net(x).square().sum(), [pc.Exact(), pc.ZIL()])
    >>> [row["relative_error"] < 1e-12 for row in table.rows]
    [True, True]
    >>> own = pc.compare(
    ...     net, lambda: net(x).square().sum(), [pc.ZIL()], own_steps=True
    ... )
    >>> table.rows[1]["evaluations"], own.rows[0]["evaluations"]  # K + 1 of its own
    (1, 2)
    """
    if isinstance(rules, Rule):
        rules = [rules]
    elif not isinstance(rules, Iterable) or isinstance(rules, str):
        raise TypeError(f"rules must be a list of rules, got {rules!r}")
    rules = list(rules)
    if not rules:
        raise ValueError("rules is empty: give at least one rule to compare")
    for rule in rules:
        check_rule(rule)
    names: dict[Tensor, str] = {p: name for name, p in named_parameters(model).items()}
    reference = Graph(model, closure, at)
    with reference.unwinding():
        at_start = reference.evaluate()
        whole = reference.uncut()
        truth = _named(dict(whole.gradients()), names)
        adjoints = whole.adjoints()
        readers = {
            names[leaf]: found
            for leaf, found in at_start.readers().items()
            if leaf in names
        }
        reference.rewind()
    rows = []
    for rule in rules:
        graph = Graph(model, closure, at)
        graph.lessons = lessons = Lessons(keep_errors=True)
        with graph.unwinding():
            teach(rule, graph, own_steps)
            graph.rewind()
        found = _named(lessons.gradients, names)
        rows.append(_row(rule, graph, lessons.errors, found, truth, adjoints, readers))
    return Comparison(rows, reference.depth, reference.graded)


def _row(
    rule: Rule,
    graph: Graph,
    errors: Errors,
    found: Mapping[str, Tensor],
    truth: Mapping[str, Tensor],
    adjoints: Errors,
    readers: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    pairs = {n: (found.get(n, torch.zeros_like(g)), g) for n, g in truth.items()}
    vertices = {i: (errors[i], d) for i, d in adjoints.items() if i in errors}
    sent, taught = graph.work.sent, graph.work.taught
    return {
        "rule": label(rule),
        **_distance(list(pairs.values())),
        "evaluations": graph.work.evaluations,
        "vjps": sent.total(),
        "lessons": taught.total(),
        "parameters": {
            n: {
                **_distance([pair]),
                "lessons": sum(taught[i] for i in readers.get(n, ())),
            }
            for n, pair in pairs.items()
        },
        "vertices": {
            i: {**_distance([pair]), "vjps": sent[i], "lessons": taught[i]}
            for i, pair in vertices.items()
        },
        "untouched": [i for i, (e, d) in vertices.items() if not e.any() and d.any()],
    }


def _named(
    gradients: Mapping[Tensor, Tensor], names: Mapping[Tensor, str]
) -> dict[str, Tensor]:
    return {
        names[leaf]: (g.to_dense() if g.is_sparse else g).detach()
        for leaf, g in gradients.items()
        if leaf in names
    }


def _distance(pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Relative error and cosine of two vectors that come in pieces, in float64."""
    ours, theirs = _vector(a for a, _ in pairs), _vector(b for _, b in pairs)
    norm, own = float(theirs.norm()), float(ours.norm())
    difference = float((ours - theirs).norm())
    if norm == 0:  # nothing to be relative to
        relative_error = 0.0 if difference == 0 else math.inf
    else:
        relative_error = difference / norm
    cosine = float(ours @ theirs) / (own * norm) if own and norm else math.nan
    return {"relative_error": relative_error, "cosine": cosine}


def _vector(pieces: Iterable[Tensor]) -> Tensor:
    """All numbers in float64; complex ones as their two parts."""
    real = (torch.view_as_real(p) if p.is_complex() else p for p in pieces)
    flat = [p.detach().double().flatten().cpu() for p in real]
    return torch.cat(flat) if flat else torch.zeros(0, dtype=torch.float64)


def _closeness(row: Mapping[str, Any]) -> list[str]:
    return [f"{row['relative_error']:.1e}", f"{row['cosine']:.6f}"]


def _spent(row: Mapping[str, Any]) -> list[str]:
    if not (row["vjps"] or row["lessons"]):  # one pass of autograd, nothing to count
        return ["–", "–"]
    return [str(row["vjps"]), str(row["lessons"])]


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
