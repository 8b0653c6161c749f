"""A network with data and a loss, and what plain autograd says about them.

The independent side of every claim: nothing here uses the graphs or rules of this
package. δ is the gradient of the uncut network in shifts of its vertices, A the
Jacobian of its predictions at any values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from .. import theory
from . import derivatives
from .vertices import Network, Product, Readout, Values, Vertex, Wiring


@dataclass
class Instance:
    """A network with data and a loss.

    outputs: vertices that feed the loss alone, {name: loss of its value and y}. direct:
    hidden vertices that also have a loss of their own.
    """

    network: Network
    x: Tensor
    y: Tensor
    outputs: Mapping[str, Readout]
    direct: Sequence[str] = ()

    def closure(self) -> Tensor:
        """The loss of the whole network: what a user would write."""
        return self.loss_of(self.network(self.x))

    def loss_of(self, values: Mapping[str, Tensor]) -> Tensor:
        """The loss at the values of outputs and of vertices with their own losses."""
        terms = [loss(values[o], self.y) for o, loss in self.outputs.items()]
        terms += [own_loss(values[i], self.y) for i in self.direct]
        return torch.stack(terms).sum()

    def loss(self, values: Mapping[str, Tensor]) -> Tensor:
        """ℓ: the loss as a function of hidden values, outputs included in it."""
        outputs = {o: self.network.predict(o, values, self.x) for o in self.outputs}
        return self.loss_of({**values, **outputs})

    @staticmethod
    def at(name: str, module: nn.Module) -> bool:
        """Which modules are vertices: all of ours, with parameters or without."""
        return isinstance(module, Vertex | Product)

    @cached_property
    def loss_parents(self) -> tuple[str, ...]:
        """Hidden vertices that ℓ depends on directly."""
        wiring = self.network.wiring
        below = {*self.direct, *(j for o in self.outputs for j in wiring[o])}
        return tuple(i for i in wiring if i in below)

    @cached_property
    def edges(self) -> Wiring:
        """{hidden vertex: hidden parents}; no output, no dead end."""
        wiring = self.network.wiring
        inner = {i: p for i, p in wiring.items() if i not in self.outputs}
        d_min, _ = theory.distances(inner, self.loss_parents)
        return {i: p for i, p in inner.items() if i in d_min}

    @property
    def hidden(self) -> list[str]:
        """Hidden vertices in topological order."""
        return list(self.edges)

    @cached_property
    def children(self) -> dict[str, list[str]]:
        """{hidden vertex: hidden children}, both in topological order."""
        below = self.edges.items()
        return {i: [c for c, above in below if i in above] for i in self.hidden}

    @cached_property
    def distances(self) -> tuple[dict[str, int], dict[str, int]]:
        """(d_min, d_max) of every hidden vertex."""
        return theory.distances(self.edges, self.loss_parents)

    @property
    def depth(self) -> int:
        """K."""
        return max(self.distances[1].values())

    @cached_property
    def delta(self) -> Values:
        """δ: the gradient of the whole, uncut network in shifts of its vertices."""
        shifts = {i: torch.zeros_like(self.x, requires_grad=True) for i in self.hidden}
        loss = self.loss_of(self.network(self.x, shifts))
        found = torch.autograd.grad(loss, list(shifts.values()))
        return dict(zip(shifts, found, strict=True))

    @property
    def size(self) -> float:
        """The norm of the largest δ_i: what errors are compared with."""
        return max(float(d.norm()) for d in self.delta.values())

    def parameter_gradients(self) -> dict[str, Tensor]:
        """Backpropagation: the gradient of the closure in every parameter in use."""
        return self.gradients_of(self.closure())

    def gradients_of(self, scalar: Tensor) -> dict[str, Tensor]:
        """The gradient of any scalar in the parameters that it depends on."""
        names, parameters = zip(*self.network.named_parameters(), strict=True)
        found = torch.autograd.grad(scalar, parameters, allow_unused=True)
        pairs = zip(names, found, strict=True)
        return {name: g for name, g in pairs if g is not None}

    def gradients_from(self, errors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Σ (∂f/∂θ)ᵀε at the feed-forward pass, plus the loss's own gradient."""
        values = self.feedforward
        return self.gradients_of(self.work(values, errors))

    def work(
        self, values: Mapping[str, Tensor], errors: Mapping[str, Tensor]
    ) -> Tensor:
        """Σ fᵀε + ℓ: its gradient in the parameters is what errors ε teach at v."""
        predict, x = self.network.predict, self.x
        terms = [(predict(i, values, x) * e).sum() for i, e in errors.items()]
        return torch.stack(terms).sum() + self.loss(values)

    @cached_property
    def feedforward(self) -> Values:
        """v̂, detached."""
        with torch.no_grad():
            values = self.network(self.x)
        return {i: values[i] for i in self.hidden}

    def errors(self, values: Mapping[str, Tensor]) -> Values:
        """ε = f(v) - v, of these vertices."""
        predict, x = self.network.predict, self.x
        return {i: predict(i, values, x) - v for i, v in values.items()}

    def energy(self, values: Mapping[str, Tensor], scale: float = 0.0) -> Tensor:
        """E_β = ½‖f(v) - v‖² + β·ℓ(v), with β = scale."""
        errors = torch.stack(list(self.errors(values).values()))
        return errors.square().sum() / 2 + scale * self.loss(values)

    def slope(self, values: Mapping[str, Tensor], scale: float = 0.0) -> Values:
        """∇_vE_β, by autograd on the formula."""
        leaves = {i: v.detach().requires_grad_() for i, v in values.items()}
        energy = self.energy(leaves, scale)
        found = torch.autograd.grad(energy, list(leaves.values()))
        return dict(zip(leaves, found, strict=True))

    def lagrangian(
        self, values: Mapping[str, Tensor], multipliers: Mapping[str, Tensor]
    ) -> Tensor:
        """ℓ(v) + λᵀ(f(v) - v)."""
        errors = self.errors(values)
        terms = [(multipliers[i] * errors[i]).sum() for i in errors]
        return self.loss(values) + torch.stack(terms).sum()

    @cached_property
    def linear(self) -> Linearised:
        """M and g at the feed-forward pass."""
        return self.linearise(self.feedforward)

    def hessian(
        self, scalar: Callable[[Values], Tensor], values: Mapping[str, Tensor]
    ) -> theory.Array:
        """∇² in all values of a function that sums over their leading axes, (N, N)."""
        start = torch.stack([values[i] for i in self.hidden]).flatten()

        def of_vector(v: Tensor) -> Tensor:
            return scalar(self.named(v))

        found: theory.Array = derivatives.hessian(of_vector, start).numpy()
        return found

    def named(self, vector: Tensor) -> Values:
        """N stacked numbers, (…, N), as {hidden vertex: tensor}."""
        pieces = vector.unflatten(-1, (-1, *self.x.shape)).unbind(-3)
        return dict(zip(self.hidden, pieces, strict=True))

    def linearise(self, values: Mapping[str, Tensor]) -> Linearised:
        """M = Aᵀ and g at these values of the hidden vertices."""
        shape, size = self.x.shape, self.x.numel() * len(self.hidden)
        leaves = {
            i: values[i].detach().expand(size, *shape).clone().requires_grad_()
            for i in self.hidden
        }
        predictions = [
            self.network.predict(i, leaves, self.x).expand(size, *shape)
            for i in self.hidden
        ]
        # The k-th copy of the values is asked for the k-th row of A.
        own = torch.stack(predictions, dim=1).flatten(1).diagonal().sum()
        rows, g = (
            torch.autograd.grad(of, list(leaves.values()), materialize_grads=True)
            for of in (own, self.loss(leaves))
        )
        A = torch.cat([r.flatten(1) for r in rows], dim=1).numpy()
        return Linearised(
            self.hidden, A.T, _flat([each[0] for each in g]), tuple(shape)
        )


