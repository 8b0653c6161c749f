"""The models that are measured: each with data, a closure, and where it is cut.

Blocks are modules of their own, so that a package that knows `nn.Sequential` only can
run the first three as well as it is able to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A model with one batch.

    closure: runs the model and returns the scalar loss. at: the vertices. x, y: the
    batch of a model that is an `nn.Sequential` with cross-entropy; None for the others.
    widths: of a perceptron, else empty.
    """

    model: nn.Module
    closure: Callable[[], Tensor]
    at: Any = None
    x: Tensor | None = None
    y: Tensor | None = None
    widths: tuple[int, ...] = ()

    def clear(self) -> None:
        """No gradients, as at the start of a training step."""
        for parameter in self.model.parameters():
            parameter.grad = None


def sequential(model: nn.Sequential, x: Tensor, y: Tensor, *widths: int) -> Case:
    """A chain of blocks under cross-entropy."""
    return Case(model, lambda: F.cross_entropy(model(x), y), None, x, y, widths)


def perceptron(layers: int, width: int, batch: int, device: str = "cpu") -> Case:
    """`layers` weight matrices, all width × width, tanh between them."""
    torch.manual_seed(0)
    blocks = [
        nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(layers - 1)
    ]
    model = nn.Sequential(*blocks, nn.Linear(width, width)).to(device)
    x = torch.randn(batch, width, device=device)
    y = torch.randint(width, (batch,), device=device)
    return sequential(model, x, y, *[width] * (layers + 1))


def wide(device: str) -> Case:
    """Three layers of 512, batch 256: large matrix products."""
    return perceptron(3, 512, 256, device)


def deep(device: str) -> Case:
    """Thirty-two layers of 256, batch 128."""
    return perceptron(32, 256, 128, device)


def cnn(device: str) -> Case:
    """Three convolutions with batch norm and pooling, then a linear layer."""
    torch.manual_seed(0)

    def block(before: int, after: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )

    head = nn.Sequential(nn.Flatten(), nn.Linear(32 * 16, 10))
    model = nn.Sequential(block(3, 16), block(16, 32), block(32, 32), head).to(device)
    x = torch.randn(32, 3, 32, 32, device=device)
    return sequential(model, x, torch.randint(10, (32,), device=device))


class Residual(nn.Module):
    """Two convolutions with batch norm, and what went in added to what comes out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(h)))


class ResNet(nn.Module):
    """A stem, four residual blocks, a linear layer on the mean."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*[Residual(width) for _ in range(4)])
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def resnet(device: str, at: Any = None) -> Case:
    """Convolutions and norms are vertices; skips make the graph not graded."""
    torch.manual_seed(0)
    model = ResNet().to(device)
    x = torch.randn(16, 3, 16, 16, device=device)
    y = torch.randint(10, (16,), device=device)
    return Case(model, lambda: F.cross_entropy(model(x), y), at)


def resnet_blocks(device: str) -> Case:
    """The same with one vertex a residual block."""
    return resnet(device, at=["stem", "blocks.*", "head"])


class Recurrent(nn.Module):
    """A loop over a cell and a linear readout: (length, batch, 8) → (length, …, 4)."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell
        self.readout = nn.Linear(32, 4)

    def states(self, xs: Tensor) -> list[Tensor]:
        """The hidden state after each input."""
        state, states = None, []
        for x in xs:
            state = self.cell(x, state)
            states.append(state[0] if isinstance(state, tuple) else state)
        return states


def lstm(device: str) -> Case:
    """Twenty calls of one small LSTM cell, loss at the end: interpreter time."""
    torch.manual_seed(0)
    model = Recurrent(nn.LSTMCell(8, 32)).to(device)
    xs, y = torch.randn(20, 16, 8, device=device), torch.randn(16, 4, device=device)
    return Case(model, lambda: F.mse_loss(model.readout(model.states(xs)[-1]), y))


def gru(device: str) -> Case:
    """Twenty calls of one small GRU cell, a loss at every step."""
    torch.manual_seed(0)
    model = Recurrent(nn.GRUCell(8, 32)).to(device)
    xs, ys = torch.randn(20, 16, 8, device=device), torch.randn(20, 16, 4).to(device)

    def closure() -> Tensor:
        losses = [
            F.mse_loss(model.readout(h), y)
            for h, y in zip(model.states(xs), ys, strict=True)
        ]
        return torch.stack(losses).mean()

    return Case(model, closure)


class Attend(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A causal language model whose readout is its embedding, transposed."""

    def __init__(self, length: int, width: int = 64, words: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.position = nn.Parameter(torch.randn(length, width) / width**0.5)
        self.blocks = nn.ModuleList(Attend(width) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, words, bias=False)
        self.readout.weight = self.embedding.weight
        ahead = torch.full((length, length), float("-inf")).triu(1)
        self.register_buffer("mask", ahead)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words) + self.position
        for block in self.blocks:
            x = block(x, self.mask)
        return self.readout(self.norm(x))


def transformer(device: str) -> Case:
    """Two blocks of width 64 on 8 sequences of 32 words, tied embeddings."""
    torch.manual_seed(0)
    model = Transformer(32).to(device)
    words = torch.randint(256, (8, 33), device=device)
    given, next_words = words[:, :-1], words[:, 1:].flatten()
    return Case(model, lambda: F.cross_entropy(model(given).flatten(0, 1), next_words))


MODELS: dict[str, Callable[[str], Case]] = {
    "perceptron-wide": wide,
    "perceptron-deep": deep,
    "cnn": cnn,
    "resnet": resnet,
    "resnet-blocks": resnet_blocks,
    "lstm": lstm,
    "gru": gru,
    "transformer": transformer,
}
