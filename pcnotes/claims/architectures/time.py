"""Claims about time: recurrent networks, and backpropagation cut into windows."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ... import learning, theory
from ...rules import ZIL, FixedPrediction, Rule
from ..draw import Draw
from ..registry import Measurement, claim, worst
from ..schemes import Dynamics
from ..vertices import Values
from .lessons import off


class Cell(nn.Module):
    """One step of a recurrent net: tanh of its state and of an input."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        shape = (2, width, width)
        weights = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.weights = nn.Parameter(weights / width**0.5)

    def forward(self, state: Tensor, seen: Tensor) -> Tensor:
        """Shapes (batch, width)."""
        return torch.tanh(state @ self.weights[0] + seen @ self.weights[1])


@dataclass
class Unrolled:
    """A recurrent net with inputs, and a loss at some of its times 0..T-1.

    cell: used at every time. say: the readout, which makes the last state a hidden
    vertex. x, y: (T, batch, width). told: the times with a loss.
    """

    cell: Cell
    say: nn.Module
    x: Tensor
    y: Tensor
    told: Sequence[int]

    def states(self, cells: Sequence[Cell], cut_before: Collection[int] = ()) -> Values:
        """The states, by one cell per time; detached before the named times."""
        state, found = torch.zeros_like(self.x[0]), {}
        for t, (cell, seen) in enumerate(zip(cells, self.x, strict=True)):
            state = cell(state.detach() if t in cut_before else state, seen)
            found[str(t)] = state
        return found

    def loss_at(self, t: int, state: Tensor) -> Tensor:
        """ℓ_t."""
        out: Tensor = self.say(state)
        return (out - self.y[t]).square().sum() / 2

    def loss(self, cells: Sequence[Cell], cut_before: Collection[int] = ()) -> Tensor:
        """The sum over the times with a loss."""
        found = self.states(cells, cut_before)
        return torch.stack([self.loss_at(t, found[str(t)]) for t in self.told]).sum()

    def closure(self) -> Tensor:
        """The loss with one cell for all times: what a user would write."""
        return self.loss([self.cell] * len(self.x))

    def learned(self, rule: Rule) -> Tensor:
        """What a rule's own steps leave in the cell's weights."""
        self.cell.zero_grad(set_to_none=True)
        models = [self.cell, self.say]
        learning.backward(models, self.closure, Dynamics(rule), [Cell, nn.Linear])
        assert self.cell.weights.grad is not None
        return self.cell.weights.grad

    def parts(self) -> Tensor:
        """[t, i]: ∂ℓ_t/∂θ by way of the cell at time i, by plain autograd."""
        length = len(self.x)
        cells = [copy.deepcopy(self.cell) for _ in range(length)]
        weights = [cell.weights for cell in cells]
        found = torch.zeros(length, length, *weights[0].shape, dtype=torch.float64)
        values = self.states(cells)
        for t in self.told:
            loss = self.loss_at(t, values[str(t)])
            grads = torch.autograd.grad(
                loss, weights, allow_unused=True, retain_graph=True
            )
            for i, g in enumerate(grads):
                if g is not None:
                    found[t, i] = g
        return found

    def windows(self, n: int) -> Tensor:
        """Truncated backpropagation through time, as one writes it with detach."""
        total = torch.zeros_like(self.cell.weights)
        cells = [self.cell] * len(self.x)
        for t in self.told:
            values = self.states(cells, {t - n + 1})
            loss = self.loss_at(t, values[str(t)])
            total = total + torch.autograd.grad(loss, self.cell.weights)[0]
        return total

    def chunks(self, n: int) -> Tensor:
        """The other truncation: the sequence is cut into pieces of n steps."""
        cells = [self.cell] * len(self.x)
        loss = self.loss(cells, range(0, len(self.x), n))
        return torch.autograd.grad(loss, self.cell.weights)[0]


def some_sequence(draw: Draw, least: int = 1, told: str = "some") -> Unrolled:
    """A random one; told: "some", "all" or "last" times have a loss."""
    length, batch, width = draw.integer(least, 7), draw.integer(1, 2), 2
    every = range(length)
    times = {
        "all": list(every),
        "last": [length - 1],
        "some": [t for t in every if t == length - 1 or draw.integer(0, 1)],
    }
    generator = draw.generator()
    cell = Cell(width, generator)
    shape = (2, length, batch, width)
    x, y = torch.randn(shape, generator=generator, dtype=torch.float64)
    say = nn.utils.skip_init(nn.Linear, width, width, dtype=torch.float64)
    say.weight.data.normal_(generator=generator)
    say.bias.data.zero_()
    return Unrolled(cell, say, x, y, times[told])


@claim(instances="random recurrent nets and steps", quantity="relative error")
def truncated_bptt(draw: Draw) -> Measurement:
    """n unit steps of fixed prediction are truncated backpropagation through time.

    Against windows of n states, written with detach; other steps weigh the part of lag
    j - 1 by the share that has arrived along j edges; Z-IL with steps γ weighs the
    state at time i by γ to the number of steps from i to the end of the sequence.
    """
    net, n = some_sequence(draw), draw.integer(1, 8)
    steps = [draw.uniform(0.1, 1.2) for _ in range(draw.integer(1, 6))]
    gamma = draw.uniform(0.3, 1.3)
    length = len(net.x)
    shares = {d: theory.arrived(steps, d) for d in range(1, length + 1)}
    by_lag = _weighted(net, lambda t, i: shares[t - i + 1])
    by_end = _weighted(net, lambda t, i: gamma ** (length - i))
    return worst(
        _agree(net, net.learned(FixedPrediction(1.0, n)), net.windows(n)),
        _agree(net, net.learned(FixedPrediction(steps)), by_lag),
        _agree(net, net.learned(ZIL(gamma)), by_end),
    )


def _weighted(net: Unrolled, weight) -> Tensor:  # type: ignore[no-untyped-def]
    parts, length = net.parts(), len(net.x)
    pairs = [(t, i) for t in net.told for i in range(length) if i <= t]
    return torch.stack([weight(t, i) * parts[t, i] for t, i in pairs]).sum(0)


def _agree(net: Unrolled, found: Tensor, expected: Tensor) -> Measurement:
    """Relative to the sizes of the parts, which may cancel, and of the values."""
    size = float(net.parts().abs().sum((0, 1)).max())
    # States are at most one; Z-IL's errors are differences of values.
    return off(found, expected, size, 1 + 1 / size)


@truncated_bptt.control
def cut_into_chunks(draw: Draw) -> Measurement:
    """Truncation by pieces of n steps, where a loss sees what its piece has left."""
    net = some_sequence(draw, least=3, told="all")
    return _agree(net, net.learned(FixedPrediction(1.0, 2)), net.chunks(2))


@truncated_bptt.control
def discounted_from_the_loss(draw: Draw) -> Measurement:
    """Z-IL weighed by γ to the distance from the loss, where every time has one."""
    net, gamma = some_sequence(draw, least=2, told="all"), draw.uniform(0.3, 0.8)
    by_lag = _weighted(net, lambda t, i: gamma ** (t - i + 1))
    return _agree(net, net.learned(ZIL(gamma)), by_lag)
