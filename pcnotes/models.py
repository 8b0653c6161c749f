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
