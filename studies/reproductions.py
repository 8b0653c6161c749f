"""reproductions: what papers report of predictive coding, measured again.

Rosenbaum's network while it learns, and its gradients step by step of inference; the
convergence of Millidge's networks; Z-IL with and without identity vertices; XOR as in
Whittington and Bogacz' program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import pcnotes as pc

from . import architectures, exclusive_or
from .architectures import Case, InTurn, Naive
from .plateau import BATCH, RATE, ValueForm, flat, network
from .sources import Sources
from .study import Numbers, Plain, Study, Tolerance

# Of the weights. Rosenbaum makes 400; strict inference is dear, and gets half of ours.
UPDATES, UPDATES_STRICT = 200, 100
# How many steps of inference each step size is given; 0.1 has 400 in the notebook.
STEPS = {0.1: 400, 0.2: 200, 0.5: 100, 1.0: 100}
# For strict inference, near the largest stable step: until it has arrived.
LONG = {0.25: 640}
# `lstm_numerical_checks.py` goes on to 200; the work grows with the square.
LENGTHS = (1, 2, 5, 10, 20, 30, 50)
ZOO = (
    "perceptron-wide",
    "cnn",
    "lstm",
    "gru",
    "resnet",
    "resnet-blocks",
    "transformer",
)


@dataclass(frozen=True)
class Cell:
    """part: which question. what: the loss, or the network. rule: as in `rules`.

    step_size: of inference. updates: of the weights, in training or before the
    measurement. data: where images come from; "random" if they are drawn.
    """

    part: str
    what: str
    rule: str
    step_size: float
    dtype: str
    updates: int
    data: str
    seed: int = 0


def cells(sources: Sources) -> list[Cell]:
    """All parts."""
    data = sources.label("mnist")
    both = ("float32", "float64")
    training = [("mse", rule) for rule in ("bp", "strict", "fixed", "unit")]
    training += [("mse", "figure1")]
    training += [
        ("ce", rule) for rule in ("bp", "fixed", "unit", "value", "value-unit")
    ]
    updates = dict.fromkeys(STEP_SIZES, UPDATES) | {"strict": UPDATES_STRICT}
    inference = [
        ("mse", "strict"),
        ("mse", "figure2"),
        ("ce", "value"),
        ("ce", "error"),
    ]
    return [
        *(
            Cell(
                "training",
                loss,
                *(rule, STEP_SIZES[rule], "float32"),
                updates[rule],
                data,
            )
            for loss, rule in training
        ),
        Cell("training", "ce", "unit", 1.0, "float32", 4, data),
        *(
            Cell("inference", loss, rule, size, dtype, UPDATES, data)
            for loss, rule in inference
            for dtype in both
            for size in STEPS
        ),
        *(
            Cell("inference", "mse", "strict", size, "float64", UPDATES, data)
            for size in LONG
        ),
        Cell("inference", "ce", "value", 1.0, "float32", 0, data),
        Cell("inference", "mse", "strict", 1.0, "float32", 0, data),
        *(
            Cell("zil", model, rule, 1.0, dtype, 0, "random")
            for model in ZOO
            for rule in ("zil", "naive")
            for dtype in both
        ),
        *(
            Cell("sequence", kind, rule, 0.1, "float64", 0, "random")
            for kind in architectures.CELLS
            for rule in ("together", "in-turn")
        ),
        *(
            Cell("images", "lenet", rule, 0.2, dtype, 0, "random")
            for rule in ("value", "error")
            for dtype in both
        ),
        *(
            Cell(
                "xor", variance, rule, *(exclusive_or.STEP_SIZE, "float64"), 2000, "xor"
            )
            for variance, rule in [
                ("none", "bp"),
                *((v, "strict") for v in ("1", "10", "100")),
            ]
        ),
    ]


def measure(cell: Cell, sources: Sources) -> Numbers:
    """The numbers of one cell: lists over updates, steps or lengths."""
    return PARTS[cell.part](cell, sources)


def loss_of(kind: str, net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """The mean squared error to one-hot labels, or the cross-entropy."""
    loss = criterion(kind, y, x.dtype)
    return lambda: loss(net(x))


def criterion(kind: str, y: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The same, as a function of the outputs."""
    if kind == "ce":
        return lambda outputs: functional.cross_entropy(outputs, y)
    target = functional.one_hot(y, 10).to(dtype)
    return lambda outputs: functional.mse_loss(outputs, target)


