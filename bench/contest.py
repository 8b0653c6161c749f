"""One model, every rule and peer that can run it, against BP in the same run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

import pcnotes as pc

from . import clock, memory
from .clock import Call
from .models import Case
from .rules import Entry

BASELINE = "bp"
# The closure alone: no rule that evaluates it n times can cost less than n of these.
FORWARD = "forward"

Row = dict[str, Any]
Say = Callable[[str], object]


@dataclass(frozen=True)
class Effort:
    """How much is spent: rounds of interleaved calls, seconds per contest."""

    least: int
    most: int
    budget: float
    device: str = "cpu"

    def seconds(self, call: Call) -> float:
        """What a call takes by the clock of the device."""
        return (clock.cpu_seconds if self.device == "cpu" else clock.cuda_seconds)(call)


def contest(
    name: str,
    case: Case,
    entries: Mapping[str, Entry],
    effort: Effort,
    peers: Mapping[str, Call | str] | None = None,
    say: Say = lambda text: None,
) -> list[Row]:
    """Rows for BP, its forward pass, each rule, each way in which a peer can run it.

    peers: {label: call, or the reason why there is none}. A rule or a peer that fails
    has a row that says how. say: is told what is going on.
    """
    graph = pc.cut(case.model, case.closure, case.at)
    calls: dict[str, Call] = {
        BASELINE: lambda: case.closure().backward(),
        FORWARD: case.closure,
    }
    rows = {label: blank(name, label, way="baseline") for label in calls}
    for label, entry in entries.items():
        rows[label] = blank(name, label, rule=str(entry.rule), way=entry.way)
        rows[label]["target"] = entry.time(name, graph.depth)
        rows[label]["saved_target"] = entry.memory
        if entry.graded and not graph.graded:
            count = sum(graph.identity_vertices.values())
            rows[label]["error"] = f"not graded: {count} identity vertices"
        else:
            calls[label] = entry.call(case)
    for label, call in (peers or {}).items():
        rows[label] = blank(name, label, way="peer")
        if isinstance(call, str):
            rows[label]["error"] = call
        else:
            calls[label] = call
    for row in rows.values():
        row.update(depth=graph.depth, vertices=len(graph.vertices))
    _look(case, calls, entries, rows, say)
    clock_in(rows, calls, case.clear, effort, say)
    case.clear()
    return list(rows.values())


def alone(
    name: str, calls: Mapping[str, Call | str], effort: Effort, say: Say = print
) -> list[Row]:
    """The rows of a peer that brings its own baseline; only time is measured."""
    rows = {
        label: blank(name, label, way="baseline" if label == BASELINE else "peer")
        for label in calls
    }
    ready: dict[str, Call] = {}
    for label, call in calls.items():
        if isinstance(call, str):
            rows[label]["error"] = call
            continue
        say(f"{name}: {label}")
        try:
            call()
            ready[label] = call
        except Exception as error:
            rows[label]["error"] = reason(error)
    if BASELINE in ready:
        clock_in(rows, ready, lambda: None, effort, say)
    else:
        for label in ready:
            rows[label]["error"] = "there is no baseline to compare it with"
    return list(rows.values())


def reason(error: Exception) -> str:
    """One line that says what went wrong."""
    first = str(error).strip().splitlines()[:1]
    return ": ".join([type(error).__name__, *first])


def blank(model: str, label: str, rule: str = "", way: str = "backward") -> Row:
    """A row in which nothing is measured yet."""
    return {
        "model": model,
        "label": label,
        "rule": rule or label,
        "way": way,
        "depth": None,
        "vertices": None,
        "ratio": None,
        "target": None,
        "seconds": None,
        "repetitions": 0,
        "saved": None,
        "saved_ratio": None,
        "saved_target": None,
        "peak": None,
        "peak_ratio": None,
        "evaluations": None,
        "vjps": None,
        "relative_error": None,
        "error": None,
    }


def _look(
    case: Case,
    calls: Mapping[str, Call],
    entries: Mapping[str, Entry],
    rows: Mapping[str, Row],
    say: Say,
) -> None:
    """What does not depend on the clock: bytes, counts, how close to BP."""
    calls[BASELINE]()
    truth = _gradient(case)
    for label, call in calls.items():
        say(f"{rows[label]['model']}: bytes and counts, {label}")
        row = rows[label]
        try:
            used = memory.measure(case.model, call, case.clear)
            row["relative_error"] = _distance(_gradient(case), truth)
            row.update(saved=used.saved, peak=used.peak)
            if label in entries:
                row.update(entries[label].work(case))
        except Exception as error:
            row["error"] = reason(error)
            continue
        for kind in ("saved", "peak"):
            if whole := rows[BASELINE][kind]:
                row[f"{kind}_ratio"] = row[kind] / whole


def clock_in(
    rows: Mapping[str, Row],
    calls: Mapping[str, Call],
    clear: Call,
    effort: Effort,
    say: Say,
) -> None:
    """Fill in what the clock says, for the calls that did not fail."""
    name = rows[BASELINE]["model"]
    alive = {k: call for k, call in calls.items() if not rows[k]["error"]}
    taken = []
    for k, one in enumerate(
        clock.rounds(
            alive, clear, effort.seconds, effort.budget, effort.least, effort.most
        ),
        start=1,
    ):
        taken.append(one)
        say(f"{name}: round {k}")
    ratios = clock.ratios(taken, BASELINE)
    for label in alive:
        seconds = [r[label] for r in taken if label in r]
        rows[label]["seconds"] = asdict(clock.Spread.of(seconds))
        rows[label]["ratio"] = asdict(ratios[label])
        rows[label]["repetitions"] = len(seconds)


def _gradient(case: Case) -> torch.Tensor | None:
    """All of `.grad` as one vector; None if nothing is there."""
    grads = [p.grad for p in case.model.parameters()]
    if all(g is None for g in grads):
        return None
    pairs = zip(grads, case.model.parameters(), strict=True)
    whole = [(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]
    return torch.cat(whole).double()


def _distance(found: torch.Tensor | None, truth: torch.Tensor | None) -> float | None:
    if found is None or truth is None:
        return None
    return float((found - truth).norm() / truth.norm())
