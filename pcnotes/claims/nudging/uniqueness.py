"""The claim about where inference ends: one equilibrium on the sublevel ball."""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from ... import learning
from ...rules import Strict
from ...theory import Array
from ..draw import Draw
from ..equilibria import Landscape, branch, equilibrium
from ..measuring import ROUNDING, norm
from ..registry import Measurement, claim, worst
from .nudges import nudge

# The largest |tanh″| is 4/(3√3).
_BEND = 4 / (3 * math.sqrt(3))


@dataclasses.dataclass(frozen=True)
class _TwoLayers:
    """x → v₁ → v₂ = W tanh v₁ → ½‖U v₂ - y‖², whose curvature has a bound by hand."""

    first: Array
    W: Array
    U: Array
    y: Array

    @property
    def landscape(self) -> Landscape:
        n = len(self.first)
        first, W, U, y = map(torch.from_numpy, (self.first, self.W, self.U, self.y))

        def loss(b: Tensor) -> Tensor:
            second = torch.tanh(first + b[..., :n]) @ W.T + b[..., n:]
            return (second @ U.T - y).square().sum() / 2

        return Landscape(loss, 2 * n)

    def negative(self, radius: float) -> float:
        """ν with ℋ ⪰ -νI on ‖b‖ ≤ radius.

        ℋ = AᵀA + Σ rₖ∇²outputₖ, and the second part acts on b₁ alone, as a diagonal:
        (WᵀUᵀr)ⱼ·tanh″. A shift b moves the residual by ‖U‖(‖W‖‖b₁‖ + ‖b₂‖) at most.
        """
        (W, U), residual = self.norms, self.residual
        largest = residual + U * math.hypot(W, 1.0) * radius
        return _BEND * W * U * largest

    @cached_property
    def norms(self) -> tuple[float, float]:
        """‖W‖ and ‖U‖."""
        return float(np.linalg.norm(self.W, 2)), float(np.linalg.norm(self.U, 2))

    @cached_property
    def residual(self) -> float:
        """‖r‖ at the feed-forward pass."""
        return norm(self.U @ self.W @ np.tanh(self.first) - self.y)


@claim(instances="nets of two tanh layers, β below 1/ν", quantity="distance")
def nudge_uniqueness(draw: Draw) -> Measurement:
    """With βν < 1 on the sublevel ball there is one equilibrium in it.

    ν by hand from the weights; ℋ ⪰ -νI at random points of the ball; descents from
    random points of the ball end at one point, which lies in the ball; and where the
    package's descent in the values is stopped, ‖b - b*‖ ≤ ‖∇_bE‖/(1 - βν). For a small
    nudge the branch from δ leads to the same point.
    """
    net = _two_layers(draw)
    landscape, share = net.landscape, draw.uniform(0.2, 0.9)
    loss = landscape.at(np.zeros(landscape.size))
    low, high = 0.0, 1e3
    for _ in range(60):  # β·ν(β) grows with β
        middle = (low + high) / 2
        below = middle * net.negative(math.sqrt(2 * middle * loss)) < share
        low, high = (middle, high) if below else (low, middle)
    radius = math.sqrt(2 * low * loss)
    return worst(
        _one_equilibrium(landscape, low, radius, draw),
        _curved_downwards(landscape, net.negative(radius), radius, draw),
        _gradient_flow(net, low, net.negative(radius)),
        _on_the_branch(landscape, low, draw),
    )


def _two_layers(draw: Draw) -> _TwoLayers:
    n, generator = draw.integer(1, 3), np.random.default_rng(draw.integer(0, 2**31))
    W, U = generator.normal(size=(2, n, n)) / n**0.5
    first, y = generator.normal(size=(2, n))
    return _TwoLayers(first, W, U, y)


def _in_ball(draw: Draw, size: int, radius: float, count: int) -> Array:
    generator = np.random.default_rng(draw.integer(0, 2**31))
    points = generator.normal(size=(count, size))
    points *= radius / np.linalg.norm(points, axis=1, keepdims=True)
    scaled: Array = points * generator.uniform(size=(count, 1))
    return scaled


