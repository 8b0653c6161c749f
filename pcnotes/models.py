"""The small networks of the chapters: a cell shows the idea, not the net."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def perceptron(
    widths: Sequence[int],
    activation: Callable[[], nn.Module] = nn.Tanh,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> nn.Sequential:
    """layer1, activation, layer2, …: one vertex per layer, the last one the output.

    widths: the input's, the hidden layers' and the output's. Weights are Gaussian with
    variance 1/fan-in from `seed`, biases zero; the global random state is not touched.

    >>> [name for name, _ in perceptron([64, 32, 10]).named_children()]
    ['layer1', 'activation1', 'layer2']
    """
    generator = torch.Generator().manual_seed(seed)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for k, (fan_in, fan_out) in enumerate(pairwise(widths), 1):
        # skip_init: the default initialisation would draw from the global generator
        layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out, dtype=dtype)
        with torch.no_grad():
            layer.weight.normal_(0, fan_in**-0.5, generator=generator)
            layer.bias.zero_()
        parts[f"layer{k}"] = layer
        if k < len(widths) - 1:
            parts[f"activation{k}"] = activation()
    return nn.Sequential(parts)


def convolutional(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Two convolutions with batch norm and a readout, for 8×8 images and ten classes.

    x: (samples, 64), as `pcnotes.data.digits` gives them. The global random state is
    not touched.

    >>> convolutional()(torch.zeros(5, 64, dtype=torch.float64)).shape
    torch.Size([5, 10])
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 10),
        ).to(dtype)


class Recurrent(nn.Module):
    """A gated cell that reads 8×8 images row by row and names one of ten classes.

    x: (samples, 64). every_row: whether it says something after each row, of shape
    (samples, 8, 10); then the cut graph is not graded.

    >>> Recurrent()(torch.zeros(5, 64, dtype=torch.float64)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        width: int = 32,
        every_row: bool = False,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self.every_row = every_row
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.cell = nn.GRUCell(8, width, dtype=dtype)
            self.out = nn.Linear(width, 10, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        state, said = x.new_zeros(len(x), self.cell.hidden_size), []
        for row in x.unflatten(1, (8, 8)).unbind(1):
            state = self.cell(row, state)
            if self.every_row:
                said.append(self.out(state))
        return torch.stack(said, 1) if self.every_row else self.out(state)


class Shortcut(nn.Module):
    """Two hidden vertices; the first reaches the loss directly and through the second.

    The smallest graph that is not graded: x → first → second → out, first → out.
    """

    def __init__(self, width: int = 4, seed: int = 0) -> None:
        super().__init__()
        layers = [
            m for m in perceptron([width] * 4, seed=seed) if isinstance(m, nn.Linear)
        ]
        self.first, self.second, self.out = layers

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.out(h + torch.tanh(self.second(h)))
