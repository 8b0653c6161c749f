"""What a user calls: backward and infer."""

from __future__ import annotations

import numbers
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from .evaluation import Errors
from .graph import Closure, Graph
from .lessons import Lessons
from .objective import Objective, Point
from .rules import FixedPrediction, Rule, check_rule, objective, run, teach
from .selection import At, Models


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

    rule: `FixedPrediction()` if not given, which equals backpropagation on every graph
    (`fp-finite-termination`). at: which module calls are vertices, see `pcnotes.cut`.
    gradient: a factor on what is added to `.grad`, as in `Tensor.backward`.

    >>> import torch, pcnotes as pc
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    >>> x, y = torch.ones(5, 3), torch.zeros(5, 2)
    >>> loss = pc.backward(net, lambda: torch.nn.functional.mse_loss(net(x), y))
    >>> loss.shape, net[0].weight.grad.shape
    (torch.Size([]), torch.Size([4, 3]))
    """
    factor = _factor(gradient)
    graph = Graph(model, closure, at)
    graph.lessons = Lessons(factor)
    with graph.unwinding():
        teach(FixedPrediction() if rule is None else rule, graph)
        graph.settle()
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
        self, step: int, errors: Errors, graph: Graph, objective: Objective
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
    descends, steps = objective(rule), enumerate(run(rule, graph))
    with graph.unwinding():  # from here on the model is as after one evaluation
        state = State(*next(steps), graph, descends)
    while True:
        graph.learned, versions = (), graph.versions()
        graph.settle()
        yield state
        if not graph.parameters_may_change and graph.versions() != versions:
            raise RuntimeError(
                f"parameters were changed between two states of {rule!r}; finish "
                "inference first, or learn at every step with pcnotes.Incremental"
            )
        try:
            step, errors = next(steps)
        except StopIteration:
            return
        state._is_past()
        state = State(step, errors, graph, descends)


def _factor(gradient: object) -> float | Tensor | None:
    """What multiplies `.grad`: a real number or a 0-d real tensor."""
    if isinstance(gradient, Tensor):
        is_real = not gradient.is_complex() and gradient.dtype != torch.bool
        if gradient.ndim == 0 and is_real:
            return gradient
    elif gradient is None:
        return None
    elif isinstance(gradient, numbers.Real) and not isinstance(gradient, bool):
        try:
            return float(gradient)
        except OverflowError:
            raise ValueError("gradient is larger than floats can be") from None
    raise TypeError(f"gradient must be a number or a 0-d tensor, got {gradient!r}")
