"""What was measured, on what: a table for the terminal, an object for a file."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pcnotes as pc

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = 1


def machine(
    device: str, sources: Sequence[str] = ("pcnotes", "bench")
) -> dict[str, Any]:
    """Everything that a reader needs to judge the numbers.

    sources: folders of which it is said whether they differ from the commit.
    """
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--", *sources)),
        "system": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "device": device,
        "gpu": gpu,
        "clock": "process time" if device == "cpu" else "wall clock, synchronised",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pcnotes": pc.__version__,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def text(results: dict[str, Any]) -> str:
    """All that is printed."""
    parts = [table(results["rows"]), scaling_table(results["scaling"])]
    return "\n\n".join(filter(None, [*parts, summary(results)]))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A block for each model: a line for BP, then the rules."""
    blocks = []
    for model, group in groupby(rows, key=lambda row: row["model"]):
        bp, *rest = group
        blocks.append(f"{model}: {_baseline(bp)}\n{_grid([HEAD, *map(_cells, rest)])}")
    return "\n\n".join(blocks)


HEAD = [
    *("rule", "× BP", "quartiles", "aim", "saved", "peak", "runs", "vjps"),
    *("rel. error", ""),
]


def _baseline(row: dict[str, Any]) -> str:
    if row["error"]:
        return row["error"]
    seconds = {k: f"{1e3 * s:.3g}" for k, s in row["seconds"].items()}
    text = f"{row['vertices']} vertices, depth {row['depth']}; " if row["depth"] else ""
    text += f"BP {seconds['median']} ms ({seconds['low']} to {seconds['high']})"
    if row["saved"]:
        text += f", saves {row['saved'] / 1e6:.3g} MB, peak {row['peak'] / 1e6:.3g} MB"
    return text


def _cells(row: dict[str, Any]) -> list[str]:
    if row["error"]:
        return [row["label"], *[""] * 8, row["error"]]
    ratio = row["ratio"]
    error = row["relative_error"]
    return [
        row["label"],
        f"{ratio['median']:.2f}",
        f"{ratio['low']:.2f} to {ratio['high']:.2f}",
        "" if row["target"] is None else f"≤ {row['target']:.3g}",
        _times(row["saved_ratio"]),
        _times(row["peak_ratio"]),
        _count(row["evaluations"]),
        _count(row["vjps"]),
        "" if error is None else f"{error:.1e}",
        "; ".join(missed(row)),
    ]


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}×"


def _count(number: int | None) -> str:
    return "" if number is None else str(number)


def missed(row: dict[str, Any]) -> list[str]:
    """The aims that a row misses, in words."""
    found = []
    if row["ratio"] and row["target"] and row["ratio"]["median"] > row["target"]:
        found.append("slower than aimed at")
    if (
        row["saved_ratio"]
        and row["saved_target"]
        and row["saved_ratio"] > row["saved_target"]
    ):
        found.append(f"saves more than {row['saved_target']:.2g}×")
    return found


def _grid(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[k]) for row in cells) for k in range(len(HEAD) - 1)]
    lines = []
    for first, *middle, last in cells:
        padded = [c.rjust(w) for c, w in zip(middle, widths[1:], strict=True)]
        lines.append("  ".join(["", first.ljust(widths[0]), *padded, last]).rstrip())
    return "\n".join(lines)


def scaling_table(rows: Sequence[dict[str, Any]]) -> str:
    """Products counted and due, and the time, relative to BP."""
    if not rows:
        return ""
    lines = [
        "products with weights: forward + transposed + outer; formula for each rule",
        f"  {'layers × width':<16}{'rule':<16}{'counted':>16}{'formula':>16}"
        f"{'book':>18}{'predicted':>11}{'measured':>10}",
    ]
    for row in rows:
        size = f"{row['layers']} × {row['width']}"
        counted, formula, book = map(
            _sum, (row["counted"], row["formula"], row["book"])
        )
        measured = f"{row['ratio']['median']:.2f}" if row["ratio"] else ""
        note = "" if row["equal"] else row["error"] or "differs from the formula"
        lines.append(
            f"  {size:<16}{row['label']:<16}{counted:>16}{formula:>16}{book:>18}"
            f"{row['predicted']:>11.2f}{measured:>10}  {note}".rstrip()
        )
    return "\n".join(lines)


def _sum(products: dict[str, int] | None) -> str:
    return " + ".join(map(str, products.values())) if products else ""


def summary(results: dict[str, Any]) -> str:
    """The last lines: aims met, counts that agree, what failed."""
    rows = results["rows"]
    aimed = [r for r in rows if r["ratio"] and r["target"]]
    late = [r for r in aimed if r["ratio"]["median"] > r["target"]]
    lines = [f"{len(aimed) - len(late)} of {len(aimed)} aims at time are met"]
    lines += [
        f"  {r['model']}, {r['label']}: {r['ratio']['median']:.2f} > {r['target']:.3g}"
        for r in late
    ]
    scaling = results["scaling"]
    if scaling:
        wrong = sum(not row["equal"] for row in scaling)
        lines.append(
            f"{len(scaling) - wrong} of {len(scaling)} counts equal their formulas"
        )
    failed = [r for r in rows if r["error"] and not r["error"].startswith("not graded")]
    if failed:
        lines.append(f"{len(failed)} calls failed; their rows say how")
    return "\n".join(lines)
