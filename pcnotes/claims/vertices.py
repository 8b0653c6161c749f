"""What the random networks are made of: vertices, losses, and their wiring.

Nothing here uses the graphs or rules of this package. A network knows its own wiring,
so it can be run as a whole, with additive shifts at its vertices, or vertex by vertex.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Values = dict[str, Tensor]
Wiring = dict[str, tuple[str, ...]]


class Vertex(nn.Module):
    """One prediction f: of its parents, and of the input where it has none.

    `kind` says how parents are combined; `weights` has one matrix per parent. Values
    are (batch, width), or several of these along leading axes, which never meet.
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
        """Shapes (…, batch, width), of parents and result."""
        carried = [v @ w for v, w in zip(parents, self.weights, strict=True)]
        return KINDS[self.kind](carried, self.bias)


class Product(nn.Module):
    """A vertex without parameters: the product of its parents."""

    def forward(self, *parents: Tensor) -> Tensor:
        """Shapes (…, batch, width), of parents and result."""
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
    return torch.softmax(queries @ keys.mT, dim=-1) @ values


def _centred(carried: list[Tensor], bias: Tensor) -> Tensor:
    """As batch norm: what a sample gets depends on the others."""
    total = sum(carried, bias)
    return total - total.mean(-2, keepdim=True) / 2


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


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Between softmaxes: the mean over samples."""
    each = (labels.softmax(-1) * logits.log_softmax(-1)).sum(-1)
    return -each.mean(-1).sum()


Readout = Callable[[Tensor, Tensor], Tensor]

# Sums over leading axes, as if every entry along them were a network of its own.
LOSSES: dict[str, Readout] = {
    "squares": lambda out, y: (out - y).square().sum() / 2,
    "mean squares": lambda out, y: (out - y).square().mean((-2, -1)).sum(),
    "cross entropy": lambda out, y: _cross_entropy(_with_zero(out), _with_zero(y)),
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
