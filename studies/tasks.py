"""Four small tasks, split once and for all, with the network that learns each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from . import snapshot

Pair = tuple[Tensor, Tensor]
Sizes = tuple[int, int, int]
# The split is the same for all seeds: what they vary is the weights and the order.
SPLIT = 20261121
WIDTH, CONTEXT = 32, 8
DIABETES = 240, 80, 122


@dataclass(frozen=True)
class Task:
    """train, validation, test: inputs and targets. network: of float64 weights, from a
    seed. loss: a mean over samples. score: what is reported of predictions, and named.
    """

    train: Pair
    validation: Pair
    test: Pair
    network: Callable[[int], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], float]
    batch: int
    epochs: int


class Batches:
    """All samples in a new order each time, in batches of one size."""

    def __init__(self, data: Pair, size: int, seed: int) -> None:
        self._data, self._size = data, size
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self._data[1]) // self._size

    def __iter__(self) -> Iterator[Pair]:
        x, y = self._data
        order = torch.randperm(len(y), generator=self._generator)
        for rows in order[: len(self) * self._size].split(self._size):
            yield x[rows], y[rows]


class Rows(nn.Module):
    """Reads an image row by row and names it at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.RNNCell(8, WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """x: (samples, 8, 8), from top to bottom."""
        h = x.new_zeros(len(x), WIDTH)
        for row in x.unbind(1):
            h = self.cell(row, h)
        return self.head(h)


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers with tanh between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def characters() -> nn.Sequential:
    """The next character from those before it, by way of an embedding."""
    kinds = len(snapshot.ALPHABET)
    return nn.Sequential(
        nn.Embedding(kinds, 8), nn.Flatten(), *perceptron(8 * CONTEXT, 64, kinds)
    )


def _seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().double()


def _accuracy(predicted: Tensor, y: Tensor) -> float:
    return float((predicted.argmax(-1) == y).double().mean())


def _bits(predicted: Tensor, y: Tensor) -> float:
    return float(cross_entropy(predicted, y)) / float(np.log(2))


def _explained(predicted: Tensor, y: Tensor) -> float:
    return 1 - float(mse_loss(predicted, y) / y.var(correction=0))


def _parts(x: Tensor, y: Tensor, sizes: Sizes) -> tuple[Pair, Pair, Pair]:
    """Train, validation and test, disjoint, from a shuffled set."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(SPLIT))
    parts = order[: sum(sizes)].split(list(sizes))
    first, second, third = ((x[rows], y[rows]) for rows in parts)
    return first, second, third


def _digits(rows: bool) -> Task:
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images) / 16, torch.tensor(labels)
    make: Callable[[], nn.Module]
    if rows:
        x, make = x.view(-1, 8, 8), Rows
    else:
        make = partial(perceptron, 64, WIDTH, WIDTH, WIDTH, 10)
    parts, epochs = _parts(x, y, (700, 400, 697)), 60 if rows else 40
    return Task(*parts, partial(_seeded, make), cross_entropy, _accuracy, 100, epochs)


def _diabetes() -> Task:
    x, y = map(torch.tensor, load_diabetes(return_X_y=True))
    x = x / x.std()
    y = y[:, None]
    seen = _parts(x, y, DIABETES)[0][1]
    parts = _parts(x, (y - seen.mean()) / seen.std(), DIABETES)
    make = partial(perceptron, 10, 16, 16, 1)
    return Task(*parts, partial(_seeded, make), mse_loss, _explained, 60, 50)


def _characters() -> Task:
    """Three stretches of the text that do not touch: training, validation, test."""
    text = snapshot.folded(snapshot.FILE.read_text(encoding="utf-8"))
    codes = torch.tensor([snapshot.ALPHABET.index(c) for c in text])
    windows = codes.unfold(0, CONTEXT + 1, 1)
    first, second = len(windows) * 7 // 10, len(windows) * 85 // 100
    train = _drawn(windows[: first - CONTEXT], 6000)
    validation = _drawn(windows[first : second - CONTEXT], 1000)
    test = _drawn(windows[second:], 3000)
    network = partial(_seeded, characters)
    return Task(train, validation, test, network, cross_entropy, _bits, 300, 24)


def _drawn(windows: Tensor, size: int) -> Pair:
    generator = torch.Generator().manual_seed(SPLIT)
    chosen = windows[torch.randperm(len(windows), generator=generator)[:size]]
    return chosen[:, :-1], chosen[:, -1]


@lru_cache
def task(name: str) -> Task:
    """One of digits, rows, diabetes, characters.

    >>> len(task("digits").train[1]), task("digits").train[0].shape[1]
    (700, 64)
    """
    made: dict[str, Callable[[], Task]] = {
        "digits": partial(_digits, rows=False),
        "rows": partial(_digits, rows=True),
        "diabetes": _diabetes,
        "characters": _characters,
    }
    return made[name]()
