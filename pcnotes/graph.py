"""Cut a computation at modules: vertices, values, predictions, errors, edges.

While the user's closure runs, a hook on each chosen module keeps the module's output as
the *prediction* of a vertex and hands a *value*, a leaf of autograd, downstream in its
place. After the run every local graph reaches from a prediction back to its parents'
values and to the module's parameters, and no further: whatever a rule differentiates is
local, because there is no other path.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from .evaluation import Errors, Evaluation, Uncut, Work
from .lessons import Lessons
from .objective import Objective, largest_step
from .outputs import map_tensors
from .replay import Replay, refuse_changes
from .selection import At, Models, enclosing, modules_of, select
from .structure import Structure, origins

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Closure = Callable[[], Tensor]
# (module's name, how often it had been called, path inside what it returned)
Key = tuple[str, int, str]

_running = threading.local()


class Record(NamedTuple):
    """What a hook keeps of one tensor that a module returned."""

    prediction: Tensor
    # The leaf that went downstream; for an output None, uncut the edge of autograd.
    value: Any
    version: int


class Given(NamedTuple):
    """What the hidden vertices hand on: values, or shifts of their predictions."""

    tensors: dict[Key, Tensor]
    shift: bool

    def value(self, key: Key, mu: Tensor) -> Tensor:
        """v for this prediction; without a word about it, the prediction itself."""
        given = self.tensors.get(key)
        if given is None:
            return mu
        if given.shape != mu.shape:
            what = "error" if self.shift else "value"
            raise ValueError(
                f"the {what} given for module {key[0]!r} has shape "
                f"{tuple(given.shape)}, its prediction {tuple(mu.shape)}"
            )
        return mu.detach() - given if self.shift else given


def cut(model: Models, closure: Closure, at: At = None) -> Graph:
    """The graph of one evaluation of `closure`, cut at the chosen modules.

    model: a module or a list of modules. closure: takes no argument, runs the model and
    returns the scalar loss. at: which module calls are vertices. None means the
    innermost calls of modules that own parameters; otherwise a module type, a name
    (`*` within one component, `**` across dots), a module, a predicate
    `(name, module) -> bool`, or a list of these.

    Gradients, buffers and random states are left as they were.

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
        if getattr(_running, "active", False):
            raise RuntimeError("pcnotes was called from inside a closure of its own")
        if not torch.is_grad_enabled():
            raise RuntimeError(
                "gradients are disabled here (torch.no_grad or inference_mode); "
                "call pcnotes outside of it"
            )
        self._modules = modules_of(model)
        self._places = select(model, at)
        self._enclosing = enclosing(self._places)
        self._innermost = at is None
        self._closure = closure
        self._replay = Replay(self._modules)
        self._names: dict[Key, str] | None = None
        self._structure: Structure | None = None
        self._last: Evaluation | None = None
        self.feedforward: Evaluation | None = None
        self.lessons: Lessons | None = None
        self.learned: tuple[str, ...] = ()
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
        result is also `graph.last`, which pull() and learn() use.
        """
        if values is not None or errors is not None:
            self.last = self.probe(values, errors)
        elif self.feedforward is None:
            self.last = self.feedforward = self.probe()
        else:
            self.last = self.feedforward
        return self.last

    def probe(
        self, values: Errors | None = None, errors: Errors | None = None
    ) -> Evaluation:
        """An evaluation that does not become the last one."""
        if values is not None and errors is not None:
            raise TypeError("give values or errors, not both")
        given = Given(self._keys(values or errors or {}), shift=errors is not None)
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
        if self.lessons is not None:
            found = self.last.gradients(errors, loss, self.lessons.factor)
            self.lessons.add(errors, found)

    def sweep(self, share: Callable[[int], float] | None = None) -> None:
        """Reverse order, each vertex once: its error from its children's, and learn.

        share: by level, the share of the error that the parameters learn from.
        """
        lessons = self.lessons or Lessons()
        seed = None
        if lessons.factor is not None:
            seed = (lessons.factor * torch.ones_like(self.loss)).to(self.loss.dtype)
        for level, errors, gradients in self.last.sweep(seed):
            part = 1.0 if share is None or level == 0 else share(level)
            lessons.add(errors if level else {}, gradients, part)

    def accumulate(self, errors: Errors) -> None:
        """Learn now, straight into `.grad`: for rules that learn at every step."""
        self.learned += self.structure.vertices
        lessons = Lessons()
        lessons.add(errors, self.last.gradients(errors))
        lessons.hand_over()
        self.feedforward = None  # the parameters may change from here on

    def step_size(self, objective: Objective | None = None) -> float:
        """The largest stable step of the strict rules at the feed-forward pass.

        objective: the energy in question, with β = 1 and unit precisions if not given.
        By power iteration on the inference Hessian, 2/λ with λ approached from below.
        """
        return largest_step(self, Objective() if objective is None else objective)

    def rewind(self) -> None:
        """Put buffers and random states back to where they were before."""
        self._replay.rewind()

    def versions(self) -> tuple[int, ...]:
        """Changes when a parameter does."""
        parameters = (p for m in self._modules for p in m._parameters.values())
        return tuple(p._version for p in parameters if p is not None)

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
        records: dict[Key, Record] = {}
        if self.work.evaluations:
            with torch.enable_grad(), self._replay.again(), self._hooks(records, given):
                loss = self._closure()
        else:
            with refuse_changes(self._modules), self._hooks(records, given):
                loss = self._closure()
        _check_loss(loss)
        if given is not None:
            _check_records(records)
        if not self.work.evaluations:
            self.loss = loss.detach()
        self.work.evaluations += 1
        if not records:
            tried = ", ".join(list(self._places.values())[:8]) or "none owns parameters"
            raise RuntimeError(
                "no vertex was called: the closure called none of the chosen modules "
                f"with gradients on and a real output. Chosen were: {tried}"
            )
        return loss, records

    @contextmanager
    def _hooks(self, records: dict[Key, Record], given: Given | None) -> Iterator[None]:
        calls = dict.fromkeys(self._places, 0)
        started: dict[nn.Module, list[int]] = {m: [] for m in self._enclosing}
        outputs = self._output_keys()

        def before(module: nn.Module, args: Any) -> None:
            started[module].append(len(records))

        def after(module: nn.Module, args: Any, output: Any) -> Any:
            if module in started:
                has_inner = len(records) > started[module].pop()
                if has_inner and self._innermost:
                    return None
            call = calls[module]
            calls[module] += 1
            handed: dict[int, Tensor] = {}  # a tensor returned twice is one vertex

            def hand(path: str, mu: Tensor) -> Tensor:
                if not (mu.requires_grad and mu.is_floating_point()):
                    return mu
                if id(mu) not in handed:
                    key = (self._places[module], call, path)
                    if mu.grad_fn is None:
                        mu = mu.view_as(mu)  # a parameter, or the module's own input
                    if given is None:
                        record, passed = _watch(mu)
                    elif key in outputs:
                        record, passed = _pass_on(mu)
                    else:
                        record, passed = _cut(mu, given.value(key, mu))
                    records[key] = record
                    handed[id(mu)] = passed
                return handed[id(mu)]

            return map_tensors(output, hand)

        hooks = [m.register_forward_pre_hook(before) for m in self._enclosing]
        hooks += [m.register_forward_hook(after) for m in self._places]
        _running.active = True
        try:
            with _eager(), _no_gradients_across_cuts(records, given is not None):
                yield
        finally:
            _running.active = False
            for hook in hooks:
                hook.remove()

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

    def _keys(self, values: Errors) -> dict[Key, Tensor]:
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


def _eager() -> AbstractContextManager[object]:
    """Run compiled models as they were written: their compiled form skips hooks."""
    if "torch._dynamo" not in sys.modules:  # importing it takes seconds
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


@contextmanager
def _no_gradients_across_cuts(
    records: Mapping[Key, Record], cut: bool
) -> Iterator[None]:
    """Refuse torch.autograd.grad inside the closure where it would end at a cut.

    A gradient penalty, say, would silently lose all that lies before the last cut.
    """
    plain = torch.autograd.grad

    def guarded(outputs: Any, *arguments: Any, **options: Any) -> Any:
        ends = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        cuts = {str(k): r.value for k, r in records.items() if r.value is not None}
        ends = [e for e in ends if isinstance(e, Tensor) and e.grad_fn is not None]
        if any(origin.parents for origin in origins(ends, cuts)):
            raise RuntimeError(
                "the closure calls torch.autograd.grad through vertices of the cut "
                "graph, where the gradient would end; a double backward is not "
                "supported (choose vertices that lie outside of it with at=)"
            )
        return plain(outputs, *arguments, **options)

    if cut:
        torch.autograd.grad = guarded
    try:
        yield
    finally:
        torch.autograd.grad = plain


def _watch(mu: Tensor) -> tuple[Record, Tensor]:
    """Uncut: keep the edge of autograd, hand the prediction itself on."""
    edge = torch.autograd.graph.get_gradient_edge(mu)
    return Record(mu, edge, mu._version), mu


def _pass_on(mu: Tensor) -> tuple[Record, Tensor]:
    """An output: the loss's own graph goes on behind it."""
    return Record(mu, None, mu._version), _copy(mu)


