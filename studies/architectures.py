"""Networks of other papers, as their code sets them up, and where they are cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import bench.models
from pcnotes.evaluation import Errors
from pcnotes.graph import Graph

Closure = Callable[[], Tensor]


@dataclass(frozen=True)
class Naive:
    """Z-IL as if every graph were graded: level k learns at step k, nobody waits."""

    def run(self, graph: Graph) -> Iterator[Errors]:
        """Unit steps of gradient descent on the energy."""
        at = graph.evaluate()
        values = {i: at.predictions[i] for i in graph.hidden}
        for step in range(graph.depth + 1):
            at = graph.evaluate(values)
            errors = {i: at.predictions[i] - v for i, v in values.items()}
            level = {i: e for i, e in errors.items() if graph.levels[i] == step}
            graph.learn(level, loss=step == 0)
            yield errors
            asked = at.pull(errors)
            values = {i: v + errors[i] - asked[i] for i, v in values.items()}


@dataclass(frozen=True)
class InTurn:
    """Fixed prediction, one level after the other: each takes all of its steps.

    So do `rnn.py` and `lstm.py` of BerenMillidge/PredictiveCodingBackprop (commit
    2154d78): time runs backwards, and at each time the inner loop is run to its end.
    """

    step_size: float
    steps: int

    def run(self, graph: Graph) -> Iterator[Errors]:
        """Zero, then the errors after all steps at every level."""
        graph.evaluate()
        errors = dict(graph.zeros())
        yield dict(errors)
        for level in range(1, graph.depth + 1):
            asked = graph.pull(errors)
            for i in graph.structure.by_level[level]:
                for _ in range(self.steps):
                    errors[i] = errors[i] + self.step_size * (asked[i] - errors[i])
        yield errors


def lenet(seed: int) -> nn.Sequential:
    """Six layers, as in `cnn.py` of Millidge's code: 3×32×32 images, ten classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 6, 5), nn.ReLU()),
            nn.MaxPool2d(2),
            nn.Sequential(nn.Conv2d(6, 16, 5), nn.ReLU()),
            nn.Sequential(nn.Flatten(), nn.Linear(1600, 200), nn.ReLU()),
            nn.Sequential(nn.Linear(200, 150), nn.ReLU()),
            nn.Sequential(nn.Linear(150, 10)),
        ).double()


@dataclass(frozen=True)
class Case:
    """A network with one batch. at: the vertices."""

    model: nn.Module
    closure: Closure
    at: Any = None


def images(seed: int, dtype: torch.dtype) -> Case:
    """`lenet` on 64 random images and labels, squared error to one-hot."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(64, 3, 32, 32, generator=generator, dtype=torch.float64)
    y = torch.randint(10, (64,), generator=generator)
    net, x, target = lenet(seed).to(dtype), x.to(dtype), functional.one_hot(y, 10)
    return Case(net, lambda: (net(x) - target).square().sum(), "*")


# Hidden units: `rnn.py` has 256, `lstm_numerical_checks.py` 65. Batches are of 64.
CELLS: dict[str, tuple[type[nn.Module], int]] = {
    "rnn": (nn.RNNCell, 256),
    "lstm": (nn.LSTMCell, 65),
}
SYMBOLS, SEQUENCES = 65, 64


def sequence(kind: str, length: int, seed: int) -> Case:
    """A cell that says after each random symbol what the next one is.

    The squared errors to one-hot are summed over everything, as in their check.
    """
    cell, width = CELLS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = bench.models.Recurrent(cell(SYMBOLS, width))
        model.readout = nn.Linear(width, SYMBOLS)
        symbols = torch.randint(SYMBOLS, (length + 1, SEQUENCES))
    model = model.double()
    hot = functional.one_hot(symbols, SYMBOLS).double()

    def closure() -> Tensor:
        states = model.states(hot[:-1])
        said = torch.stack([model.readout(h) for h in states])
        return (said - hot[1:]).square().sum()

    return Case(model, closure)


def zoo(name: str, dtype: torch.dtype) -> Case:
    """One of the models of `bench`, in this type."""
    with torch.random.fork_rng():
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            case = bench.models.MODELS[name]("cpu")
        finally:
            torch.set_default_dtype(default)
    return Case(case.model, case.closure, case.at)
