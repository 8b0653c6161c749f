"""What a user calls: backward, infer, compare."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .evaluation import Errors
from .graph import Closure, Graph
from .lessons import Lessons
from .objective import Objective, Point
from .rules import FixedPrediction, Rule, check_rule, objective, run, teach
from .selection import At, Models, named_parameters


def backward(
    model: Models,
    closure: Closure,
    rule: Rule | None = None,
    at: At = None,
    gradient: float | Tensor | None = None,
) -> Tensor:
    """Put the gradient that `rule` computes into `.grad`; return the loss.

    The one-line change: `loss.backward()` becomes `pc.backward(model, closure, rule)`,
    where `closure` takes no argument, runs the model and returns the scalar loss. It
    must be pure, since rules may run it several times: no backward(), no optimizer, no
    fresh data. The rest of the loop stays: gradients are added, only for parameters
    that require grad, and parameters that the loss does not depend on keep None.
    Returns the loss of the feed-forward pass, detached.

    rule: `FixedPrediction()` if not given, which equals backpropagation on every model
    (`fp-finite-termination`). at: which module calls are vertices, see `pcnotes.cut`.
    gradient: a factor on what is added to `.grad`, as in `Tensor.backward`.

    >>> import torch, pcnotes as pc
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    >>> x, y = torch.ones(5, 3), torch.zeros(5, 2)
    >>> loss = pc.backward(net, lambda: torch.nn.functional.mse_loss(net(x), y))
    >>> loss.shape, net[0].weight.grad.shape
    (torch.Size([]), torch.Size([4, 3]))
    """
    _check_gradient(gradient)
    graph = Graph(model, closure, at)
    graph.lessons = Lessons(gradient)
    with graph.unwinding():
        teach(FixedPrediction() if rule is None else rule, graph)
        graph.lessons.hand_over()
    return graph.loss


class State:
    """One state of inference, after `step` updates.

    errors: ε of every vertex (for outputs ∂loss/∂μ). values: v of every hidden vertex.
    predictions: μ of every vertex, as the rule used them. energy: what the rule
    descends, ½‖μ - v‖² summed over hidden vertices plus the loss if nothing else is
    said, at the values of this state and with the predictions that belong to them.
    loss: the loss at these values. learned: whose parameters learn at this state. All
    are shaped as the modules' outputs; ε = μ - v.

    A state stays valid after later ones. Where energy and loss need an evaluation of
    their own (a rule with frozen predictions), they are to be read while the state is
    the newest.
    """

    def __init__(
        self, step: int, graph: Graph, errors: Errors, objective: Objective
    ) -> None:
        used = graph.last
        used.check_complete(errors)
        self.step = step
        self.learned = graph.learned
        self.predictions = used.predictions
        hidden = {i: errors[i].detach().clone() for i in used.hidden}
        outputs = {i: e.clone() for i, e in used.output_errors.items()}
        self.errors: dict[str, Tensor] = {**hidden, **outputs}
        frozen = used is graph.feedforward and step > 0
        self.values: dict[str, Tensor] = (
            {i: used.predictions[i] - e for i, e in hidden.items()}
            if frozen
            else used.values
        )
        self._objective = objective
        self._graph: Graph | None = graph
        self._versions = graph.versions()
        self._own = (
            None
            if frozen
            else (Point(used.hidden, self.predictions, self.values, used.loss), hidden)
        )

    @property
    def energy(self) -> Tensor:
        """E at the values of this state."""
        return self._objective.value(*self._at_values)

    @property
    def loss(self) -> Tensor:
        """The loss at the values of this state."""
        return self._at_values[0].loss

    @cached_property
    def _at_values(self) -> tuple[Point, Errors]:
        if self._own is not None:
            return self._own
        graph = self._graph
        if graph is None or graph.versions() != self._versions:
            raise RuntimeError(
                f"energy and loss of step {self.step} need an evaluation of their own: "
                "read them while the state is the newest and the parameters unchanged"
            )
        at = graph.probe(self.values)
        errors = {i: at.predictions[i] - v for i, v in self.values.items()}
        return Point(at.hidden, at.predictions, self.values, at.loss), errors

    def _is_past(self) -> None:
        self._graph = None

    def __repr__(self) -> str:
        return f"State(step={self.step}, {len(self.values)} values)"


def infer(
    model: Models, closure: Closure, rule: Rule | None = None, at: At = None
) -> Iterator[State]:
    """Watch `rule` at work: a generator of n + 1 states, step 0 the feed-forward pass.

    Arguments as for `backward`; `.grad` is not touched. Between states no hook is
    installed, and buffers and random states are as after one evaluation. Stop whenever
    you like.

    >>> import torch, pcnotes as pc
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    >>> rule = pc.FixedPrediction(step_size=0.5, steps=3)
    >>> [s.step for s in pc.infer(net, lambda: net(torch.ones(1, 2)).sum(), rule)]
    [0, 1, 2, 3]
    """
    chosen = FixedPrediction() if rule is None else check_rule(rule)
    return _states(Graph(model, closure, at), chosen)


def _states(graph: Graph, rule: Rule) -> Iterator[State]:
    with graph.unwinding():
        state = None
        descends = objective(rule)
        versions = graph.versions()
        for step, errors in enumerate(run(rule, graph)):
            if state is not None:
                state._is_past()
            state = State(step, graph, errors, descends)
            free_to_change = graph.feedforward is None
            graph.learned = ()
            yield state
            if not free_to_change and graph.versions() != versions:
                raise RuntimeError(
                    f"parameters were changed between two states of {rule!r}; finish "
                    "inference first, or learn at every step with pcnotes.Incremental"
                )


class Comparison:
    """How close rules come to backpropagation, from `compare`. Print it.

    Printed: relative error and cosine over all parameters together, how often the
    closure ran, and how many products of a vertex's transposed Jacobian with an error
    were taken.

    rows: one dict per rule with `rule`, `relative_error` and `cosine` (over all
    parameters together), `evaluations`, `vjps`, and by name `parameters` and `vertices`
    (their own relative error and cosine), and `untouched`: hidden vertices whose error
    is still exactly zero although backpropagation's is not.
    """

    def __init__(self, rows: list[dict[str, Any]], depth: int) -> None:
        self.rows = rows
        self.depth = depth

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and names, ready for json."""
        return {"depth": self.depth, "rules": self.rows}

    def __str__(self) -> str:
        cells = [self._columns(), *map(self._cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                [c[0].ljust(widths[0])]
                + [x.rjust(w) for x, w in zip(c[1:], widths[1:], strict=True)]
            )
            for c in cells
        ]
        notes = [
            textwrap.fill(note, 76, subsequent_indent="  ") for note in self._notes()
        ]
        return "\n".join([*lines, *notes])

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            return "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)

        body = "".join(f"<tr>{row(self._cells(r), 'td')}</tr>" for r in self.rows)
        notes = "".join(f"<p>{html.escape(n)}</p>" for n in self._notes())
        head = f"<thead><tr>{row(self._columns(), 'th')}</tr></thead>"
        return f"<table>{head}<tbody>{body}</tbody></table>{notes}"

    __repr__ = __str__

    @staticmethod
    def _columns() -> list[str]:
        return ["rule", "rel. error", "cosine", "runs", "vjps"]

    @staticmethod
    def _cells(row: dict[str, Any]) -> list[str]:
        numbers = [f"{row['relative_error']:.1e}", f"{row['cosine']:.6f}"]
        return [row["rule"], *numbers, str(row["evaluations"]), str(row["vjps"])]

    def _notes(self) -> list[str]:
        return [
            f"{row['rule']} leaves {', '.join(row['untouched'])} untouched: the graph "
            f"is {self.depth} edges deep, and the errors have not arrived there."
            for row in self.rows
            if row["untouched"]
        ]


