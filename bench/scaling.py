"""How the cost of each rule grows with depth and with width, against the formulas."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .contest import BASELINE, Effort, Say, blank, clock_in, reason
from .counting import FORMULAS, products
from .models import perceptron
from .rules import entries

# (layers, width) of the perceptrons: many small layers, few ever wider ones.
DEPTHS = [(layers, 64) for layers in (4, 8, 16, 32, 64)]
WIDTHS = [(4, width) for width in (16, 64, 256, 1024)]
BATCH = 64
# Steps of the rules whose number of steps is not the graph's depth.
STEPS = 8


def points(quick: bool) -> list[tuple[int, int]]:
    """What is measured; a try-out leaves out what takes long."""
    chosen = list(dict.fromkeys([*DEPTHS, *WIDTHS]))
    return [p for p in chosen if p[0] <= 16 and p[1] <= 256] if quick else chosen


def measure(
    layers: int,
    width: int,
    rules: Collection[str],
    effort: Effort,
    say: Say = lambda text: None,
) -> list[dict[str, Any]]:
    """A row for BP and for each rule: products counted and due, time relative to BP."""
    case = perceptron(layers, width, BATCH, effort.device)
    name = f"{layers} layers of {width}"
    chosen = {k: e for k, e in entries(STEPS).items() if k in rules and k in FORMULAS}
    calls = {BASELINE: lambda: case.closure().backward()}
    calls.update({label: entry.call(case) for label, entry in chosen.items()})
    timed = {label: blank(name, label) for label in calls}
    rows: list[dict[str, Any]] = []
    for label, call in calls.items():
        rule = chosen[label].rule if label in chosen else None
        steps = getattr(rule, "steps", None) or layers - 1
        due = FORMULAS[label].ours(layers, steps)
        counted = None
        case.clear()
        try:
            counted = products(case.model, call)
        except Exception as error:
            timed[label]["error"] = reason(error)
        rows.append(
            {
                "label": label,
                "layers": layers,
                "width": width,
                "batch": BATCH,
                "steps": steps,
                "counted": counted and counted._asdict(),
                "formula": due._asdict(),
                "book": FORMULAS[label].book(layers, steps)._asdict(),
                "equal": counted == due,
                "predicted": due.total / FORMULAS[BASELINE].ours(layers, steps).total,
            }
        )
    clock_in(timed, calls, case.clear, effort, say)
    case.clear()
    for row in rows:
        row.update({k: timed[row["label"]][k] for k in ("ratio", "error")})
    return rows