def batches(sources: Sources, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole batches in a new order every epoch, without end."""
    x, y = sources.images("mnist", "train")
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(y), generator=generator)
        for rows in order.split(BATCH):
            if len(rows) == BATCH:
                yield x[rows], y[rows]


# In Torch2PC an error is read before the last update of its value: n there is n - 1.
TRAINED_BY: dict[str, pc.Rule] = {
    "bp": pc.Backprop(),
    "strict": pc.Strict(0.1, 20),
    "fixed": pc.FixedPrediction(0.1, 19),
    "unit": pc.FixedPrediction(1.0, 4),
    "value": ValueForm(0.1, 19),
    "value-unit": ValueForm(1.0, 4),
}
STEP_SIZES = {"bp": 1.0, "strict": 0.1, "fixed": 0.1, "unit": 1.0}
STEP_SIZES |= {"value": 0.1, "value-unit": 1.0, "figure1": 0.1}


def training(cell: Cell, sources: Sources) -> Numbers:
    """Losses before each update; after it, each layer's distance from BP's gradient
    before it; and at the end the loss and accuracy on images that were not seen."""
    net = network(cell.seed).float()
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    losses, layers = [], Track(net)
    for x, y in islice(batches(sources, cell.seed), cell.updates):
        closure = loss_of(cell.what, net, x, y)
        truth = torch.autograd.grad(closure(), list(net.parameters()))
        optimizer.zero_grad()
        if cell.rule == "figure1":
            told = criterion(cell.what, y, x.dtype)
            losses.append(stored_values(net, told, x, as_in_2021=True))
        else:
            rule = TRAINED_BY[cell.rule]
            losses.append(float(pc.backward(net, closure, rule, at="*")))
        layers.add(weights(net, truth), weights(net, gradients(net)))
        optimizer.step()
    x, y = sources.images("mnist", "test")
    with torch.no_grad():
        loss = float(loss_of(cell.what, net, x, y)())
        accuracy = float((net(x).argmax(1) == y).double().mean())
    return {"losses": losses, **layers.said(), "test": loss, "accuracy": accuracy}


def stored_values(
    net: nn.Sequential,
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    as_in_2021: bool = False,
    step_size: float = 0.1,
    steps: int = 20,
) -> float:
    """Strict predictive coding as Torch2PC's `Strict` computes it; the loss.

    The values are stored and ε is a difference; the parameters learn from the errors of
    the last state but one, the output's included, at the values of the last. Up to
    commit d345a56, when Figure 1 was made, the values went up the loss (there hidden
    ε = v - μ) and the parameters learned at the feed-forward values.
    """
    start = [x]
    for block in net:
        start.append(block(start[-1]).detach())
    values, sign = list(start), -1 if as_in_2021 else 1
    for _ in range(steps):
        at = [v.detach().requires_grad_() for v in values[:-1]]
        mu = [block(v) for block, v in zip(net, at, strict=True)]
        (told,) = torch.autograd.grad(loss(mu[-1]), mu[-1], retain_graph=True)
        errors = [
            sign * (m.detach() - v) for m, v in zip(mu[:-1], values[1:-1], strict=True)
        ]
        errors.append(told)
        asked = torch.autograd.grad(mu[1:], at[1:], errors[1:])
        for k, a in enumerate(asked):
            values[k + 1] = values[k + 1] + sign * step_size * (errors[k] - a)
    there = start if as_in_2021 else values
    for block, v, error in zip(net, there, errors, strict=False):
        block(v).backward(error)
    return float(loss(start[-1]))


def inference(cell: Cell, sources: Sources) -> Numbers:
    """After `steps` steps: how far the weights' gradient is from BP's, by layer."""
    net = network(cell.seed)
    net.load_state_dict(trained(cell.what, cell.updates, cell.seed, sources))
    x, y = next(batches(sources, cell.seed + 1))
    dtype = getattr(torch, cell.dtype)
    net, x = net.to(dtype), x.to(dtype)
    case = Case(net, loss_of(cell.what, net, x, y), "*")
    steps = (STEPS | LONG)[cell.step_size] if cell.updates else 20
    if cell.rule == "figure2":
        return figure2(case, x, cell.step_size, checkpoints(steps))
    return watch(case, relaxation(cell, steps), checkpoints(steps))


def relaxation(cell: Cell, steps: int) -> Any:
    """The rule that is watched."""
    if cell.rule == "value":
        return ValueForm(cell.step_size, steps)
    rule = {"strict": pc.Strict, "error": pc.FixedPrediction}[cell.rule]
    return rule(cell.step_size, steps)


def figure2(case: Case, x: Tensor, step_size: float, kept: Sequence[int]) -> Numbers:
    """As in cell 7 of `Figures1and2.ipynb`: the values are stored, and go *up* the loss
    (there ε = v - μ, and +∂loss/∂μ at the output); weights learn at the feed-forward
    values, from the errors of the n-th state."""
    graph, layers = pc.cut(case.model, case.closure, case.at), Track(case.model)
    done: list[int] = []
    parameters = [p for p in case.model.parameters() if p.dim() > 1]
    truth = list(torch.autograd.grad(case.closure(), parameters, retain_graph=True))
    blocks = list(case.model.named_children())
    inputs = [x, *(graph.predictions[i] for i, _ in blocks[:-1])]
    outputs = [block(v) for (_, block), v in zip(blocks, inputs, strict=True)]
    values = {i: graph.predictions[i] for i in graph.hidden}
    for step in range(kept[-1] + 1):
        try:
            at = graph.evaluate(values)
        except FloatingPointError as error:
            return {"steps": done, **layers.said(), "diverged": str(error)}
        errors = {i: v - at.predictions[i] for i, v in values.items()}
        if step in kept:
            told = [{**errors, **at.output_errors}[i] for i, _ in blocks]
            found = torch.autograd.grad(outputs, parameters, told, retain_graph=True)
            layers.add(truth, list(found))
            done.append(step)
        asked = at.pull(errors)
        values = {i: v - step_size * (errors[i] - asked[i]) for i, v in values.items()}
    return {"steps": done, **layers.said(), "diverged": None}


@lru_cache(maxsize=2)
def trained(loss: str, updates: int, seed: int, sources: Sources) -> dict[str, Tensor]:
    """The weights after so many updates by backpropagation, in float64."""
    net = network(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    for x, y in islice(batches(sources, seed), updates):
        optimizer.zero_grad()
        loss_of(loss, net, x.double(), y)().backward()
        optimizer.step()
    return {k: v.clone() for k, v in net.state_dict().items()}


def watch(case: Case, rule: Any, kept: Sequence[int]) -> Numbers:
    """Each layer's distance from BP's gradient at these steps of inference.

    A list ends where inference was broken off; `diverged` says in what words.
    """
    net = case.model
    parameters = list(net.parameters())
    truth = weights(net, torch.autograd.grad(case.closure(), parameters))
    graph, layers, said, done = pc.cut(net, case.closure, case.at), Track(net), None, []
    try:
        for step, errors in enumerate(rule.run(graph)):
            if step in kept:
                layers.add(truth, weights(net, lesson(graph, errors, parameters)))
                done.append(step)
    except FloatingPointError as error:
        said = str(error)
    return {"steps": done, **layers.said(), "diverged": said}


def lesson(graph: pc.Graph, errors: Any, parameters: Iterable[Tensor]) -> list[Tensor]:
    """What the parameters would learn from these errors, where the graph is now."""
    total = {id(p): torch.zeros_like(p) for p in parameters}
    for leaf, gradient in graph.last.gradients(errors, True, None):
        total[id(leaf)] += gradient
    return [total[id(p)] for p in parameters]


def checkpoints(steps: int) -> list[int]:
    """1 to 10, then some twenty in each factor of ten."""
    rare = [round(10 ** (k / 20)) for k in range(20, 80)]
    return sorted({n for n in (*range(1, 11), *rare, steps) if n <= steps})


class Track:
    """Lists that grow: the relative error and the angle of each layer's weights."""

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        self._errors: list[list[float]] = []
        self._angles: list[list[float]] = []

    def add(self, truth: list[Tensor], found: list[Tensor]) -> None:
        """One more entry; infinite lengths end as None."""
        pairs = [(flat([a]), flat([b])) for a, b in zip(truth, found, strict=True)]
        self._errors.append([float((b - a).norm() / a.norm()) for a, b in pairs])
        self._angles.append([degrees(a, b) for a, b in pairs])

    def said(self) -> dict[str, list[list[float | None]]]:
        """Layer by layer."""
        return {
            "errors": [
                [finite(e) for e in row] for row in zip(*self._errors, strict=True)
            ],
            "angles": [
                [finite(a) for a in row] for row in zip(*self._angles, strict=True)
            ],
        }


def finite(number: float) -> float | None:
    """None where there is no number."""
    return number if math.isfinite(number) else None


def degrees(a: Tensor, b: Tensor) -> float:
    """The angle between two vectors; small ones keep their digits. None has 90."""
    if not float(b.norm()):
        return 90.0
    a, b = a / a.norm(), b / b.norm()
    return math.degrees(2 * math.atan2(float((a - b).norm()), float((a + b).norm())))


def weights(net: nn.Module, found: Iterable[Tensor]) -> list[Tensor]:
    """The gradients of matrices and kernels, without those of biases."""
    return [g for p, g in zip(net.parameters(), found, strict=True) if p.dim() > 1]


def gradients(net: nn.Module) -> list[Tensor]:
    """What `.grad` holds."""
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]