def _copy(tensor: Tensor) -> Tensor:
    """A copy of its own: downstream may work in place, as on any output.

    On the devices that can, it is made when somebody writes, and not before.
    """
    lazily = tensor.device.type in ("cpu", "cuda") and hasattr(torch, "_lazy_clone")
    if lazily and tensor.layout == torch.strided and type(tensor) is Tensor:
        return torch._lazy_clone(tensor)
    return tensor.clone()


def _cut(mu: Tensor, value: Tensor) -> tuple[Record, Tensor]:
    """Keep the prediction and hand a value, a leaf of autograd, on in its place."""
    leaf = value.detach().to(mu.dtype).requires_grad_()
    return Record(mu, leaf, mu._version), _copy(leaf)


def _check_records(records: Mapping[Key, Record]) -> None:
    """Nothing happened to what was cut behind our back."""
    for (module, _, path), (mu, leaf, version) in records.items():
        if leaf is not None and leaf.grad is not None:
            raise RuntimeError(
                "the closure called backward(); it must only return the loss"
            )
        if mu._version != version:
            raise RuntimeError(
                f"the output {module + path!r} was modified in place under another "
                "name: it is a tensor that went into the module, and whoever still "
                "holds that sees no cut. Use what the module returns, or choose other "
                "vertices with at="
            )


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, Tensor):
        raise TypeError(
            "closure must return the scalar loss, a tensor with one element; "
            f"it returned {type(loss).__name__}"
        )
    if loss.dim() != 0 and loss.numel() != 1:
        raise ValueError(
            "closure must return a scalar loss; it returned a tensor of shape "
            f"{tuple(loss.shape)} (reduce it with .sum() or .mean())"
        )
    if not loss.is_floating_point():
        raise TypeError(f"the loss must be a floating-point tensor, it is {loss.dtype}")
    if not loss.requires_grad:
        raise RuntimeError(
            "the loss does not require grad: closure must return the tensor itself (no "
            ".item(), .detach() or torch.no_grad()), of parameters that require grad"
        )
    if not bool(torch.isfinite(loss)):
        raise FloatingPointError(
            f"the loss is not finite: closure returned {loss.item()}"
        )
