"""A computation that is cut at modules: what a rule works on.

After a run under hooks every local graph reaches from a prediction back to its parents'
values and to the module's parameters, and no further: whatever a rule differentiates is
local, because there is no other path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .evaluation import Errors, Evaluation, Uncut, Work
from .guards import check_loss, guarded, refuse_nesting, runs_again
from .hooks import Given, Key, Record, cutting
from .lessons import Lessons
from .objective import Objective, largest_step
from .replay import Replay, refuse_changes
from .selection import At, Models, enclosing, modules_of, refuse_wrappers, select
from .structure import Structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Closure = Callable[[], Tensor]


def cut(model: Models, closure: Closure, at: At = None) -> Graph:
    """The graph of one evaluation of `closure`, cut at the chosen modules.

    model: a module or a list of modules. closure: takes no argument, runs the model and
    returns the scalar loss. at: which module calls are vertices. None means the
    innermost calls of modules that own parameters; otherwise a module type, a name
    (`*` within one component, `**` across dots), a module, a predicate
    `(name, module) -> bool`, or a list of these.

    Gradients, buffers and random states are left as they were; what the model itself
    does to its parameters when it runs is not undone.

    >>> import torch, pcnotes as pc
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    >>> graph = pc.cut(model, lambda: model(torch.ones(5, 3)).square().sum())
    >>> graph.vertices, graph.hidden, graph.outputs, graph.levels
    (('0', '1'), ('0',), ('1',), {'0': 1, '1': 0})
    """
    graph = Graph(model, closure, at)
    with graph.unwinding():
        graph.evaluate()
        graph.rewind()
    return graph


class Graph:
    """What a rule works on: a closure that can be evaluated at any values.

    vertices: names of the reached vertices in order of execution. hidden: those that
    feed another vertex. outputs: those that feed the loss alone. unreached: cut, but
    the loss does not depend on them. parents, levels: mappings by name; the level of a
    vertex is the largest number of edges from it to the loss, 0 for outputs. depth: the
    largest level, K. graded: whether all ways from a vertex to the loss are equally
    long. identity_vertices: how many delayed copies of a value it takes to make it so,
    by vertex. loss: the feed-forward loss. last: the evaluation that pull() and learn()
    use; a rule may set it to an earlier one. work: what was spent, `work.evaluations`
    of the closure and `work.vjps`, vector-Jacobian products of vertices.
    """

    vertices: tuple[str, ...]
    hidden: tuple[str, ...]
    outputs: tuple[str, ...]
    unreached: tuple[str, ...]
    parents: dict[str, tuple[str, ...]]
    levels: dict[str, int]
    depth: int
    loss: Tensor

    def __init__(self, model: Models, closure: Closure, at: At = None) -> None:
        if not callable(closure):
            raise TypeError(
                "closure must be a function without arguments that runs the model and "
                f"returns the scalar loss, got {type(closure).__name__}"
            )
        refuse_nesting()
        if not torch.is_grad_enabled():
            raise RuntimeError(
                "gradients are disabled here (torch.no_grad or inference_mode); "
                "call pcnotes outside of it"
            )
        self._modules = modules_of(model)
        refuse_wrappers(self._modules)
        self._places = select(model, at)
        self._enclosing = enclosing(self._places)
        self._innermost = at is None
        self._closure = closure
        self._replay: Replay | None = None
        self._names: dict[Key, str] | None = None
        self._structure: Structure | None = None
        self._last: Evaluation | None = None
        self.feedforward: Evaluation | None = None
        self.lessons: Lessons | None = None
        self.parameters_may_change = False
        self._seen: tuple[int, ...] = ()
        self.learned: tuple[str, ...] = ()
        self.told = False  # whether anything learned yet, if only the loss's own part
        self.work = Work()

    @property
    def structure(self) -> Structure:
        """Parents and levels, as the feed-forward pass showed them."""
        if self._structure is None:
            raise RuntimeError("nothing was evaluated yet: call graph.evaluate() first")
        return self._structure

    @property
    def graded(self) -> bool:
        """Whether all ways from a vertex to the loss have the same length."""
        return self.structure.graded

    @property
    def identity_vertices(self) -> dict[str, int]:
        """How many delayed copies each value needs so that every edge spans a level."""
        return self.structure.identity_vertices

    @property
    def last(self) -> Evaluation:
        """The evaluation that pull(), zeros() and learn() use."""
        if self._last is None:
            raise RuntimeError("nothing was evaluated yet: call graph.evaluate() first")
        return self._last

    @last.setter
    def last(self, evaluation: Evaluation) -> None:
        self._last = evaluation

    def evaluate(
        self, values: Errors | None = None, errors: Errors | None = None
    ) -> Evaluation:
        """Run the closure with these values; None is the feed-forward pass.

        values: {hidden vertex: tensor}; a vertex that is not named hands its prediction
        on. errors: instead of values, {hidden vertex: ε}; a vertex hands μ - ε on. The
        result is also `graph.last`, which pull() and learn() use; the one before it is
        let go, unless it is the feed-forward pass.
        """
        self._last = None
        if values is not None or errors is not None:
            self.last = self.probe(values, errors)
        elif self.feedforward is None or self._seen != self.versions():
            self.last = self.feedforward = self.probe()
            self._seen = self.versions()
        else:
            self.last = self.feedforward
        return self.last

    def release(self) -> None:
        """Let the graphs of all evaluations go; a descent needs one at a time."""
        self._last = self.feedforward = None

    def probe(
        self,
        values: Errors | None = None,
        errors: Errors | None = None,
        contents: bool = True,
    ) -> Evaluation:
        """An evaluation that does not become the last one.

        contents: whether its predictions and values can be looked at.
        """
        if values is not None and errors is not None:
            raise TypeError("give values or errors, not both")
        keys = self._keys(errors if values is None else values)
        given = Given(keys, errors is not None, self._output_keys(), contents)
        loss, records = self._run(given)
        names = self._name(records)
        evaluation = Evaluation(
            loss,
            {names[k]: r.prediction for k, r in records.items()},
            {names[k]: r.value for k, r in records.items() if r.value is not None},
            self.work,
            self._structure,
        )
        if self._structure is None:
            self._show(evaluation.structure)
        return evaluation

    def _show(self, structure: Structure) -> None:
        self._structure = structure
        self.vertices, self.hidden = structure.vertices, structure.hidden
        self.outputs, self.unreached = structure.outputs, structure.unreached
        self.parents, self.levels = structure.parents, structure.levels
        self.depth = structure.depth

    def uncut(self) -> Uncut:
        """Run the closure with nothing cut, for comparison with backpropagation."""
        loss, records = self._run(None)
        names = self._name(records)
        return Uncut(loss, {names[k]: r.value for k, r in records.items()})

    def pull(self, errors: Errors, loss: float = 1.0) -> dict[str, Tensor]:
        """Jᵀε + loss·g at the last evaluation, for every hidden vertex."""
        return self.last.pull(errors, loss)

    def zeros(self) -> dict[str, Tensor]:
        """A zero error for every hidden vertex."""
        return self.last.zeros()

    @property
    def predictions(self) -> dict[str, Tensor]:
        """μ of every vertex at the last evaluation."""
        return self.last.predictions

    def learn(self, errors: Errors, loss: bool = False) -> None:
        """The parameters of these vertices learn now: (∂μ/∂θ)ᵀε at the last evaluation.

        loss: whether outputs, and what else the loss reads, learn now too. A rule that
        never calls this learns once: at its last evaluation, from its last errors.
        """
        self.learned += (*errors, *(self.structure.outputs if loss else ()))
        self.told = True
        if self.lessons is not None:
            found = self.last.gradients(errors, loss, self.lessons.factor)
            self.lessons.add(errors, found)

    def linearise(self) -> Evaluation:
        """The feed-forward pass without its numbers: its local graphs are kept alone.

        Enough for errors to travel while values stay. The memory of values is free for
        others, as in backpropagation. It becomes the last evaluation.
        """
        self._last = None
        self.last = self.probe(contents=False)
        return self.last

    def sweep(self, share: Callable[[int], float] | None = None) -> None:
        """Reverse order, each vertex once: its error from its children's, and learn.

        At the last evaluation, or at the feed-forward pass if there was none; it is
        spent, and memory freed on the way, as by backward(). share: by level, the share
        of its error that a vertex learns from.
        """
        at = self._last or self.linearise()
        if share is not None:
            errors = at.adjoints()
            self.learn({i: share(self.levels[i]) * e for i, e in errors.items()}, True)
            return
        lessons = self.lessons or Lessons()
        seed = None
        if lessons.factor is not None:
            seed = (lessons.factor * torch.ones_like(self.loss)).to(self.loss.dtype)
        self.release()
        lessons.add(*at.sweep(seed, lessons.keep_errors))

    def accumulate(self, errors: Errors) -> None:
        """Learn now, straight into `.grad`: for rules that learn at every step."""
        if self.lessons is not None:
            raise TypeError(
                "a rule that learns at every step of inference has no one gradient "
                "for backward or compare: run it under pcnotes.fit or infer"
            )
        self.learned += self.structure.vertices
        lessons = Lessons()
        lessons.add(errors, self.last.gradients(errors))
        lessons.hand_over()
        self.feedforward, self.parameters_may_change = None, True

    def step_size(self, rule: object | None = None) -> float:
        """The largest stable step of the strict rules at the feed-forward pass.

        rule: whose energy is meant, `Strict(scale=0.1)` say; without one β = 1 and unit
        precisions. By power iteration on the inference Hessian, 2/λ with λ approached
        from below: keep a margin.
        """
        if rule is not None and (
            isinstance(rule, type) or not hasattr(rule, "objective")
        ):
            raise TypeError(
                "step_size takes a rule that descends an energy, such as "
                f"pcnotes.Strict(), got {rule!r}"
            )
        own: Objective = Objective() if rule is None else rule.objective()
        return largest_step(self, own)

    def settle(self) -> None:
        """Undo what differentiating moved: a checkpoint runs its modules again."""
        if self._replay is not None:
            self._replay.settle()

    def rewind(self) -> None:
        """Put buffers and random states back to where they were before."""
        if self._replay is not None:
            self._replay.rewind()

    def versions(self) -> tuple[int, ...]:
        """Changes when a parameter does, or is exchanged for another."""
        parameters = (p for m in self._modules for p in m._parameters.values())
        return tuple(
            n for p in parameters if p is not None for n in (id(p), p._version)
        )

    @contextmanager
    def unwinding(self) -> Iterator[None]:
        """If something fails in here, the model is left as it was found."""
        try:
            yield
        except GeneratorExit:  # infer was dropped: nothing failed
            raise
        except BaseException:  # an interrupt too
            self.rewind()
            raise

    def _run(self, given: Given | None) -> tuple[Tensor, dict[Key, Record]]:
        """One run of the closure under hooks; the first one is the one that counts.

        given: None leaves everything uncut.
        """
        first = self._replay is None
        if self._replay is None:
            self._replay = Replay(self._modules)
        once = refuse_changes(self._modules) if first else self._replay.again()
        has_values = given is not None and bool(given.tensors)
        with (
            torch.enable_grad(),
            once,
            cutting(self._places, self._enclosing, self._innermost, given) as records,
            guarded(records, given is not None, has_values),
        ):
            loss = self._closure()
        check_loss(loss)
        if loss.grad_fn is None:
            loss = loss.view_as(loss)  # a parameter
        if first:
            self.loss = loss.detach()
            if runs_again():
                self._replay.mark()
        self.work.evaluations += 1
        if not records:
            tried = ", ".join(list(self._places.values())[:8]) or "none owns parameters"
            raise RuntimeError(
                "no vertex was called: the closure called none of the chosen modules "
                "with gradients on and a real output, or it ran another model than the "
                f"one that was given. Chosen were: {tried}"
            )
        return loss, records

    def _name(self, records: Mapping[Key, Any]) -> dict[Key, str]:
        """`module@k` for the k-th call of several, then the path in its output."""
        if self._names is None:
            calls: dict[str, int] = {}
            for module, call, _ in records:
                calls[module] = max(calls.get(module, 0), call + 1)
            self._names = {
                (module, call, path): module
                + (f"@{call + 1}" if calls[module] > 1 else "")
                + path
                for module, call, path in records
            }
            _check_distinct(self._names)
        if list(self._names) != list(records):
            raise RuntimeError(
                "the closure called other modules than in its first evaluation; it "
                "must do the same each time, whatever the values are"
            )
        return self._names

    def _output_keys(self) -> set[Key]:
        """Once known, outputs need no cut: nothing but the loss reads them."""
        if self._structure is None:
            return set()
        outputs = {*self._structure.outputs}
        return {key for key, name in (self._names or {}).items() if name in outputs}

    def _keys(self, values: Errors | None) -> dict[Key, Tensor]:
        if values is None:
            return {}
        if not isinstance(values, Mapping):
            raise TypeError(
                "values and errors are mappings {hidden vertex: tensor}, got "
                f"{type(values).__name__}"
            )
        if not values:
            return {}
        if self._structure is None:
            self.evaluate()
        keys = {name: key for key, name in (self._names or {}).items()}
        for i in values:
            if i not in self.structure.levels or i in self.structure.outputs:
                known = ", ".join(self.structure.hidden) or "none"
                raise KeyError(f"{i!r} has no free value; hidden vertices are {known}")
        return {keys[i]: v for i, v in values.items()}

    def plot(self, **options: Any) -> Axes:
        """Draw the vertices by level; options as in `pcnotes.plots.graph`."""
        from . import plots

        return plots.graph(self, **options)

    def __repr__(self) -> str:
        if self._structure is None:
            return "Graph(not evaluated yet)"
        s = self._structure
        edges = sum(map(len, s.parents.values()))
        return (
            f"Graph({len(s.vertices)} vertices, {len(s.outputs)} outputs, {edges} "
            f"edges, depth {s.depth}, {len(s.unreached)} unreached, "
            f"{'graded' if s.graded else 'not graded'})"
        )


def _check_distinct(names: Mapping[Key, str]) -> None:
    """A module called `a@2` beside two calls of `a`, say."""
    owner: dict[str, Key] = {}
    for key, name in names.items():
        if name in owner:
            raise ValueError(
                f"two vertices would be called {name!r}, of the modules "
                f"{owner[name][0]!r} and {key[0]!r}: rename one of them, or choose "
                "other vertices with at="
            )
        owner[name] = key
