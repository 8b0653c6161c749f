"""One run of a closure on the cut graph: local graphs, and what they carry back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from .structure import Origin, Root, Structure, made_by, origins, read_structure

Errors = Mapping[str, Tensor]
Gradients = list[tuple[Tensor, Tensor]]  # leaf of autograd, gradient


@dataclass
class Work:
    """What was spent: runs of the closure, and by vertex what its local graph did.

    sent: products of a vertex's transposed Jacobian with an error, for its parents;
    vjps is their sum. taught: how often its parameters' gradient was taken.
    """

    evaluations: int = 0
    sent: Counter[str] = field(default_factory=Counter)
    taught: Counter[str] = field(default_factory=Counter)

    @property
    def vjps(self) -> int:
        """Products with a transposed Jacobian, of all vertices together."""
        return self.sent.total()


Name = TypeVar("Name", bound=Hashable)


class Sums(dict[Name, Tensor]):
    """Tensors that grow by what is added to them.

    Autograd may hand the same tensor out under several names. So the first sum is a new
    tensor, and only what is a sum already is added to in place.
    """

    def __init__(self, *terms: Mapping[Name, Tensor]) -> None:
        super().__init__()
        self._own: set[Name] = set()
        for each in terms:
            self.add(each)

    def add(self, terms: Mapping[Name, Tensor]) -> None:
        """Entry by entry; a new name begins with its term."""
        for name, term in terms.items():
            self.add_one(name, term)

    def add_one(self, name: Name, term: Tensor) -> None:
        """One entry."""
        known = self.get(name)
        if known is None:
            self[name] = term
        elif name in self._own and not known.is_sparse:
            known.add_(term)
        else:
            self[name] = known + term
            self._own.add(name)


class Evaluation:
    """One run of the closure on the cut graph, with its local autograd graphs.

    `predictions` holds μ of every reached vertex, `values` the v that each hidden
    vertex handed downstream. Nothing here reaches past a vertex's parents.
    """

    def __init__(
        self,
        loss: Tensor,
        predictions: dict[str, Any],
        values: dict[str, Tensor],
        work: Work,
        structure: Structure | None = None,
    ) -> None:
        self._loss = loss
        self._predictions = predictions
        self._values = values  # an output is among them only while it is cut, too
        self._work = work
        if structure is None:
            structure = read_structure(*self._origins)
        self.structure = structure

    @property
    def hidden(self) -> tuple[str, ...]:
        """The vertices that have a free value here."""
        return self.structure.hidden

    @property
    def loss(self) -> Tensor:
        """The loss of this run, detached."""
        return self._loss.detach()

    @cached_property
    def predictions(self) -> dict[str, Tensor]:
        """μ of every reached vertex, detached."""
        self._check_contents()
        return {i: self._predictions[i].detach() for i in self.structure.vertices}

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """v of every hidden vertex, detached."""
        self._check_contents()
        return {i: self._values[i].detach() for i in self.hidden}

    @cached_property
    def output_errors(self) -> dict[str, Tensor]:
        """∂loss/∂μ of every output."""
        return self._pull([self._loss], [None], self.structure.outputs)

    @cached_property
    def loss_gradient(self) -> dict[str, Tensor]:
        """The loss's own gradient g in the values of its parents, and no others.

        The loss is what comes after the last hidden vertex, outputs included.
        """
        cut = [i for i in self.structure.outputs if self._is_cut(i)]
        self._count(i for i in self.structure.outputs if i not in cut)
        near = [*self.structure.loss_parents, *cut]
        direct = self._pull([self._loss], [None], near)
        errors = {i: direct.pop(i) for i in cut if i in direct}
        return Sums(direct, self.vjp(errors))

    def vjp(self, errors: Errors) -> dict[str, Tensor]:
        """Jᵀε: the given vertices' errors carried to the values of their parents.

        Only parents have an entry. Shapes as the predictions' on both sides.
        """
        self._check(errors)
        self._count(errors)
        return self._carry(errors)

    def pull(self, errors: Errors, loss: float = 1.0) -> dict[str, Tensor]:
        """Jᵀε + loss·g for every hidden vertex: what its children ask of its value.

        errors: {hidden vertex: tensor shaped like its prediction}; missing ones count
        as zero.
        """
        if any(map(self._is_cut, self.structure.outputs)):
            g = self.loss_gradient
            weighted = {i: loss * e for i, e in g.items()}
            arrived: Errors = Sums(self.vjp(errors), weighted)
        else:  # all of it in one pass of autograd
            self._check(errors)
            self._count([*errors, *self.structure.outputs])
            sent = {i: e for i, e in errors.items() if self.structure.parents[i]}
            roots = [self._loss, *(self._predictions[i] for i in sent)]
            weights = [torch.full_like(self._loss, loss), *self._like(sent)]
            arrived = self._pull(roots, weights, self.hidden)
        return {i: self._or_zero(i, arrived) for i in self.hidden}

    def zeros(self) -> dict[str, Tensor]:
        """A zero error for every hidden vertex; float32 where predictions have less."""
        return {i: self._zero(i) for i in self.hidden}

    def adjoints(self) -> dict[str, Tensor]:
        """δ of the network as it stands here, its values' shifts held fixed."""
        self._count(self.structure.vertices)
        errors, _ = self._relay()
        return {i: self._or_zero(i, errors) for i in self.hidden}

    def sweep(
        self, seed: Tensor | None = None, keep_errors: bool = True
    ) -> tuple[Errors, Gradients]:
        """δ by vertex, and what it teaches every leaf; the local graphs are spent.

        seed: the error of the loss itself, 1 if not given; everything scales with it.
        keep_errors: if not, memory is freed on the way, as by backward(), and no
        errors are returned.
        """
        self._count(self.structure.vertices, self.structure.vertices)
        loss, vertices = self._origins
        reached = {i: vertices[i].leaves for i in self.structure.vertices}
        leaves = _each_once([loss.leaves, *reached.values()])
        errors, found = self._relay(seed, leaves, keep_errors)
        gradients = _given(leaves, found)
        if len(errors) < len(self._cut):
            # Autograd ended on the way (a backward that returns None): who was told
            # nothing does not teach, not even zeros.
            told = [reached[i] for i in reached if i in errors or not self._is_cut(i)]
            taught = {id(leaf) for leaf in _each_once([loss.leaves, *told])}
            gradients = [(leaf, g) for leaf, g in gradients if id(leaf) in taught]
        if not keep_errors:
            return {}, gradients
        return {i: self._or_zero(i, errors) for i in self.hidden}, gradients

    def _relay(
        self,
        seed: Tensor | None = None,
        leaves: Sequence[Tensor] = (),
        keep_errors: bool = True,
    ) -> tuple[dict[str, Tensor], Sequence[Tensor | None]]:
        """Every vertex's error from its children's, once; and the leaves' gradients.

        At unit step and frozen linearisation any order that visits children first is
        exact (`fp-asynchronous`). All local graphs are given to autograd at once. None
        leads to another: what has arrived at a value is handed to its prediction here.
        With leaves, the local graphs are spent.
        """
        if not self._in_order:
            return self._level_by_level(seed, leaves)
        values = [self._values[i] for i in self._cut]
        kinds = {v.dtype for v in values}
        zeros = {kind: self._loss.new_zeros((), dtype=kind) for kind in kinds}
        nothing = [zeros[v.dtype].expand(v.shape) for v in values]
        # The same tensors are with autograd, which finds in them what is put there.
        handed = {i: z.detach() for i, z in zip(self._cut, nothing, strict=True)}
        readers: dict[str, list[Tensor]] = {i: [] for i in self._cut}
        for child in self._cut:
            for parent in self._origins[1][child].parents:
                readers[parent].append(handed[child])

        def hand(name: str, zero: Tensor, error: Tensor | None) -> Tensor | None:
            if error is None:  # autograd ended on the way
                return None
            handed[name].data = error.to_dense() if error.is_sparse else error
            if keep_errors:
                return None
            for spoken in readers[name]:
                spoken.data = spoken.new_empty(())
            return zero

        hooks = [
            v.register_hook(partial(hand, i, z))
            for i, v, z in zip(self._cut, values, nothing, strict=True)
        ]
        roots = [self._loss, *(self._predictions[i] for i in self._cut)]
        try:
            found = _grad(roots, values, [seed, *handed.values()], leaves, bool(leaves))
        finally:
            for hook in hooks:
                hook.remove()
        return _named(self._cut, found), found[len(values) :]

    def _level_by_level(
        self, seed: Tensor | None, leaves: Sequence[Tensor]
    ) -> tuple[dict[str, Tensor], Sequence[Tensor | None]]:
        """The same in one pass of autograd per level."""
        errors = Sums[str]()
        direct = self._origins[0].parents
        errors.add(self._pull([self._loss], [seed], direct))
        for names in self.structure.by_level:
            here = {i: errors[i] for i in names if i in errors}
            errors.add(self._carry(here))
        roots = [self._loss, *(self._predictions[i] for i in errors)]
        return errors, _grad(roots, [], [seed, *self._like(errors)], leaves, True)

    @property
    def _in_order(self) -> bool:
        """Whether autograd leaves a prediction alone until all readers have spoken.

        It takes what was made last first, and readers are made after what they read. So
        it is in one thread (closures in several are not supported) and on the CPU; with
        a GPU there are two queues, and neither waits for the other.
        """
        loss, vertices = self._origins
        if any(t.device.type != "cpu" for t in (self._loss, *self._values.values())):
            return False
        made = {i: made_by(mu)._sequence_nr() for i, mu in self._predictions.items()}
        last = made_by(self._loss)._sequence_nr()
        return all(made[j] <= last for j in loss.parents) and all(
            made[j] < made[c]
            for c in self.structure.vertices
            for j in vertices[c].parents
        )

    def gradients(
        self, errors: Errors, loss: bool = True, factor: float | Tensor | None = None
    ) -> Gradients:
        """Σ (∂μ/∂θ)ᵀε over these vertices, as pairs (leaf, gradient).

        loss: whether the loss's own part, outputs included, is added. factor:
        multiplies everything where it enters the local graphs.
        """
        self._check(errors)
        outputs = self.structure.outputs
        errors = {i: e for i, e in errors.items() if i not in outputs}
        self._count((), (*errors, *(outputs if loss else ())))
        own, vertices = self._origins
        roots, weights, made_of = [], [], []
        if loss:
            cut = {i: e for i, e in self.output_errors.items() if self._is_cut(i)}
            errors = {**errors, **cut}
            roots, weights, made_of = [self._loss], [torch.ones_like(self._loss)], [own]
        roots += [self._predictions[i] for i in errors]
        weights += self._like(errors)
        made_of += [vertices[i] for i in errors]
        if factor is not None:
            weights = [(factor * w).to(w.dtype) for w in weights]
        leaves = _each_once(origin.leaves for origin in made_of)
        return _given(leaves, _grad(roots, [], weights, leaves))

    def readers(self) -> dict[Tensor, list[str]]:
        """By leaf: the vertices whose predictions were made of it."""
        found: dict[Tensor, list[str]] = {}
        for i, origin in self._origins[1].items():
            for leaf in origin.leaves:
                found.setdefault(leaf, []).append(i)
        return found

    def check_complete(self, errors: Errors) -> None:
        """Raise unless every hidden vertex has an error of its prediction's shape."""
        self._check(errors)
        if missing := [i for i in self.hidden if i not in errors]:
            raise KeyError(
                f"the rule gave no error for hidden vertices {', '.join(missing)}"
            )

    @cached_property
    def _cut(self) -> tuple[str, ...]:
        """The reached vertices that handed on a value: outputs need not."""
        return tuple(i for i in self.structure.vertices if self._is_cut(i))

    @cached_property
    def _origins(self) -> tuple[Origin, dict[str, Origin]]:
        """What the loss and the predictions of this run were made of."""
        roots = [self._loss, *self._predictions.values()]
        loss, *vertices = origins(roots, self._values)
        return loss, dict(zip(self._predictions, vertices, strict=True))

    def _is_cut(self, name: str) -> bool:
        return name in self._values

    def _handed(self, name: str) -> Any:
        """What went downstream: the value, or the prediction of an uncut output."""
        return self._values[name] if self._is_cut(name) else self._predictions[name]

    def _zero(self, name: str) -> Tensor:
        like = self._handed(name).detach()
        return torch.zeros_like(like, dtype=_accumulator(like.dtype))

    def _or_zero(self, name: str, errors: Errors) -> Tensor:
        found = errors.get(name)
        return self._zero(name) if found is None else found

    def _like(self, errors: Errors) -> list[Tensor]:
        """The errors in the precision in which the predictions were computed."""
        return [e.to(self._handed(i).dtype) for i, e in errors.items()]

    def _carry(self, errors: Errors) -> dict[str, Tensor]:
        """These errors at the values of the vertices' parents."""
        sent = {i: e for i, e in errors.items() if self.structure.parents[i]}
        parents = dict.fromkeys(j for i in sent for j in self.structure.parents[i])
        roots = [self._predictions[i] for i in sent]
        return self._pull(roots, self._like(sent), parents)

    def _pull(
        self,
        roots: Sequence[Root],
        weights: Sequence[Tensor | None],
        names: Iterable[str],
    ) -> dict[str, Tensor]:
        """What these roots send to what the named vertices handed downstream."""
        names = tuple(names)
        return _named(names, _grad(roots, [self._handed(i) for i in names], weights))

    def _count(self, senders: Iterable[str], taught: Iterable[str] = ()) -> None:
        """Errors are sent if there is anybody to send them to."""
        self._work.sent.update([i for i in senders if self.structure.parents[i]])
        self._work.taught.update(taught)

    def _check_contents(self) -> None:
        if any(not isinstance(mu, Tensor) for mu in self._predictions.values()):
            raise RuntimeError(
                "this evaluation kept local graphs alone (graph.linearise); values and "
                "predictions are those of graph.evaluate()"
            )

    def _check(self, errors: Errors) -> None:
        for i, error in errors.items():
            if i not in self.structure.parents or i not in self._predictions:
                known = ", ".join(self.hidden)
                raise KeyError(f"{i!r} is no vertex of this graph; it has {known}")
            if error.shape != (shape := self._handed(i).shape):
                raise ValueError(
                    f"the error of {i!r} has shape {tuple(error.shape)}, "
                    f"its prediction {tuple(shape)}"
                )


