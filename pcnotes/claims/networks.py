"""Random small networks, and what plain autograd says about them.

The independent side of every claim: nothing here uses the graphs or rules of this
package. A network knows its own wiring, so it can be run as a whole, with additive
shifts at its vertices (their gradient is δ by definition), or vertex by vertex at any
values (whose Jacobian is A).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from .. import theory
from .draw import Draw

Values = dict[str, Tensor]
Wiring = dict[str, tuple[str, ...]]

# ---- vertices and losses -------------------------------------------------------------


class Vertex(nn.Module):
    """One prediction f: of its parents, and of the input where it has none.

    `kind` says how parents are combined; `weights` has one matrix per parent.
    """

    def __init__(
        self, kind: str, parents: int, width: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.kind = kind
        # Entries of size one: neither saturated nor linear, no Jacobian near zero.
        shape = (max(parents, 1), width, width)
        weights = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.weights = nn.Parameter(weights / width**0.5)
        bias = torch.randn(width, generator=generator, dtype=torch.float64)
        self.bias = nn.Parameter(bias / 2)

    def forward(self, *parents: Tensor) -> Tensor:
        """Shapes (batch, width), of parents and result."""
        carried = [v @ w for v, w in zip(parents, self.weights, strict=True)]
        return KINDS[self.kind](carried, self.bias)


class Product(nn.Module):
    """A vertex without parameters: the product of its parents."""

    def forward(self, *parents: Tensor) -> Tensor:
        """Shapes (batch, width), of parents and result."""
        return torch.stack(parents).prod(0)


def _tanh(carried: list[Tensor], bias: Tensor) -> Tensor:
    return torch.tanh(sum(carried, bias))


def _linear(carried: list[Tensor], bias: Tensor) -> Tensor:
    return sum(carried, bias)


def _gate(carried: list[Tensor], bias: Tensor) -> Tensor:
    return torch.tanh(carried[0] + bias) * torch.sigmoid(sum(carried[1:], bias))


def _attention(carried: list[Tensor], bias: Tensor) -> Tensor:
    """Samples attend to each other, so that the batch does not factorise."""
    queries, keys, values = carried[0], carried[-1], sum(carried, bias)
    return torch.softmax(queries @ keys.T, dim=-1) @ values


def _centred(carried: list[Tensor], bias: Tensor) -> Tensor:
    """As batch norm: what a sample gets depends on the others."""
    total = sum(carried, bias)
    return total - total.mean(0) / 2


KINDS: dict[str, Callable[[list[Tensor], Tensor], Tensor]] = {
    "linear": _linear,
    "tanh": _tanh,
    "gate": _gate,
    "attention": _attention,
    "centred": _centred,
}


def _with_zero(logits: Tensor) -> Tensor:
    """One more class, so that a single logit is a classifier too."""
    return nn.functional.pad(logits, (0, 1))


Readout = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, Readout] = {
    "squares": lambda out, y: (out - y).square().sum() / 2,
    "mean squares": lambda out, y: (out - y).square().mean(),
    "cross entropy": lambda out, y: nn.functional.cross_entropy(
        _with_zero(out), _with_zero(y).softmax(-1)
    ),
    "log cosh": lambda out, y: (out - y).cosh().log().sum(),
    "weighted sum": lambda out, y: (out * y).sum(),
}


class Network(nn.Module):
    """Modules wired as a directed acyclic graph.

    wiring: {vertex: parents} of every vertex in order of execution, outputs and dead
    ends included.
    """

    def __init__(self, wiring: Wiring, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.wiring = wiring
        for name, module in modules.items():
            self.add_module(name, module)

    def predict(self, name: str, values: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """f of one vertex, at these values of its parents."""
        parents = [values[j] for j in self.wiring[name]] or [x]
        return self.get_submodule(name)(*parents)

    def forward(self, x: Tensor, shifts: Mapping[str, Tensor] | None = None) -> Values:
        """The values of all vertices; `shifts` are added to the predictions."""
        values: Values = {}
        for name in self.wiring:
            values[name] = self.predict(name, values, x)
            if shifts and name in shifts:
                values[name] = values[name] + shifts[name]
        return values


# ---- instances -----------------------------------------------------------------------


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
        terms += [_own_loss(values[i], self.y) for i in self.direct]
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
        work = [
            (self.network.predict(i, values, self.x) * errors[i]).sum()
            for i in self.hidden
        ]
        return self.gradients_of(torch.stack(work).sum() + self.loss(values))

    @cached_property
    def feedforward(self) -> Values:
        """v̂, detached."""
        with torch.no_grad():
            values = self.network(self.x)
        return {i: values[i] for i in self.hidden}

    def energy(self, values: Mapping[str, Tensor], scale: float = 0.0) -> Tensor:
        """E_β = ½‖f(v) - v‖² + β·ℓ(v), with β = scale."""
        errors = [self.network.predict(i, values, self.x) - values[i] for i in values]
        return torch.stack(errors).square().sum() / 2 + scale * self.loss(values)

    @cached_property
    def linear(self) -> Linearised:
        """M and g at the feed-forward pass."""
        return self.linearise(self.feedforward)

    def linearise(self, values: Mapping[str, Tensor]) -> Linearised:
        """M = Aᵀ and g at these values of the hidden vertices."""
        leaves = {i: values[i].detach().requires_grad_() for i in self.hidden}
        stacked = torch.stack(
            [self.network.predict(i, leaves, self.x) for i in self.hidden]
        ).flatten()
        basis = torch.eye(len(stacked), dtype=torch.float64)
        rows = torch.autograd.grad(  # row k of A: how f_k depends on each v
            stacked,
            list(leaves.values()),
            basis,
            is_grads_batched=True,
            allow_unused=True,  # the last vertices are nobody's parents
        )
        g = torch.autograd.grad(
            self.loss(leaves), list(leaves.values()), materialize_grads=True
        )
        shape = self.x.shape
        nothing = torch.zeros(len(stacked), *shape, dtype=torch.float64)
        blocks = [(nothing if r is None else r).flatten(1) for r in rows]
        A = torch.cat(blocks, dim=1).numpy()
        return Linearised(self.hidden, A.T, _flat(g), tuple(shape))


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

    def named(self, vector: theory.Array) -> Values:
        """A vector of length N as {vertex: tensor}."""
        pieces = torch.from_numpy(np.asarray(vector)).reshape(-1, *self.shape)
        return dict(zip(self.names, pieces, strict=True))

    def stacked(self, values: Mapping[str, Tensor]) -> theory.Array:
        """{vertex: tensor} as a vector of length N, in this order of vertices."""
        return _flat([values[i] for i in self.names])


def _own_loss(value: Tensor, y: Tensor) -> Tensor:
    return ((value - y).square() + 1).sqrt().sum()


def _flat(tensors: Sequence[Tensor]) -> theory.Array:
    vector: theory.Array = torch.stack(list(tensors)).detach().flatten().numpy()
    return vector


# ---- drawing them --------------------------------------------------------------------


def random_network(
    draw: Draw, least_depth: int = 1, skip: bool = False, least_width: int = 1
) -> Instance:
    """A random graph: skips, several parents, products, dead ends, several losses.

    least_depth: K is at least this. skip: the first vertex feeds the loss directly too.
    """
    backbone = draw.integer(least_depth, least_depth + 3)
    names = [f"v{k}" for k in range(1, backbone + draw.integer(0, 2) + 1)]
    wiring: Wiring = {}
    for k, name in enumerate(names):
        # The backbone is a chain, which sets the depth; every other edge is free.
        above = {names[k - 1]} if 0 < k < backbone else set()
        above |= {j for j in names[:k] if draw.integer(0, 2) == 2}
        wiring[name] = tuple(j for j in names[:k] if j in above)
    childless = {i for i in names if not any(i in p for p in wiring.values())}
    seen = {*childless, draw.choice(names), *(names[:1] if skip else ())}
    direct = [draw.choice(names)] if draw.integer(0, 1) else []
    parents = [i for i in names if i in seen]
    return furnished(draw, wiring, parents, direct, least_width)


def graded_network(
    draw: Draw, least_depth: int = 1, most_depth: int = 4, least_width: int = 1
) -> Instance:
    """A random graph in levels: a vertex's paths to the loss are equally long."""
    depth = draw.integer(least_depth, most_depth)
    wiring: Wiring = {}
    above: list[str] = []
    for level in range(depth, 0, -1):
        names = [f"v{level}{side}" for side in "ab"[: draw.integer(1, 2)]]
        for name in names:
            wiring[name] = tuple(above[: draw.integer(1, 2)])
        childless = [j for j in above if not any(j in wiring[i] for i in names)]
        wiring[names[0]] += tuple(childless)
        above = names
    direct = [draw.choice(above)] if draw.integer(0, 1) else []
    return furnished(draw, wiring, above, direct, least_width)


