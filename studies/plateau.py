"""plateau: why fixed prediction in float32 stops short of backpropagation's gradient.

Rosenbaum's network on real images: the relative error of each layer's gradient against
the number of steps, once with the values integrated and ε formed as their difference
from the predictions (as the published code does), once with ε integrated (as this
package does), in float32 and float64. The same weights, the same batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

import pcnotes as pc
from pcnotes.evaluation import Errors
from pcnotes.graph import Graph

from .sources import Sources
from .study import Numbers, Plain, Study, Tolerance

BATCH, EPOCHS, RATE = 300, 6, 0.002
# How many steps each step size is given: past the depth, to where nothing changes.
STEPS = {0.1: 400, 0.2: 200, 0.5: 60, 1.0: 10}
Form = Literal["value", "error"]
FORMS: tuple[Form, ...] = get_args(Form)
Dtype = Literal["float32", "float64"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
SEEDS = 5


@dataclass(frozen=True)
class Cell:
    """form: what is integrated. data: where the images come from.

    seed: of the first weights, of the order of the images and of the batch.
    """

    form: Form
    dtype: Dtype
    step_size: float
    data: str
    seed: int = 0


@dataclass(frozen=True)
class ValueForm:
    """v ← v + η(ε - Jᵀε) with ε = v̂ - v, from v = v̂: fixed prediction by its values.

    In exact arithmetic ε is that of `pcnotes.FixedPrediction`. Torch2PC iterates so; it
    hands on the ε of before its last update, so its n is n - 1 here, and its gradients
    are these bit by bit (commit 00c6c50, on this network).
    """

    step_size: float
    steps: int

    def run(self, graph: Graph) -> Iterator[Errors]:
        """The synchronous relaxation, step by step."""
        start = graph.evaluate().predictions
        values = {i: start[i] for i in graph.hidden}
        errors: Errors = graph.zeros()
        yield errors
        for _ in range(self.steps):
            asked = graph.pull(errors)
            values = {
                i: v + self.step_size * (errors[i] - asked[i])
                for i, v in values.items()
            }
            errors = {i: start[i] - v for i, v in values.items()}
            yield errors


def cells(sources: Sources) -> list[Cell]:
    """Every form, type and step size, with five networks."""
    data = sources.label("mnist")
    return [
        Cell(form, dtype, step_size, data, seed)
        for seed in range(SEEDS)
        for form in FORMS
        for dtype in DTYPES
        for step_size in STEPS
    ]


def network(seed: int) -> nn.Sequential:
    """32,695 parameters in five blocks, in float64; no padding, strides of one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 10, 3), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(10, 5, 3), nn.ReLU(), nn.Flatten()),
            nn.Sequential(nn.Linear(605, 50), nn.ReLU()),
            nn.Sequential(nn.Linear(50, 30), nn.ReLU()),
            nn.Sequential(nn.Linear(30, 10)),
        ).double()


@lru_cache(maxsize=1)
def trained(seed: int, sources: Sources) -> tuple[nn.Sequential, Tensor, Tensor, float]:
    """The network after six epochs, a batch that it saw, and its loss there."""
    x, y = sources.images("mnist", "train", dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    net = network(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        order = torch.randperm(len(y), generator=generator)
        for rows in order.split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    rows = order[:BATCH]
    with torch.no_grad():
        loss = float(functional.cross_entropy(net(x[rows]), y[rows]))
    optimizer.zero_grad()
    return net, x[rows], y[rows], loss


def measure(cell: Cell, sources: Sources) -> Numbers:
    """layer1 to layer5: ‖gradient - BP's‖ / ‖BP's‖ after each number of `steps`."""
    trained_net, x64, y, loss = trained(cell.seed, sources)
    dtype = getattr(torch, cell.dtype)
    net, x = network(cell.seed).to(dtype), x64.to(dtype)
    net.load_state_dict(trained_net.state_dict())

    def closure() -> Tensor:
        return functional.cross_entropy(net(x), y)

    rules = {"value": ValueForm, "error": pc.FixedPrediction}
    rule = rules[cell.form](cell.step_size, STEPS[cell.step_size])
    kept = checkpoints(STEPS[cell.step_size])
    layers = Layers(net, x, y)
    errors: dict[str, list[float]] = {}
    for state in pc.infer(net, closure, rule, at="*"):
        if state.step in kept:
            for name, error in layers.relative_errors(state.errors).items():
                errors.setdefault(f"layer{int(name) + 1}", []).append(error)
    return {"steps": kept, "loss": loss, **errors}


def checkpoints(steps: int) -> list[int]:
    """1 to 10, then ever rarer; and one before the last."""
    rare = [20, 30, 40, 50, 60, 80, 100, 120, 150, 199, 200, 250, 300, 350, 400]
    kept = {*range(1, 11), *rare, steps - 1, steps}
    return sorted(n for n in kept if n <= steps)


class Layers:
    """The network cut into its blocks: what errors mean for the weights of each."""

    def __init__(self, net: nn.Sequential, x: Tensor, y: Tensor) -> None:
        self._blocks = dict(net.named_children())
        loss = functional.cross_entropy(net(x), y)
        found = torch.autograd.grad(loss, list(net.parameters()))
        rest = iter(found)
        self._truth = {
            name: flat([next(rest) for _ in block.parameters()])
            for name, block in self._blocks.items()
        }
        self._predictions = {}
        for name, block in self._blocks.items():
            self._predictions[name] = block(x)
            x = self._predictions[name].detach()

    def relative_errors(self, errors: Errors) -> dict[str, float]:
        """By layer: how far Σ (∂μ/∂θ)ᵀε is from backpropagation's gradient."""
        return {
            name: float((self._gradient(name, errors[name]) - truth).norm())
            / float(truth.norm())
            for name, truth in self._truth.items()
        }

    def _gradient(self, name: str, error: Tensor) -> Tensor:
        return flat(
            torch.autograd.grad(
                self._predictions[name],
                list(self._blocks[name].parameters()),
                error,
                retain_graph=True,
            )
        )


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """One vector of all of them, in float64."""
    return torch.cat([t.flatten().double() for t in tensors])


# What the last error is multiplied by, to say how far rounding may move an error on
# another processor: three times the most that was seen on two emulated ones (AVX2, and
# SSE4 alone). In float32 the value form stops where increments are absorbed, and that
# is much the same everywhere; the rest is noise.
ROUNDING: dict[tuple[Form, Dtype], float] = {
    ("value", "float32"): 0.75,
    ("value", "float64"): 4.2,
    ("error", "float32"): 5.1,
    ("error", "float64"): 6.3,
}
# Likewise for the loss: seen was 8e-5. Adam makes roundings of small gradients grow.
TRAINING = 2.4e-4


def tolerance(cell: Cell, key: str, stored: Plain) -> Tolerance:
    """On a processor that sums in another order.

    An error is P[Bin(n, η) < d], to which all machines agree, plus what rounding adds.
    That is another number everywhere, but of the same size: that of the plateau, the
    last error in the list.
    """
    if key == "loss":
        return Tolerance(relative=TRAINING)
    if not isinstance(stored, list):
        return Tolerance()
    factor = ROUNDING[cell.form, cell.dtype]
    unit = torch.finfo(getattr(torch, cell.dtype)).eps
    return Tolerance(absolute=factor * max(float(stored[-1]), unit))


STUDY = Study(
    name="plateau",
    about="fixed prediction on Rosenbaum's network: why float32 stops short",
    cells=cells,
    measure=measure,
    tolerance=tolerance,
    needs=("mnist",),
    quick=lambda cell: cell.seed == 0 and cell.step_size >= 0.5,
)