class Uncut:
    """One run with nothing cut: plain autograd, for comparison."""

    def __init__(self, loss: Tensor, edges: dict[str, Any]) -> None:
        self._loss = loss
        self._edges = edges

    @property
    def loss(self) -> Tensor:
        """The loss of this run, detached."""
        return self._loss.detach()

    def adjoints(self) -> dict[str, Tensor]:
        """δ = ∂loss/∂μ through the whole network, where the loss depends on μ."""
        found = _grad([self._loss], list(self._edges.values()), [None])
        return _named(self._edges, found)

    def gradients(self, factor: float | Tensor | None = None) -> Gradients:
        """∂loss/∂θ as pairs (leaf, gradient), times the factor."""
        (origin,) = origins([self._loss], {})
        seed = None if factor is None else factor * torch.ones_like(self._loss)
        return _given(origin.leaves, _grad([self._loss], [], [seed], origin.leaves))


def _grad(
    roots: Sequence[Any],
    values: Sequence[Any],
    weights: Any,
    leaves: Iterable[Tensor] = (),
    spend: bool = False,
) -> Any:
    """torch.autograd.grad for values, then leaves; unless spent, the graph is kept."""
    targets = [*values, *leaves]
    if not (roots and targets):
        return ()
    with _silent(leaves):
        return torch.autograd.grad(
            roots, targets, weights, retain_graph=not spend, allow_unused=True
        )


