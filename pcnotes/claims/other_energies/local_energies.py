"""Local energies e(μ, v) with what is known of them, and fixed prediction under them.

What the claims about other energies draw from. Slopes come from autograd on the energy
as it is written here; precisions and their derivatives are the closed forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ...evaluation import Errors
from ...graph import Graph
from ...theory import Array
from ..draw import Draw
from ..equilibria import Landscape, named
from ..instances import Instance
from ..vertices import Values

Function = Callable[[Tensor], Tensor]
Pairwise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Local:
    """An energy that is a sum over entries.

    of: (μ, v) -> a tensor of the same shape. precision, third: Π(μ) and dΠ/dμ of an
    entry. invariant: whether it depends on μ - v alone.
    """

    of: Pairwise
    precision: Function
    third: Function
    invariant: bool = False

    def __call__(self, mu: Tensor, v: Tensor) -> Tensor:
        return self.of(mu, v).sum()


def _translation(rho: Function, curvature: float = 1.0) -> Local:
    return Local(
        lambda mu, v: rho(mu - v),
        lambda mu: torch.full_like(mu, curvature),
        torch.zeros_like,
        invariant=True,
    )


def _log_cosh(e: Tensor) -> Tensor:
    return softplus(2 * e) - e - softplus(torch.zeros_like(e))


def _both_ways(A: Function, mean: Function) -> tuple[Pairwise, Pairwise]:
    """KL(v ‖ μ) and KL(μ ‖ v) of the family with this log-normaliser and mean."""

    def toward(mu: Tensor, v: Tensor) -> Tensor:
        return A(mu) - A(v) - mean(v) * (mu - v)

    return toward, lambda mu, v: toward(v, mu)


def _families() -> dict[str, Local]:
    """KL(v ‖ μ) and KL(μ ‖ v) of exponential families, in their natural parameters."""

    def slope(s: Tensor) -> Tensor:
        return torch.sigmoid(s) * (1 - torch.sigmoid(s))

    def bend(s: Tensor) -> Tensor:
        return slope(s) * (1 - 2 * torch.sigmoid(s))

    known: dict[str, tuple[Function, Function, Function, Function]] = {
        "Bernoulli": (softplus, torch.sigmoid, slope, bend),
        "Poisson": (torch.exp, torch.exp, torch.exp, torch.exp),
    }
    found = {}
    for name, (A, mean, variance, skew) in known.items():
        toward, back = _both_ways(A, mean)
        found[f"{name}, KL(v ‖ μ)"] = Local(toward, variance, skew)
        found[f"{name}, KL(μ ‖ v)"] = Local(back, variance, skew)
    return found


# Curvature between one and two, everywhere: unit-like steps converge.
STEEP: dict[str, Local] = {
    "square + log cosh": _translation(lambda e: e.square() / 2 + _log_cosh(e), 2.0),
    "square + pseudo-Huber": _translation(
        lambda e: e.square() / 2 + (1 + e.square()).sqrt() - 1, 2.0
    ),
    "square": _translation(lambda e: 0.75 * e.square(), 1.5),
    "lopsided": _translation(
        lambda e: e.square() / 2 + 4 * softplus(e) - 2 * e - 4 * np.log(2), 2.0
    ),
}

INVARIANT: dict[str, Local] = {
    "log cosh": _translation(_log_cosh),
    "pseudo-Huber": _translation(lambda e: (1 + e.square()).sqrt() - 1),
    "cosh": _translation(lambda e: torch.cosh(e) - 1),
    **STEEP,
}

CURVED = _families()  # the precision depends on the prediction

ANY = {**INVARIANT, **CURVED}

Energies = dict[str, Local]


def some(case: Instance, draw: Draw, known: Mapping[str, Local]) -> Energies:
    """An energy for every hidden vertex."""
    return {i: known[draw.choice(list(known))] for i in case.hidden}


def slopes(
    energies: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    predictions: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
) -> tuple[Values, Values]:
    """(ξ, ζ) = (∂e/∂μ, -∂e/∂v), by autograd."""
    xi, zeta = {}, {}
    for i, e in energies.items():
        mu, v = (t[i].detach().clone().requires_grad_() for t in (predictions, values))
        first, second = torch.autograd.grad(e(mu, v), [mu, v])
        xi[i], zeta[i] = first, -second
    return xi, zeta


def total(
    case: Instance,
    energies: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    values: Mapping[str, Tensor],
    beta: float,
) -> Tensor:
    """E_β = Σ e(f(v), v) + β·ℓ(v)."""
    parts = [
        energies[i](case.network.predict(i, values, case.x), values[i]) for i in values
    ]
    return torch.stack(parts).sum() + beta * case.loss(values)


def in_shifts(case: Instance, energies: Energies, beta: float) -> Landscape:
    """E_β as a function of the shifts b = v - μ, of the network run as a whole."""

    def energy(b: Tensor) -> Tensor:
        shifts = named(case, b)
        values = case.network(case.x, shifts)
        parts = [e(values[i] - shifts[i], values[i]) for i, e in energies.items()]
        return torch.stack(parts).sum() + beta * case.loss_of(values)

    return Landscape(energy, case.x.numel() * len(case.hidden))


def stacked(case: Instance, values: Mapping[str, Tensor]) -> Array:
    """{hidden vertex: tensor} as a vector."""
    return case.linear.stacked(values)


def entries(case: Instance, energies: Energies, which: str) -> Array:
    """Π or dΠ/dμ of every entry, at the feed-forward pass."""
    found = {
        i: getattr(e, which)(case.feedforward[i]).expand_as(case.x)
        for i, e in energies.items()
    }
    return stacked(case, found)


@dataclass(frozen=True)
class Held:
    """Fixed prediction under local energies: v ← v + Γ(ζ - Mξ - g), all at once.

    Yields ξ, from which the parameters learn. steps: one entry for each step, a number
    or {vertex: number or matrix}; matrices act on the last axis.
    """

    energies: Mapping[str, Callable[[Tensor, Tensor], Tensor]]
    steps: tuple[float | Mapping[str, float | Tensor], ...]
    start: Errors | None = None
    seen: list[Values] | None = None

    def run(self, graph: Graph) -> Iterator[Errors]:
        """Predictions, Jacobians and loss gradient stay those of the start."""
        mu = graph.evaluate().predictions
        v = {i: mu[i] for i in graph.hidden}
        v = v if self.start is None else dict(self.start)
        for step in (*self.steps, None):
            xi, zeta = slopes(self.energies, mu, v)
            if self.seen is not None:
                self.seen.append(v)
            yield xi
            if step is not None:
                asked = graph.pull(xi)
                size = step if isinstance(step, Mapping) else dict.fromkeys(v, step)
                v = {i: v[i] + _times(size[i], zeta[i] - asked[i]) for i in v}


def _times(factor: float | Tensor, vector: Tensor) -> Tensor:
    return vector @ factor if isinstance(factor, Tensor) else factor * vector