def zil(cell: Cell, sources: Sources) -> Numbers:
    """divergence: Σ(gradient - BP's)² over all parameters, and relative to BP's."""
    case = architectures.zoo(cell.what, getattr(torch, cell.dtype))
    rules: dict[str, pc.Rule] = {"zil": pc.ZIL(), "naive": Naive()}
    error = said = None
    try:
        table = pc.compare(
            case.model, case.closure, [rules[cell.rule]], case.at, own_steps=True
        )
        error = table.rows[0]["relative_error"]
    except FloatingPointError as raised:
        said = str(raised)
    graph = pc.cut(case.model, case.closure, case.at)
    truth = torch.autograd.grad(case.closure(), list(case.model.parameters()))
    length = float(flat(truth).norm())
    return {
        "relative": error,
        "divergence": None if error is None else (error * length) ** 2,
        "diverged": said,
        "depth": graph.depth,
        "vertices": len(graph.vertices),
        "identities": sum(graph.identity_vertices.values()),
    }


# As in `lstm_numerical_checks.py`: when inference has arrived, and how often one looks.
THRESHOLD, EVERY, MOST = 0.001, 5, 1000


def sequence(cell: Cell, sources: Sources) -> Numbers:
    """needed: by length, after how many steps Σ(gradient - BP's)² < THRESHOLD.

    relative: at the largest length, ‖gradient - BP's‖ / ‖BP's‖ every EVERY steps.
    """
    needed, relative = [], []
    for length in LENGTHS:
        case = architectures.sequence(cell.what, length, cell.seed)
        relative = convergence(case, cell)
        needed.append(EVERY * len(relative))
    return {"lengths": LENGTHS, "needed": needed, "relative": relative}