def _silent(leaves: Iterable[Tensor]) -> AbstractContextManager[None]:
    """No hook of a parameter sees a part of its gradient: they run at the hand-over."""
    hooked = [t._backward_hooks for t in leaves if t._backward_hooks]
    return _emptied(hooked) if hooked else nullcontext()


@contextmanager
def _emptied(dictionaries: Sequence[dict[Any, Any]]) -> Iterator[None]:
    saved = [dict(d) for d in dictionaries]
    for d in dictionaries:
        d.clear()
    try:
        yield
    finally:
        for d, before in zip(dictionaries, saved, strict=True):
            d.update(before)


def _given(leaves: Iterable[Tensor], found: Iterable[Tensor | None]) -> Gradients:
    pairs = zip(leaves, found, strict=False)  # found is empty if nothing was asked
    return [(leaf, gradient) for leaf, gradient in pairs if gradient is not None]


def _each_once(groups: Iterable[Sequence[Any]]) -> Sequence[Any]:
    """All entries, no object twice: a tensor's own equality is another thing."""
    first, *others = [*groups] or [()]
    if not others:
        return first
    found = {
        id(x) if isinstance(x, Tensor) else x: x for g in (first, *others) for x in g
    }
    return list(found.values())


def _named(names: Iterable[str], found: Iterable[Tensor | None]) -> dict[str, Tensor]:
    return {
        i: t.float() if t.dtype in HALF else t
        for i, t in zip(names, found, strict=False)
        if t is not None
    }


# Errors are summed over many steps: half precision would lose them.
HALF = (torch.float16, torch.bfloat16)


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in HALF else dtype
