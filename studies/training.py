"""tuning and training: every rule on four small tasks, to where it gets no better.

The protocol. Ten candidates for each rule, with the same weights and order of
batches, are trained for the same number of epochs; the one with the smallest validation
loss after any epoch is chosen. Rules that are proved to compute BP's gradient have BP's
candidates and are given BP's choice. Then five other seeds are trained with it; what is
reported is the test part at the epoch with the smallest validation loss. The optimizer
is Adam, the arithmetic float64.

Study `tuning` stores the candidates, study `training` reads the choice from there, and
adds: the same with three times the epochs; sweeps on the digits, over rates, over
steps of inference, over nudges, over inference that is cut short; and how far
trajectories that agree in exact arithmetic drift apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

import pcnotes as pc

from . import results
from .rules import (
    BASELINE,
    EXACT,
    OTHERS,
    RULES,
    OwnSteps,
    Settings,
    candidates,
    made,
    spent,
)
from .sources import Sources
from .study import Numbers, Plain, Study, Tolerance
from .tasks import Batches, Pair, Task, task

TASKS = ("digits", "rows", "diabetes", "characters")
TUNING_SEED = 100
SEEDS = range(5)
SWEEP_SEEDS = range(2)
Part = Literal["tune", "test", "long", "rates", "steps", "nudge", "short", "drift"]
# How many times as many epochs the part `long` has.
LONGER = 3
SWEPT_RATES = (0.0005, 0.002, 0.008, 0.032, 0.128)
SWEPT_STEPS = (0.1, 0.2, 0.4, 0.8)
NUDGES = (0.001, 0.01, 0.1, 1.0)
SHORT = {"fp-half": (1, 2, 3, 4, 6, 10), "strict": (1, 2, 4, 8)}
# Rates with which plain gradient descent trains well, and slowly, on the digits.
DESCENT = 0.5
DRIFT_RATES = (0.1, 1.0)
DRIFT_STEPS, DRIFT_EVERY = 200, 10
# Half steps until less than a rounding is missing: P[Bin(70, ½) < 3] = 2e-18.
DRIFT_HALVES = 70
NUDGE = 1e-16


@dataclass(frozen=True)
class Cell:
    """One training. part: what it is for. The settings are those of `rules.Settings`.

    seed: of the first weights and of the order of the batches.
    """

    part: Part
    task: str
    rule: str
    rate: float
    step_size: float | None = None
    steps: int | None = None
    scale: float | None = None
    optimizer: Literal["adam", "sgd"] = "adam"
    seed: int = 0

    @property
    def own(self) -> Settings:
        """What the rule and the optimizer are given."""
        return Settings(self.rate, self.step_size, self.steps, self.scale)


def tuned(sources: Sources) -> list[Cell]:
    """Every candidate of every rule that is tuned, on every task."""
    del sources
    return [
        Cell("tune", name, rule, **asdict(own), seed=TUNING_SEED)
        for name in TASKS
        for rule in (BASELINE, *OTHERS)
        for own in candidates(rule, enough(name))
    ]


@lru_cache
def enough(name: str) -> int:
    """As many steps of inference as the task's graph is deep, and four at least.

    >>> {name: enough(name) for name in TASKS}
    {'digits': 4, 'rows': 8, 'diabetes': 4, 'characters': 4}
    """
    to = task(name)
    model, (x, y) = to.network(0), to.train
    return max(4, pc.cut(model, lambda: to.loss(model(x[:1]), y[:1])).depth)


@lru_cache(maxsize=1)
def _stored() -> dict[tuple[str, str], Settings]:
    best: dict[tuple[str, str], tuple[float, Settings]] = {}
    for row in results.read("tuning")["cells"]:
        at, loss = row["settings"], row["numbers"]["best"]
        key = at["task"], at["rule"]
        own = Settings(at["rate"], at["step_size"], at["steps"], at["scale"])
        if loss is not None and loss < best.get(key, (math.inf, own))[0]:
            best[key] = loss, own
    return {key: own for key, (_, own) in best.items()}


def chosen(name: str, rule: str) -> Settings:
    """What the stored tuning says is best for a rule on a task."""
    tuned_rule = BASELINE if rule in EXACT else rule
    try:
        return _stored()[name, tuned_rule]
    except KeyError as error:
        raise ValueError(
            f"{results.FOLDER / 'tuning.json'} has no candidates of {tuned_rule} on "
            f"{name} (it lacks {error}). `git checkout` brings a stored file back, "
            "`python -m studies tuning` makes it anew"
        ) from error


def cells(sources: Sources) -> list[Cell]:
    """The reported seeds of every rule on every task, then the sweeps."""
    del sources
    reported = [
        Cell("test", name, rule, **asdict(chosen(name, rule)), seed=seed)
        for name in TASKS
        for rule in RULES
        for seed in SEEDS
    ]
    longer = [replace(c, part="long") for c in reported if c.rule not in EXACT]
    sweeps = [
        *_sweep("rates", (BASELINE, *OTHERS), "rate", SWEPT_RATES),
        *_sweep("steps", ("strict", "error", "incremental"), "step_size", SWEPT_STEPS),
        *_sweep("nudge", ("strict", "error"), "scale", NUDGES),
        *_short(),
    ]
    return [*reported, *longer, *sweeps, *_drift()]


def _sweep(
    part: Part, rules: Sequence[str], setting: str, values: Sequence[float]
) -> Iterator[Cell]:
    """Rules on the digits as they were tuned, but for one setting."""
    for rule in rules:
        own = asdict(chosen("digits", rule))
        for value in values:
            for seed in SWEEP_SEEDS:
                yield Cell(part, "digits", rule, **own | {setting: value}, seed=seed)


def _short() -> Iterator[Cell]:
    adam = chosen("digits", BASELINE).rate
    for rule, numbers in SHORT.items():
        step_size, scale = (0.5, None) if rule == "fp-half" else (0.3, 1.0)
        for steps in numbers:
            for seed in SWEEP_SEEDS:
                first = Cell(
                    "short", "digits", rule, adam, step_size, steps, scale, seed=seed
                )
                yield first
                yield replace(first, rate=DESCENT, optimizer="sgd")


def _drift() -> Iterator[Cell]:
    for rate in DRIFT_RATES:
        for rule in ("bp", *EXACT):
            yield Cell("drift", "digits", rule, rate, optimizer="sgd")
        at = (rate, 0.5, DRIFT_HALVES)
        yield Cell("drift", "digits", "fp-half", *at, optimizer="sgd")


def measure(cell: Cell, sources: Sources) -> Numbers:
    """Curves over the epochs, what is reported of them, and counts; or a drift."""
    del sources
    if cell.part == "drift":
        return drift(cell)
    chosen_task = task(cell.task)
    if cell.part == "long":
        chosen_task = replace(chosen_task, epochs=LONGER * chosen_task.epochs)
    model = chosen_task.network(cell.seed)
    curves = train(cell, chosen_task, model)
    known = [v for v in curves["validation"] if v is not None]
    best = min(known, default=None)
    if cell.part == "tune":
        return {"validation": curves["validation"], "best": best}
    at = None if best is None else curves["validation"].index(best)
    score = None if at is None else curves["test"][at]
    last = None if len(known) < chosen_task.epochs else gain(known)
    if cell.part == "long":
        return {"best": best, "score": score, "gain": last}
    return {**curves, "score": score, "gain": last} | counts(cell)


def gain(losses: list[float]) -> float:
    """By how much the smallest loss fell in the last quarter, relative to it.

    >>> gain([1.0, 0.5, 0.4, 0.5]), gain([1.0, 0.5, 0.5, 0.4])
    (0.0, 0.25)
    """
    before = min(losses[: len(losses) * 3 // 4])
    return round(max(0.0, before / min(losses) - 1), 12)


def train(cell: Cell, to: Task, model: nn.Module) -> dict[str, list[Any]]:
    """Losses and scores after each epoch; None from where inference diverged."""
    optimizer = descent(cell, model)
    found: dict[str, list[Any]] = {"validation": [], "test": []}

    def evaluate(net: nn.Module) -> float:
        x, y = to.validation
        found["validation"].append(finite(float(to.loss(net(x), y))))
        x, y = to.test
        found["test"].append(finite(to.score(net(x), y)))
        return 0.0

    batches = Batches(to.train, to.batch, cell.seed)
    rule = made(cell.rule, cell.own, to.batch)
    with suppress(FloatingPointError):
        pc.fit(
            model,
            batches,
            to.loss,
            optimizer,
            rule=rule,
            epochs=to.epochs,
            evaluate=evaluate,
            progress=False,
        )
    for curve in found.values():
        curve += [None] * (to.epochs - len(curve))
    return found


def finite(number: float) -> float | None:
    """The number, or None if it is none."""
    return number if math.isfinite(number) else None


def descent(cell: Cell, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that a cell names."""
    kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    return kinds[cell.optimizer](model.parameters(), lr=cell.rate)


