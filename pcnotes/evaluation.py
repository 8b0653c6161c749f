"""One run of a closure on the cut graph: local graphs, and what they carry back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

Errors = Mapping[str, Tensor]


class Evaluation:
    """One run of the closure on the cut graph, with its local autograd graphs.

    `predictions` holds μ of every reached vertex, `values` the v that each hidden
    vertex handed downstream. Nothing here reaches past a vertex's parents.
    """

    def __init__(
        self,
        loss: Tensor,
        predictions: dict[str, Tensor],
        values: dict[str, Tensor],
        work: Counter[str],
    ) -> None:
        self._loss = loss
        self._predictions = predictions
        self._values = values
        self._work = work
        self._hidden: tuple[str, ...] = ()
        self._outputs: tuple[str, ...] = ()

    def _keep(self, hidden: Iterable[str], outputs: Iterable[str]) -> None:
        """Prune: what does not reach the loss has no value and no energy."""
        self._hidden, self._outputs = tuple(hidden), tuple(outputs)

    @property
    def loss(self) -> Tensor:
        """The loss of this run, detached."""
        return self._loss.detach()

    @cached_property
    def predictions(self) -> dict[str, Tensor]:
        """μ of every reached vertex, detached."""
        kept = {*self._hidden, *self._outputs}
        return {i: mu.detach() for i, mu in self._predictions.items() if i in kept}

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """v of every hidden vertex, detached."""
        return {i: self._values[i].detach() for i in self._hidden}

    @cached_property
    def output_errors(self) -> dict[str, Tensor]:
        """∂loss/∂μ of every output."""
        return {i: e for i, e in self._direct_gradient.items() if i in self._outputs}

    @cached_property
    def loss_gradient(self) -> dict[str, Tensor]:
        """g: the loss's own gradient in the values of its parents, and no others.

        The loss is what comes after the last hidden vertex, outputs included.
        """
        direct = {i: e for i, e in self._direct_gradient.items() if i in self._hidden}
        return add(direct, self.vjp(self.output_errors))

    @cached_property
    def _direct_gradient(self) -> dict[str, Tensor]:
        names = [*self._hidden, *self._outputs]
        values = [self._values[i] for i in names]
        if not values:
            return {}
        found = torch.autograd.grad(
            self._loss, values, retain_graph=True, allow_unused=True
        )
        return _accumulators(names, found)

    def vjp(self, errors: Errors) -> dict[str, Tensor]:
        """Jᵀε: the given vertices' errors carried to the values of their parents.

        Only parents have an entry. Shapes as the predictions' on both sides.
        """
        self._check(errors)
        sources = list(errors)
        if not (sources and self._hidden):
            return {}
        self._work["vjps"] += len(sources)
        found = torch.autograd.grad(
            [self._predictions[i] for i in sources],
            [self._values[i] for i in self._hidden],
            [errors[i].to(self._predictions[i].dtype) for i in sources],
            retain_graph=True,
            allow_unused=True,
        )
        return _accumulators(self._hidden, found)

    def pull(self, errors: Errors, loss: float = 1.0) -> dict[str, Tensor]:
        """Jᵀε + loss·g for every hidden vertex: what its children ask of its value.

        errors: {hidden vertex: tensor shaped like its prediction}; missing ones count
        as zero.
        """
        weighted = {i: loss * g for i, g in self.loss_gradient.items()}
        arrived = add(self.vjp(errors), weighted)
        return {i: arrived[i] if i in arrived else self._zero(i) for i in self._hidden}

    def zeros(self) -> dict[str, Tensor]:
        """A zero error for every hidden vertex; float32 where predictions have less."""
        return {i: self._zero(i) for i in self._hidden}

    def accumulate(
        self, errors: Errors, gradient: float | Tensor | None = None
    ) -> None:
        """Add Σ (∂μ/∂θ)ᵀε, and the loss's own part, to `.grad` as backward() would.

        Frees the local graphs: an evaluation can be accumulated once.
        """
        roots, weights = self._roots(errors, gradient)
        if inputs := self._parameters():
            torch.autograd.backward(roots, weights, inputs=inputs)

    def gradients(self, errors: Errors) -> dict[Tensor, Tensor | None]:
        """The same gradients as a mapping {leaf: gradient}; `.grad` is not touched."""
        roots, weights = self._roots(errors, None)
        if not (inputs := self._parameters()):
            return {}
        found = torch.autograd.grad(
            roots, inputs, weights, retain_graph=True, allow_unused=True
        )
        return dict(zip(inputs, found, strict=True))

    def _zero(self, name: str) -> Tensor:
        mu = self._predictions[name].detach()
        return torch.zeros_like(mu, dtype=_accumulator(mu.dtype))

    def _roots(
        self, errors: Errors, gradient: float | Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Every local graph's end with the error that enters it there."""
        ends = {self._loss: torch.ones_like(self._loss)}
        for i, error in {**errors, **self.output_errors}.items():
            mu = self._predictions[i]
            ends[mu] = error.to(mu.dtype)
        if gradient is not None:
            ends = {end: (gradient * e).to(end.dtype) for end, e in ends.items()}
        return list(ends), list(ends.values())

    def _parameters(self) -> list[Tensor]:
        """The leaves that are nobody's value: parameters, inputs that require grad."""
        values = {id(v) for v in self._values.values()}
        kept = [self._predictions[i] for i in (*self._hidden, *self._outputs)]
        return [t for t in leaves([self._loss, *kept]) if id(t) not in values]

    def check_complete(self, errors: Errors) -> None:
        """Raise unless every hidden vertex has an error of its prediction's shape."""
        self._check(errors)
        if missing := [i for i in self._hidden if i not in errors]:
            raise KeyError(
                f"the rule gave no error for hidden vertices {', '.join(missing)}"
            )

    def _check(self, errors: Errors) -> None:
        for i, error in errors.items():
            mu = self._predictions.get(i)
            if mu is None:
                known = ", ".join(self._hidden)
                raise KeyError(f"{i!r} is no vertex of this graph; it has {known}")
            if error.shape != mu.shape:
                raise ValueError(
                    f"the error of {i!r} has shape {tuple(error.shape)}, "
                    f"its prediction {tuple(mu.shape)}"
                )