def convergence(case: Case, cell: Cell) -> list[float]:
    """Relative errors after EVERY, 2·EVERY, … steps, until the divergence is small."""
    parameters = list(case.model.parameters())
    truth = flat(torch.autograd.grad(case.closure(), parameters))
    relative = []
    for graph, errors in progress(case, cell):
        missing = flat(lesson(graph, errors, parameters)) - truth
        relative.append(float(missing.norm() / truth.norm()))
        if float(missing.square().sum()) < THRESHOLD:
            return relative
    raise RuntimeError(f"{MOST} steps were not enough")


def progress(case: Case, cell: Cell) -> Iterator[tuple[pc.Graph, Any]]:
    """The errors after EVERY, 2·EVERY, … steps."""
    graph = pc.cut(case.model, case.closure)
    if cell.rule == "together":
        states = pc.FixedPrediction(cell.step_size, MOST).run(graph)
        yield from ((graph, errors) for errors in islice(states, EVERY, None, EVERY))
        return
    for steps in range(EVERY, MOST + 1, EVERY):
        *_, errors = InTurn(cell.step_size, steps).run(graph)
        yield graph, errors


def convolutions(cell: Cell, sources: Sources) -> Numbers:
    """By layer, at 1 to 100 steps. Their step of 0.1 is doubled in their code."""
    case = architectures.images(cell.seed, getattr(torch, cell.dtype))
    return watch(case, relaxation(cell, 100), checkpoints(100))