@dataclass(frozen=True)
class Linearised:
    """M (N, N) and g (N,) of an instance, N = vertices × batch × width."""

    names: Sequence[str]
    M: theory.Array
    g: theory.Array
    shape: tuple[int, ...]

    @cached_property
    def parts(self) -> theory.Array:
        """δ⁽¹⁾, …, δ⁽ᴷ⁾ as rows."""
        return theory.path_parts(self.M, self.g)

    @property
    def delta(self) -> theory.Array:
        """δ, as the sum of its parts."""
        return self.parts.sum(0)

    @cached_property
    def sizes(self) -> theory.Array:
        """|M|ʲ⁻¹|g|, j = 1..K: the parts if nothing cancelled."""
        return theory.path_parts(np.abs(self.M), np.abs(self.g))

    @property
    def cancellation(self) -> float:
        """How much larger roundings are, relative to δ, than the unit roundoff."""
        return float(self.sizes.sum(0).max() / np.abs(self.delta).max())

    @cached_property
    def rows(self) -> dict[str, slice]:
        """Where the numbers of each vertex stand among the N."""
        size = len(self.g) // len(self.names)
        return {i: slice(k * size, (k + 1) * size) for k, i in enumerate(self.names)}

    def block(self, i: str, c: str) -> theory.Array:
        """The transposed Jacobian of vertex c in its parent i."""
        found: theory.Array = self.M[self.rows[i], self.rows[c]]
        return found

    def named(self, vector: theory.Array) -> Values:
        """A vector of length N as {vertex: tensor}."""
        pieces = torch.from_numpy(np.asarray(vector)).reshape(-1, *self.shape)
        return dict(zip(self.names, pieces, strict=True))

    def stacked(self, values: Mapping[str, Tensor]) -> theory.Array:
        """{vertex: tensor} as a vector of length N, in this order of vertices."""
        return _flat([values[i] for i in self.names])


def own_loss(value: Tensor, y: Tensor) -> Tensor:
    """What a hidden vertex that the loss reads directly adds to it."""
    return ((value - y).square() + 1).sqrt().sum()


def _flat(tensors: Sequence[Tensor]) -> theory.Array:
    vector: theory.Array = torch.stack(list(tensors)).detach().flatten().numpy()
    return vector
