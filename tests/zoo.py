"""Small models of every kind that people build, each with a closure, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

Case = tuple[nn.Module | list[nn.Module], Callable[[], Tensor]]
ZOO: dict[str, Callable[[], Case]] = {}


def case(make: Callable[[], Case]) -> Callable[[], Case]:
    def seeded() -> Case:
        torch.manual_seed(7)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return make()
        finally:
            torch.set_default_dtype(before)

    ZOO[make.__name__] = seeded
    return seeded


@case
def perceptron() -> Case:
    net = nn.Sequential(
        nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)
    )
    x, y = torch.randn(5, 4), torch.randn(5, 3)
    return net, lambda: F.mse_loss(net(x), y)


@case
def one_layer() -> Case:
    net = nn.Linear(4, 2)
    x = torch.randn(5, 4)
    return net, lambda: net(x).square().sum()


@case
def convolution_with_batch_norm() -> Case:
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    x, y = torch.randn(6, 1, 8, 8), torch.arange(6) % 3
    return net, lambda: F.cross_entropy(net(x), y)


@case
def dropout() -> Case:
    net = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, 2))
    x = torch.randn(5, 4)
    return net, lambda: net(x).square().sum()


@case
def recurrent_loop() -> Case:
    cell, readout = nn.GRUCell(3, 5), nn.Linear(5, 2)
    net = nn.ModuleDict({"cell": cell, "readout": readout})
    xs, ys = torch.randn(6, 4, 3), torch.randn(6, 4, 2)

    def closure() -> Tensor:
        h, loss = torch.zeros(4, 5, dtype=torch.float64), 0
        for x, y in zip(xs, ys, strict=True):
            h = cell(x, h)
            loss = loss + F.mse_loss(readout(h), y)
        return loss

    return net, closure


@case
def lstm() -> Case:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.lstm = nn.LSTM(4, 5, num_layers=2, batch_first=True)
            self.out = nn.Linear(5, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            hidden, (h, _) = self.lstm(self.embed(tokens))
            return self.out(hidden) + self.out(h[-1])[:, None]

    net, tokens = Tagger(), torch.randint(7, (4, 6))
    return net, lambda: net(tokens).square().mean()


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, 2, batch_first=True)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm(x)
        x = x + self.attend(n, n, n, need_weights=False)[0]
        return x + self.down(F.gelu(self.up(x)))


@case
def transformer_with_tied_embeddings() -> Case:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 8)
            self.position = nn.Parameter(torch.randn(5, 8))
            self.blocks = nn.ModuleList([Block(8), Block(8)])
            self.out = nn.Linear(8, 9, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens) + self.position
            for block in self.blocks:
                x = block(x)
            return self.out(x)

    net, tokens = Language(), torch.randint(9, (3, 5))
    return net, lambda: F.cross_entropy(net(tokens).flatten(0, 1), tokens.flatten())


@case
def module_called_three_times() -> Case:
    f, g = nn.Linear(4, 4), nn.Linear(4, 1)
    net = nn.Sequential(f, g)
    x = torch.randn(5, 4)
    return net, lambda: g(torch.tanh(f(torch.tanh(f(torch.tanh(f(x))))))).sum()


@dataclass(frozen=True)
class Parts:
    mean: Tensor
    spread: Tensor
    count: int


@case
def nested_outputs() -> Case:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> dict:
            mean = self.a(x)
            parts = Parts(mean, self.b(x).exp(), x.shape[0])
            return {"parts": parts, "mean": mean, "ids": [x.argmax(1), None]}

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Linear(4, 3)

        def forward(self, d: dict) -> tuple:
            z = d["parts"].mean * d["parts"].spread + d["mean"]
            return self.c(z), z, "done"

    encoder, decoder = Encoder(), Decoder()
    net = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    x = torch.randn(5, 3)

    def closure() -> Tensor:
        out, z, _ = decoder(encoder(x))
        return F.mse_loss(out, x) + z.square().mean()

    return net, closure


@case
def two_models_two_losses() -> Case:
    generator, critic = nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    noise, real = torch.randn(5, 2), torch.randn(5, 3)

    def closure() -> Tensor:
        fake = generator(noise)
        return F.softplus(critic(fake)).mean() + F.softplus(-critic(real)).mean()

    return [generator, critic], closure


@case
def in_place_after_every_layer() -> Case:
    a, b, c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)
    net, x = nn.Sequential(a, b, c), torch.randn(3, 4)

    def closure() -> Tensor:
        h = a(x).relu_()
        k = b(h)
        k += h
        k[:, 0] = 0
        k.mul_(2)
        return c(k).sub_(1).square().sum()

    return net, closure


@case
def dead_end_and_deep_supervision() -> Case:
    a, b, c, aside = (nn.Linear(4, 4) for _ in range(4))
    net = nn.ModuleDict({"a": a, "b": b, "c": c, "aside": aside})
    x = torch.randn(3, 4)

    def closure() -> Tensor:
        h = torch.tanh(a(x))
        k = torch.tanh(b(h))
        aside(h * k)
        return c(k + h).square().sum() + h.square().sum()

    return net, closure


@case
def frozen_middle_and_weight_penalty() -> Case:
    net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2))
    net[1].requires_grad_(False)
    x = torch.randn(3, 4)
    penalty = lambda: sum(p.square().sum() for p in net.parameters())  # noqa: E731
    return net, lambda: net(x).square().sum() + 0.1 * penalty()


@case
def parametrized() -> Case:
    net = nn.Sequential(weight_norm(nn.Linear(4, 5)), weight_norm(nn.Linear(5, 2)))
    x = torch.randn(3, 4)
    return net, lambda: net(x).square().sum()


@case
def parameter_list() -> Case:
    class Polynomial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.powers = nn.ParameterList([torch.randn(4) for _ in range(3)])

        def forward(self, x: Tensor) -> Tensor:
            return sum(w * x**k for k, w in enumerate(self.powers))

    net, x = (
        nn.Sequential(Polynomial(), nn.Linear(4, 4), Polynomial()),
        torch.randn(3, 4),
    )
    return net, lambda: net(x).square().mean()


@case
def returns_its_input_or_its_parameter() -> Case:
    class Start(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.state = nn.Parameter(torch.randn(3))

        def forward(self) -> Tensor:
            return self.state

    class Maybe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.randn(3))

        def forward(self, x: Tensor) -> Tensor:
            return x

    start, maybe, out = Start(), Maybe(), nn.Linear(3, 2)
    net = nn.ModuleDict({"start": start, "maybe": maybe, "out": out})
    return net, lambda: out(maybe(start())).square().sum()


@case
def sparse_embedding() -> Case:
    bag, out = nn.Embedding(10, 3, sparse=True), nn.Linear(3, 2)
    net, tokens = nn.Sequential(bag, out), torch.randint(10, (4, 5))
    return net, lambda: net(tokens).square().sum()


@case
def residual_stack() -> Case:
    layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(5)])
    x = torch.randn(3, 4)

    def closure() -> Tensor:
        h = x
        for layer in layers:
            h = h + torch.tanh(layer(h))
        return h.square().sum()

    return layers, closure