def counts(cell: Cell) -> dict[str, int]:
    """What one batch costs by the rule's own steps, and what it costs BP."""
    to = task(cell.task)
    model, (x, y) = to.network(cell.seed), to.train
    x, y = x[: to.batch], y[: to.batch]
    own = cell.own
    if own.step_size is not None:  # which no count depends on, and which may diverge
        own = replace(own, step_size=1e-3)
    rule = pc.Exact() if cell.rule == BASELINE else made(cell.rule, own, to.batch)

    def closure() -> Tensor:
        return to.loss(model(x), y)

    found, exact = (spent(r, model, closure) for r in (rule, pc.Exact()))
    return {
        "evaluations": found.evaluations,
        "vjps": found.vjps,
        "lessons": found.lessons,
        "products": found.products,
        "bp_products": exact.products,
    }


def drift(cell: Cell) -> Numbers:
    """Two trainings side by side by gradient descent: BP, and the cell's rule.

    If the cell's rule is BP itself, one weight begins 1e-16 away. apart: the distance
    of the weights relative to their norm, every ten steps. gradient: the relative
    distance of the two rules' gradients at the same weights, BP's, at these steps.
    """
    to = task(cell.task)
    models = [to.network(cell.seed) for _ in range(2)]
    rule = made(cell.rule, cell.own, to.batch)
    rules = [pc.Backprop(), rule if cell.rule == BASELINE else OwnSteps(rule)]
    if cell.rule == BASELINE:
        with torch.no_grad():
            first = next(models[1].parameters()).view(-1)
            first[first.abs().argmin()] += NUDGE
    optimizers = [descent(cell, model) for model in models]
    apart, pointwise = [], []
    for step, (x, y) in enumerate(_endless(to, cell.seed)):
        if step % DRIFT_EVERY == 0:
            a, b = (flat(model.parameters()) for model in models)
            apart.append(float((a - b).norm() / a.norm()))
            pair = [gradient(models[0], to, (x, y), rule) for rule in rules]
            pointwise.append(float((pair[0] - pair[1]).norm() / pair[0].norm()))
        if step == DRIFT_STEPS:
            break
        for model, rule, optimizer in zip(models, rules, optimizers, strict=True):
            gradient(model, to, (x, y), rule)
            optimizer.step()
    return {"apart": apart, "gradient": pointwise}