def _one_equilibrium(
    landscape: Landscape, beta: float, radius: float, draw: Draw
) -> Measurement:
    reference = equilibrium(landscape, beta)
    room = (reference.residual + ROUNDING * norm(reference.scaled)) * beta
    room *= reference.stretch
    outside = max(norm(reference.shift) - radius, 0.0)
    starts = _in_ball(draw, landscape.size, radius, 2)
    others = [equilibrium(landscape, beta, b).shift for b in starts]
    # Descent raises no energy, but it may leave the ball from a start beside v̂.
    apart = [norm(b - reference.shift) for b in others if norm(b) <= radius]
    return Measurement(max([outside, *apart]), room)


def _curved_downwards(
    landscape: Landscape, down: float, radius: float, draw: Draw
) -> Measurement:
    points = _in_ball(draw, landscape.size, radius, 4)
    least = np.linalg.eigvalsh(landscape.curvature(points)).min()
    return Measurement(max(-float(least), 0.0), down * (1 + ROUNDING))


def _gradient_flow(net: _TwoLayers, beta: float, down: float) -> Measurement:
    """The package's descent in the values from v̂: ‖b - b*‖ ≤ ‖∇_bE‖/(1 - βν)."""
    case, landscape = _Layers(net), net.landscape
    rule = Strict(step_size=case.step(beta), steps=10, scale=beta)
    *_, last = learning.infer(case, case.closure, rule)
    b = -np.concatenate([last.errors["one"].numpy(), last.errors["two"].numpy()])
    found = equilibrium(landscape, beta)
    force = norm(b + beta * landscape.adjoint(b))
    room = ROUNDING * (1 + norm(b)) * found.stretch
    return Measurement(norm(b - found.shift), force / (1 - beta * down) + room)


def _on_the_branch(landscape: Landscape, beta: float, draw: Draw) -> Measurement:
    """For a small nudge: the branch from δ, against the end of a descent."""
    small = min(beta, nudge(draw, landscape, 0.05, 0.2))
    end, [near] = equilibrium(landscape, small), branch(landscape, [small])
    room = end.residual + near.residual + ROUNDING * norm(end.scaled)
    return Measurement(norm(end.scaled - near.scaled), room * end.stretch)


class _Layers(nn.Module):
    """The same net for the package, with vertices `one` and `two`."""

    def __init__(self, net: _TwoLayers) -> None:
        super().__init__()
        n = len(net.first)
        self.net = net
        self.one, self.two, self.three = (
            nn.Linear(k, n, bias=False, dtype=torch.float64) for k in (1, n, n)
        )
        weights = (net.first[:, None], net.W, net.U)
        for layer, weight in zip(self.children(), weights, strict=True):
            layer.weight = nn.Parameter(torch.from_numpy(weight.copy()))

    def forward(self) -> Tensor:
        hidden = self.one(torch.ones(1, dtype=torch.float64))
        out: Tensor = self.three(self.two(torch.tanh(hidden)))
        return out

    def closure(self) -> Tensor:
        return (self() - torch.from_numpy(self.net.y)).square().sum() / 2

    def step(self, beta: float) -> float:
        """Below 2/λ everywhere: ‖Hess‖ ≤ ‖I - J‖² + residuals' bends, by hand."""
        W, U = self.net.norms
        radius = math.sqrt(beta) * self.net.residual
        bends = _BEND * W * radius  # ‖ε‖ on the sublevel set times ‖∇²f‖
        return 1 / ((1 + W) ** 2 + beta * U**2 + bends)


@nudge_uniqueness.control
def a_nudge_beyond_the_curvature(draw: Draw) -> Measurement:
    """One vertex, ℓ = (v² - 1)², β with βν > 1: two equilibria, both below E(v̂)."""
    mu, beta = draw.uniform(0.01, 0.1), draw.uniform(2.0, 10.0)
    landscape = Landscape(lambda b: ((mu + b) ** 2 - 1).square().sum(), 1)
    ends = [equilibrium(landscape, beta, np.array([b])) for b in (1 - mu, -1 - mu)]
    start = beta * landscape.at(np.zeros(1))
    inside = all(e.value * beta < start for e in ends)
    apart = norm(ends[0].shift - ends[1].shift)
    return Measurement(apart if inside else 0.0, ROUNDING)
