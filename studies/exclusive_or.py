"""Predictive coding and backpropagation on XOR, as Whittington and Bogacz' program.

The settings are those of `example_code.m` (ModelDB 218084): two, five and one units,
tanh before each layer of weights, one point at a time, and a last layer whose variance
is larger than that of the others. Runs are computed side by side; there they are four.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

POINTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).double()
TARGETS = torch.tensor([1.0, 0.0, 0.0, 1.0]).double()
WIDTHS = (2, 5, 1)
RUNS, SHOWN = 100, 4
EPOCHS, EVERY, RATE = 500, 50, 0.2
STEP_SIZE, STEPS = 0.2, 100

Parameters = list[Tensor]  # W1, b1, W2, b2, each with the runs along its first axis


def drawn(seed: int, runs: int = RUNS) -> Parameters:
    """Uniform weights that become smaller with the widths, and no biases."""
    generator = torch.Generator().manual_seed(seed)
    found: Parameters = []
    for below, above in pairwise(WIDTHS):
        unit = torch.rand(runs, above, below, generator=generator, dtype=torch.float64)
        found += [(2 * unit - 1) * math.sqrt(6 / (below + above))]
        found += [torch.zeros(runs, above, dtype=torch.float64)]
    return found


def change(p: Parameters, x: Tensor, y: Tensor, variance: float | None) -> Parameters:
    """What one point adds to the parameters, per rate. variance None: backpropagation.

    Otherwise: of the output, beside one of the hidden layer; the energy is relaxed,
    and errors are multiplied by the variance of the output, as there.
    """
    w1, b1, w2, b2 = p
    below = x.tanh().expand(len(w1), -1)
    mu = (w1 @ below.unsqueeze(-1)).squeeze(-1) + b1
    value, scale = mu, 1.0 if variance is None else variance

    def told(value: Tensor) -> tuple[Tensor, Tensor]:
        """The output's error, and what the hidden layer is asked for."""
        error = (y - (w2 @ value.tanh().unsqueeze(-1)).squeeze(-1) - b2) / scale
        asked = (w2.mT @ error.unsqueeze(-1)).squeeze(-1) * (1 - value.tanh() ** 2)
        return error, asked

    out, asked = told(value)
    for _ in range(0 if variance is None else STEPS):
        value = value + STEP_SIZE * (mu - value + asked)
        out, asked = told(value)
    hidden = asked if variance is None else value - mu
    lessons = (hidden, below), (out, value.tanh())
    return [
        scale * found
        for e, above in lessons
        for found in (e.unsqueeze(-1) * above.unsqueeze(-2), e)
    ]


def rmse(p: Parameters) -> Tensor:
    """By run, over the four points."""
    w1, b1, w2, b2 = p
    hidden = (POINTS.tanh() @ w1.mT + b1.unsqueeze(1)).tanh()
    out = (hidden @ w2.mT + b2.unsqueeze(1)).squeeze(-1)
    return (out - TARGETS).square().mean(1).sqrt()


def apart(p: Parameters, variance: float) -> tuple[Tensor, Tensor]:
    """By run: how far the changes are from backpropagation's, and the angle."""

    def all_points(given: float | None) -> Tensor:
        found = [change(p, x, y, given) for x, y in zip(POINTS, TARGETS, strict=True)]
        return torch.cat([d.flatten(1) for one in found for d in one], 1)

    a, b = all_points(variance), all_points(None)
    u, v = (d / d.norm(dim=1, keepdim=True) for d in (a, b))
    angle = 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))
    return (a - b).norm(dim=1) / b.norm(dim=1), angle.rad2deg()


def learning(seed: int, variance: float | None) -> Iterator[Parameters]:
    """The parameters at the start and after every EVERY epochs."""
    p = drawn(seed)
    yield p
    for epoch in range(1, EPOCHS + 1):
        for x, y in zip(POINTS, TARGETS, strict=True):
            found = change(p, x, y, variance)
            p = [a + RATE * d for a, d in zip(p, found, strict=True)]
        if epoch % EVERY == 0:
            yield p