def _endless(to: Task, seed: int) -> Iterator[Pair]:
    batches = Batches(to.train, to.batch, seed)
    while True:
        yield from batches


def gradient(model: nn.Module, to: Task, batch: Pair, rule: pc.Rule) -> Tensor:
    """A rule's gradient on a batch, in `.grad` and as one vector."""
    x, y = batch
    model.zero_grad()
    pc.backward(model, lambda: to.loss(model(x), y), rule)
    return flat(p.grad for p in model.parameters() if p.grad is not None)


def flat(tensors: Any) -> Tensor:
    """One vector of all of them."""
    return torch.cat([t.detach().flatten() for t in tensors])


# How far a number of the quick cells may be off on a processor that sums in another
# order. First weights that were moved by 1e-15 of themselves moved the losses and
# scores of diabetes by 4e-12 at most. Nothing is promised of the other cells: where
# training makes more of a rounding, another machine gives another run.
ROUNDING = 1e-9


def tolerance(cell: Cell, key: str, stored: Plain) -> Tolerance:
    """On a processor that sums in another order; not for what runs apart anyway."""
    del stored
    if cell.part == "drift":
        slow = key == "gradient" or cell.rate == min(DRIFT_RATES)
        return Tolerance(absolute=1e-12 if slow else 1.0)
    return Tolerance(absolute=ROUNDING)


TUNING = Study(
    name="tuning",
    about="ten candidates for each rule on four tasks",
    cells=tuned,
    measure=measure,
    tolerance=tolerance,
    quick=lambda cell: (
        (cell.task, cell.rate) == ("diabetes", 0.004) and cell.scale != 1.0
    ),
)
STUDY = Study(
    name="training",
    about="every rule trained on four tasks, and sweeps on one of them",
    cells=cells,
    measure=measure,
    tolerance=tolerance,
    quick=lambda cell: (
        (
            (cell.task, cell.seed) == ("diabetes", 0)
            and (cell.part != "long" or cell.rule == BASELINE)
        )
        or (cell.part, cell.rule, cell.rate) == ("drift", "z-il", min(DRIFT_RATES))
    ),
)
