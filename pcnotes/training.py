"""A training loop for any rule."""

from __future__ import annotations

import math
import numbers
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .graph import Closure
from .learning import backward, infer
from .rules import Incremental, Rule, check_rule
from .rules.arguments import count
from .selection import At, modules_of
from .tables import Table

Batches = Iterable[tuple[Any, Any]]
Evaluate = Callable[[Any], float | Mapping[str, float]]


@dataclass(frozen=True)
class History:
    """What `fit` saw: one dict of numbers per epoch. Print it.

    Each has `epoch` (from 1), `loss` (the mean of the batches' feed-forward losses) and
    what `evaluate` returned. best: the epoch that `patience` would keep, None without
    `evaluate`. stopped: whether patience ended the training.
    """

    epochs: tuple[dict[str, float], ...]
    best: int | None
    stopped: bool

    def __getitem__(self, name: str) -> list[float]:
        """One quantity over the epochs, as in `history["loss"]`."""
        return [epoch[name] for epoch in self.epochs]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and names, ready for json."""
        return {"epochs": list(self.epochs), "best": self.best, "stopped": self.stopped}

    def _table(self) -> Table:
        columns = list(self.epochs[0])
        rows = [
            [str(epoch["epoch"]), *(f"{epoch[c]:.6g}" for c in columns[1:])]
            for epoch in self.epochs
        ]
        best = "" if self.best is None else f"best epoch: {self.best}"
        notes = [best + ", stopped by patience" * self.stopped] if best else []
        return Table(columns, rows, notes)

    def __str__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()


def fit(
    model: nn.Module,
    batches: Batches,
    loss_fn: Callable[[Any, Any], Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    rule: Rule,
    epochs: int,
    evaluate: Evaluate | None = None,
    seed: int | None = None,
    patience: int | None = None,
    maximize: bool = False,
    at: At = None,
    progress: bool = True,
) -> History:
    """Train with a rule's gradients: batches, epochs, a progress bar, a history.

    model: one module, called as model(x). batches: an iterable of (x, y) that can be
    gone through once per epoch (a list, a DataLoader). loss_fn: (prediction, y) ->
    scalar. optimizer: any of torch.optim; one that calls its closure several times
    (LBFGS) is served, too. evaluate: after each epoch, a function of the model, in
    evaluation mode and without gradients, that returns a number or {name: number}.
    seed: of the random numbers used in here (shuffling, dropout); the generators are
    put back afterwards. patience: stop after so many epochs in which the first number
    of `evaluate` got no smaller (with maximize, no larger). at: as for `cut`.

    With `Incremental` the optimizer steps at every state of inference.

    >>> import torch, pcnotes as pc
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    >>> batches = [(torch.ones(4, 2), torch.zeros(4, 1))] * 5
    >>> history = pc.fit(net, batches, torch.nn.functional.mse_loss,
    ...                  torch.optim.SGD(net.parameters(), lr=0.1), rule=pc.Exact(),
    ...                  epochs=3, seed=0, progress=False)
    >>> history["epoch"], history["loss"][2] < history["loss"][0]
    ([1, 2, 3], True)
    """
    from tqdm import tqdm  # importing pcnotes imports torch and numpy only

    _check(model, batches, optimizer, rule, patience, evaluate)
    _check_functions(loss_fn, evaluate, seed)
    epochs = count("epochs", epochs)
    rows: list[dict[str, float]] = []
    best: tuple[float, int] | None = None
    with _seeded(seed), _mode(model, training=True):
        for epoch in range(1, epochs + 1):
            bar = tqdm(
                batches, f"epoch {epoch}/{epochs}", disable=not progress, leave=False
            )
            losses = []
            for x, y in _pairs(bar):
                losses.append(_step(model, x, y, loss_fn, optimizer, rule, at))
            if not losses:
                raise ValueError(
                    f"batches gave nothing in epoch {epoch}: it is empty, or a "
                    "generator that is used up after one pass; give a list or a "
                    "DataLoader"
                )
            row: dict[str, float] = {"epoch": epoch, "loss": _mean(losses)}
            if evaluate is not None:
                found = _evaluate(evaluate, model)
                row |= found
                number = next(iter(found.values()))
                better = -number if maximize else number
                if best is None or better < best[0]:
                    best = (better, epoch)
            rows.append(row)
            if (
                patience is not None
                and best is not None
                and epoch - best[1] >= patience
            ):
                break
    return History(
        epochs=tuple(rows),
        best=best[1] if best else None,
        stopped=len(rows) < epochs,
    )


def _step(
    model: Any,
    x: Any,
    y: Any,
    loss_fn: Callable[[Any, Any], Tensor],
    optimizer: torch.optim.Optimizer,
    rule: Rule,
    at: At,
) -> Tensor:
    """One batch; the feed-forward loss before any of its steps."""
    closure: Closure = lambda: loss_fn(model(x), y)  # noqa: E731
    if isinstance(rule, Incremental):
        first = None
        optimizer.zero_grad()
        for state in infer(model, closure, rule, at):
            first = state.loss if first is None else first
            optimizer.step()
            optimizer.zero_grad()
        assert first is not None
        return first

    def evaluated() -> Tensor:
        optimizer.zero_grad()
        return backward(model, closure, rule, at)

    loss: Any = optimizer.step(evaluated)  # type: ignore[arg-type]
    return loss


def _check(
    model: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    rule: Rule,
    patience: int | None,
    evaluate: Evaluate | None,
) -> None:
    check_rule(rule)
    if not isinstance(model, nn.Module):
        raise TypeError(
            "fit trains one module, called as model(x); for several models write the "
            f"loop around pcnotes.backward. Got {type(model).__name__}"
        )
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer must be one of torch.optim, got {type(optimizer).__name__}"
        )
    if isinstance(rule, Incremental) and isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError("Incremental steps once per state; LBFGS needs one gradient")
    if not isinstance(batches, Iterable):
        raise TypeError(
            f"batches must be an iterable of (x, y), got {type(batches).__name__}"
        )
    if patience is not None:
        count("patience", patience)
        if evaluate is None:
            raise ValueError("patience watches what evaluate returns: give evaluate=")


def _check_functions(loss_fn: Any, evaluate: Any, seed: Any) -> None:
    if not callable(loss_fn) or isinstance(loss_fn, type):
        raise TypeError(
            "loss_fn must be a function (prediction, y) -> scalar tensor, such as "
            f"torch.nn.functional.mse_loss or torch.nn.MSELoss(), got {loss_fn!r}"
        )
    if evaluate is not None and not callable(evaluate):
        raise TypeError(f"evaluate must be a function of the model, got {evaluate!r}")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise TypeError(f"seed must be a whole number, got {seed!r}")
    if seed is not None and not 0 <= seed < 2**32:  # what NumPy takes
        raise ValueError(f"seed must be from 0 to 2**32 - 1, got {seed}")


def _pairs(batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    for batch in batches:
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            given = f"{len(batch)} parts" if isinstance(batch, list | tuple) else batch
            raise TypeError(
                f"batches must give pairs (x, y); one of them has {given!r:.80}"
            )
        yield batch[0], batch[1]


def _mean(losses: list[Tensor]) -> float:
    return float(torch.stack([loss.detach().double().cpu() for loss in losses]).mean())


def _evaluate(evaluate: Evaluate, model: nn.Module) -> dict[str, float]:
    with _mode(model, training=False), torch.no_grad():
        found = evaluate(model)
    named = dict(found) if isinstance(found, Mapping) else {"evaluation": found}
    if not named or {"epoch", "loss"} & named.keys():
        raise ValueError(
            "evaluate must return a number or {name: number}, with names other than "
            f"epoch and loss; it returned {found!r}"
        )
    for name, number in named.items():
        if not isinstance(name, str):
            raise TypeError(f"names in what evaluate returns are words, got {name!r}")
        if isinstance(number, Tensor) and number.numel() == 1:
            named[name] = number.item()
        elif not isinstance(number, numbers.Real):
            raise TypeError(f"evaluate returned {number!r} for {name!r}, not a number")
        if math.isnan(named[name]):
            raise FloatingPointError(f"evaluate returned nan for {name!r}")
    return {name: float(number) for name, number in named.items()}


@contextmanager
def _mode(model: Any, training: bool) -> Iterator[None]:
    """Training or evaluation mode, and then every module as it was."""
    before = [(m, m.training) for m in modules_of(model)]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


def _seeded(seed: int | None) -> AbstractContextManager[None]:
    return nullcontext() if seed is None else _own_random_numbers(seed)


@contextmanager
def _own_random_numbers(seed: int) -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
