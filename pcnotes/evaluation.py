"""One run of a closure on the cut graph: local graphs, and what they carry back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from .structure import Origin, Structure, origins, read_structure

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

    def take(self, name: Name) -> Tensor | None:
        """The sum, which is not kept."""
        self._own.discard(name)
        return self.pop(name, None)


class Arrival(NamedTuple):
    """One level of a reverse sweep: errors that are complete, and what they teach."""

    level: int
    errors: dict[str, Tensor]
    gradients: Gradients


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

    def forget(self) -> None:
        """Keep the local graphs, and let values and predictions themselves go.

        Who only sweeps needs their shapes. What was saved for backward stays.
        """
        edge = torch.autograd.graph.get_gradient_edge
        _ = self._origins  # to be read while the tensors are there
        self._predictions = {i: edge(mu) for i, mu in self._predictions.items()}
        for leaf in self._values.values():  # nothing saves a leaf, only copies of it
            leaf.data = leaf.data.new_empty(()).expand(leaf.shape)

    @cached_property
    def predictions(self) -> dict[str, Tensor]:
        """μ of every reached vertex, detached."""
        return {i: self._predictions[i].detach() for i in self.structure.vertices}

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """v of every hidden vertex, detached."""
        return {i: self._values[i].detach() for i in self.hidden}

    @cached_property
    def output_errors(self) -> dict[str, Tensor]:
        """∂loss/∂μ of every output."""
        handed = {i: self._handed(i) for i in self.structure.outputs}
        return self._pull([self._loss], [None], handed)

    @cached_property
    def loss_gradient(self) -> dict[str, Tensor]:
        """g: the loss's own gradient in the values of its parents, and no others.

        The loss is what comes after the last hidden vertex, outputs included.
        """
        near = [*self.structure.loss_parents]
        cut = [i for i in self.structure.outputs if self._is_cut(i)]
        self._count(i for i in self.structure.outputs if i not in cut)
        values = {i: self._values[i] for i in near + cut}
        direct = self._pull([self._loss], [None], values)
        errors = {i: direct.pop(i) for i in cut if i in direct}
        return Sums(direct, self.vjp(errors))

    def vjp(self, errors: Errors) -> dict[str, Tensor]:
        """Jᵀε: the given vertices' errors carried to the values of their parents.

        Only parents have an entry. Shapes as the predictions' on both sides.
        """
        self._check(errors)
        sources = [i for i in errors if self.structure.parents[i]]
        self._count(sources)
        parents = {j: None for i in sources for j in self.structure.parents[i]}
        return self._pull(
            [self._predictions[i] for i in sources],
            [errors[i] for i in sources],
            {j: self._values[j] for j in parents},
        )

    def pull(self, errors: Errors, loss: float = 1.0) -> dict[str, Tensor]:
        """Jᵀε + loss·g for every hidden vertex: what its children ask of its value.

        errors: {hidden vertex: tensor shaped like its prediction}; missing ones count
        as zero.
        """
        g = self.loss_gradient
        weighted = g if loss == 1 else {i: loss * e for i, e in g.items()}
        arrived = Sums(self.vjp(errors), weighted)
        return {i: arrived[i] if i in arrived else self._zero(i) for i in self.hidden}

    def zeros(self) -> dict[str, Tensor]:
        """A zero error for every hidden vertex; float32 where predictions have less."""
        return {i: self._zero(i) for i in self.hidden}

    def sweep(
        self, seed: Tensor | None = None, teach: bool = True
    ) -> Iterator[Arrival]:
        """Every vertex's error from its children's, once, from the loss upwards.

        At unit step and frozen linearisation any order that visits children first is
        exact (`fp-asynchronous`). One call of autograd sends a level's errors to the
        parents and to the parameters, so each local graph is walked once.

        seed: the error of the loss itself, 1 if not given; everything scales with it.
        teach: whether the parameters' gradients are wanted. Then local graphs are freed
        as the sweep goes, as backward() does, and the evaluation is spent.
        """
        loss, vertices = self._origins
        arrived = Sums[str]()
        self._count(self.structure.vertices, self.structure.vertices if teach else ())

        def send(roots: list[Any], weights: Any, made_of: list[Origin]) -> Gradients:
            parents = _each_once(o.parents for o in made_of)
            leaves = _each_once(o.leaves for o in made_of) if teach else ()
            values = [self._values[j] for j in parents]
            found = _grad(roots, values, weights, leaves)
            arrived.add(_named(parents, found))
            return _given(leaves, found[len(parents) :])

        gradients = send([self._loss], [seed], [loss])
        for level, names in enumerate(self.structure.by_level):
            # Outputs that are not cut were part of the loss's own graph.
            here = [i for i in names if level or self._is_cut(i)]
            sums = {i: arrived.take(i) for i in here}
            told = {i: e for i, e in sums.items() if e is not None}
            roots = [self._predictions[i] for i in told]
            made_of = [vertices[i] for i in told]
            gradients = gradients + send(roots, self._like(told), made_of)
            # Autograd may end on the way (a backward that returns None).
            errors = {i: told[i] if i in told else self._zero(i) for i in here}
            if teach:
                self._loss = self._loss.detach()
                for i in names:
                    del self._predictions[i]
                    self._values.pop(i, None)
            yield Arrival(level, errors, gradients)
            # Nothing is kept that was handed over.
            roots, sums, told, errors, gradients = [], {}, {}, {}, []

    def adjoints(self) -> dict[str, Tensor]:
        """δ of the network as it stands here, its values' shifts held fixed."""
        levels = self.sweep(teach=False)
        found = {i: e for at in levels for i, e in at.errors.items()}
        return {i: found[i] for i in self.hidden}

    def gradients(
        self, errors: Errors, loss: bool = True, factor: float | Tensor | None = None
    ) -> Gradients:
        """Σ (∂μ/∂θ)ᵀε over these vertices, as pairs (leaf, gradient).

        loss: whether the loss's own part, outputs included, is added. factor:
        multiplies everything where it enters the local graphs.
        """
        self._check(errors)
        self._count((), (*errors, *(self.structure.outputs if loss else ())))
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
    def _origins(self) -> tuple[Origin, dict[str, Origin]]:
        """What the loss and the predictions of this run were made of."""
        roots = [self._loss, *self._predictions.values()]
        loss, *vertices = origins(roots, self._values)
        return loss, dict(zip(self._predictions, vertices, strict=True))

    def _is_cut(self, name: str) -> bool:
        return name in self._values

    def _handed(self, name: str) -> Tensor:
        """What went downstream: the value, or the prediction of an uncut output."""
        return self._values[name] if self._is_cut(name) else self._predictions[name]

    def _zero(self, name: str) -> Tensor:
        like = self._handed(name).detach()
        return torch.zeros_like(like, dtype=_accumulator(like.dtype))

    def _like(self, errors: Errors) -> list[Tensor]:
        """The errors in the precision in which the predictions were computed."""
        return [e.to(self._handed(i).dtype) for i, e in errors.items()]

    def _pull(
        self,
        roots: Sequence[Tensor],
        errors: Sequence[Tensor | None],
        targets: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        weights = [
            None if e is None else e.to(r.dtype)
            for e, r in zip(errors, roots, strict=True)
        ]
        return _named(targets, _grad(roots, list(targets.values()), weights))

    def _count(self, senders: Iterable[str], taught: Iterable[str] = ()) -> None:
        """Errors are sent if there is anybody to send them to."""
        self._work.sent.update([i for i in senders if self.structure.parents[i]])
        self._work.taught.update(taught)

    def _check(self, errors: Errors) -> None:
        for i, error in errors.items():
            mu = self._predictions.get(i)
            if mu is None or i not in self.structure.parents:
                known = ", ".join(self.hidden)
                raise KeyError(f"{i!r} is no vertex of this graph; it has {known}")
            if error.shape != mu.shape:
                raise ValueError(
                    f"the error of {i!r} has shape {tuple(error.shape)}, "
                    f"its prediction {tuple(mu.shape)}"
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
    roots: Sequence[Tensor],
    values: Sequence[Any],
    weights: Any,
    leaves: Iterable[Tensor] = (),
) -> Any:
    """torch.autograd.grad for values, then leaves; the graph is kept for more."""
    targets = [*values, *leaves]
    if not (roots and targets):
        return ()
    with _silent(leaves):
        return torch.autograd.grad(
            roots, targets, weights, retain_graph=True, allow_unused=True
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