class Uncut(Evaluation):
    """One run with nothing cut: plain autograd, for comparison."""

    def __init__(
        self,
        loss: Tensor,
        predictions: dict[str, Tensor],
        edges: dict[str, Any],
        work: Counter[str],
    ) -> None:
        super().__init__(loss, predictions, {}, work)
        self._edges = edges

    def adjoints(self) -> dict[str, Tensor]:
        """δ = ∂loss/∂μ through the whole network, where the loss depends on μ."""
        found = torch.autograd.grad(
            self._loss,
            list(self._edges.values()),
            retain_graph=True,
            allow_unused=True,
        )
        return _accumulators(self._edges, found)

    def check_complete(self, errors: Errors) -> None:
        """Nothing to check: the loss carries everything."""

    def _roots(
        self, errors: Errors, gradient: float | Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        return super()._roots({}, gradient)  # the whole path hangs on the loss


def leaves(roots: Iterable[Tensor]) -> list[Tensor]:
    """The leaves of autograd that these tensors depend on, each once."""
    found: dict[int, Tensor] = {}
    seen: set[Any] = set()
    stack: list[Any] = [r.grad_fn for r in roots if r.grad_fn is not None]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.setdefault(id(node.variable), node.variable)
        stack.extend(n for n, _ in node.next_functions if n is not None)
    return list(found.values())


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    """Errors are summed over many steps: half precision would lose them."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _accumulators(
    names: Iterable[str], tensors: Iterable[Tensor | None]
) -> dict[str, Tensor]:
    return {
        i: t.to(_accumulator(t.dtype))
        for i, t in zip(names, tensors, strict=True)
        if t is not None
    }


def add(left: Errors, right: Errors) -> dict[str, Tensor]:
    """Entry by entry; an entry of one side only is kept."""
    total = dict(left)
    for i, tensor in right.items():
        total[i] = total[i] + tensor if i in total else tensor
    return total