def any_network(draw: Draw) -> Instance:
    """In levels or not."""
    return random_network(draw) if draw.integer(0, 1) else graded_network(draw)


def furnished(
    draw: Draw,
    wiring: Wiring,
    loss_parents: Sequence[str],
    direct: Sequence[str] = (),
    least_width: int = 1,
) -> Instance:
    """Outputs, dead ends, modules, losses and data for these hidden vertices."""
    batch, width = draw.integer(1, 3), draw.integer(least_width, 3)
    whole, hidden = dict(wiring), list(wiring)
    for k in range(1, draw.integer(0, 2) + 1):  # a chain that leads nowhere
        above = f"dead{k - 1}" if k > 1 else draw.choice(hidden)
        whole[f"dead{k}"] = (above, draw.choice(hidden))
    whole["out1"] = tuple(loss_parents)
    if draw.integer(0, 1):
        whole["out2"] = tuple(loss_parents[-1:])
    outputs = {o: LOSSES[draw.choice(list(LOSSES))] for o in whole if "out" in o}

    generator = draw.generator()
    modules = {i: _module(draw, i, len(whole[i]), width, generator) for i in whole}
    with_bias = [m for m in modules.values() if isinstance(m, Vertex)]
    if draw.integer(0, 1):  # two vertices that share a parameter
        with_bias[-1].bias = with_bias[0].bias
    x, y = torch.randn(2, batch, width, generator=generator, dtype=torch.float64)
    return Instance(Network(whole, modules), x, y, outputs, direct)


def curved(case: Instance) -> Instance:
    """Squares for every output's loss, and tanh (set in place) for every vertex."""
    for name, module in case.network.named_children():
        if isinstance(module, Vertex) and name not in case.outputs:
            module.kind = "tanh"
    squares = dict.fromkeys(case.outputs, LOSSES["squares"])
    return dataclasses.replace(case, outputs=squares)


def _module(
    draw: Draw, name: str, parents: int, width: int, generator: torch.Generator
) -> nn.Module:
    if "out" in name:
        return Vertex("linear", parents, width, generator)
    kind = draw.choice([*KINDS, "product"])
    if kind == "product" and parents > 1:
        return Product()
    return Vertex("tanh" if kind == "product" else kind, parents, width, generator)