def compare(
    model: Models, closure: Closure, rules: Sequence[Rule], at: At = None
) -> Comparison:
    """Hold the gradients of several rules against plain autograd.

    Leaves `.grad`, buffers and random states as they were. `print` the result, or take
    its `to_dict()`.

    >>> import torch, pcnotes as pc
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)).double()
    >>> x = torch.ones(4, 2, dtype=torch.float64)
    >>> table = pc.compare(net, lambda: net(x).square().sum(), [pc.FixedPrediction()])
    >>> table.rows[0]["relative_error"] < 1e-12
    True
    """
    rules = [rules] if isinstance(rules, Rule) else list(rules)
    names = {p: name for name, p in named_parameters(model).items()}
    reference = Graph(model, closure, at)
    with reference.unwinding():
        reference.evaluate()
        whole = reference.uncut()
        truth = _named(whole.gradients(), names)
        adjoints = whole.adjoints()
        reference.rewind()
    rows = [
        _row(Graph(model, closure, at), rule, truth, adjoints, names) for rule in rules
    ]
    return Comparison(rows, reference.depth)


def _row(
    graph: Graph,
    rule: Rule,
    truth: dict[str, Tensor],
    adjoints: Errors,
    names: Mapping[Any, str],
) -> dict[str, Any]:
    graph.lessons = lessons = Lessons(keep_errors=True)
    with graph.unwinding():
        teach(rule, graph)
        graph.rewind()
    found = _named(lessons.gradients, names)
    pairs = {n: (found.get(n, torch.zeros_like(g)), g) for n, g in truth.items()}
    vertices = {i: (e, adjoints[i]) for i, e in lessons.errors.items() if i in adjoints}
    relative_error, cosine = _distance(list(pairs.values()))
    return {
        "rule": str(rule),
        "relative_error": relative_error,
        "cosine": cosine,
        "evaluations": graph.work["evaluations"],
        "vjps": graph.work["vjps"],
        "parameters": {n: _distance([pair]) for n, pair in pairs.items()},
        "vertices": {i: _distance([pair]) for i, pair in vertices.items()},
        "untouched": [i for i, (e, d) in vertices.items() if not e.any() and d.any()],
    }


def _named(
    gradients: Mapping[Tensor, Tensor], names: Mapping[Any, str]
) -> dict[str, Tensor]:
    return {
        names[leaf]: (g.to_dense() if g.is_sparse else g).detach()
        for leaf, g in gradients.items()
        if leaf in names
    }


def _distance(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Relative error and cosine of two vectors that come in pieces, in float64."""
    ours = torch.cat(
        [a.detach().double().flatten().cpu() for a, _ in pairs] or [torch.zeros(0)]
    )
    theirs = torch.cat(
        [b.detach().double().flatten().cpu() for _, b in pairs] or [torch.zeros(0)]
    )
    norm = float(theirs.norm())
    difference = float((ours - theirs).norm())
    if norm == 0:  # nothing to be relative to
        return (0.0 if difference == 0 else float("inf")), float("nan")
    return difference / norm, float(ours @ theirs / (ours.norm() * norm))


def _check_gradient(gradient: object) -> None:
    is_number = isinstance(gradient, int | float) and not isinstance(gradient, bool)
    is_scalar = isinstance(gradient, Tensor) and gradient.ndim == 0
    if gradient is not None and not is_number and not is_scalar:
        raise TypeError(f"gradient must be a number or a 0-d tensor, got {gradient!r}")