def xor(cell: Cell, sources: Sources) -> Numbers:
    """what: the variance of the output. rmse, quartiles: by every EVERY epochs.

    learned: how many of RUNS runs have an rmse below 0.1 there. relative, angle: of the
    changes and backpropagation's, at the start: quartiles over the runs.
    """
    variance = None if cell.rule == "bp" else float(cell.what)
    found: list[Tensor] = []
    parts: dict[str, list[float]] = {}
    for p in exclusive_or.learning(cell.seed, variance):
        if not found and variance is not None:
            relative, angle = exclusive_or.apart(p, variance)
            parts = {"relative": quartiles(relative), "angle": quartiles(angle)}
        found.append(exclusive_or.rmse(p))
    return {
        "first": [r[: exclusive_or.SHOWN].tolist() for r in found],
        "quartiles": [quartiles(r) for r in found],
        "learned": [int((r < 0.1).sum()) for r in found],
        **parts,
    }


def quartiles(x: Tensor) -> list[float]:
    """Low, median, high."""
    at = torch.tensor([0.25, 0.5, 0.75], dtype=x.dtype)
    found: list[float] = torch.quantile(x, at).tolist()
    return found


PARTS: dict[str, Callable[[Cell, Sources], Numbers]] = {
    "training": training,
    "inference": inference,
    "zil": zil,
    "sequence": sequence,
    "images": convolutions,
    "xor": xor,
}


def quick(cell: Cell) -> bool:
    """What needs no training, and little time."""
    if cell.part == "zil":
        graded = cell.what not in ("resnet", "gru", "transformer")
        return graded or (cell.what == "transformer" and cell.rule == "zil")
    return cell.part in ("training", "inference") and cell.updates < UPDATES_STRICT


# On another processor sums have another order. What is exact is then another rounding
# error of the same size, far below these; what is not exact is a number that changes in
# its last digits, times what the network makes of them.
EXACT = {"float32": 1e-4, "float64": 1e-12}
INEXACT = {"float32": 1e-2, "float64": 1e-9}


def tolerance(cell: Cell, key: str, stored: Plain) -> Tolerance:
    """Of the quick cells; after hundreds of updates in float32 nobody can say."""
    if key == "divergence":
        return Tolerance(relative=0.1, absolute=EXACT[cell.dtype])
    return Tolerance(INEXACT[cell.dtype], EXACT[cell.dtype])


STUDY = Study(
    name="reproductions",
    about="what papers on predictive coding report, measured again",
    cells=cells,
    measure=measure,
    tolerance=tolerance,
    needs=("mnist",),
    quick=quick,
)
