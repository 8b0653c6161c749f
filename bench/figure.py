"""Two figures: every rule on every model, and how the cost grows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from pcnotes.plots import COLOURS, INK, MARKERS, STYLE

BLUE, ORANGE = COLOURS[:2]
# Those whose growth tells them apart.
GROWTH = ("exact", "zil", "fixed", "fixed-dynamics", "zil-dynamics", "strict")


def draw(results: dict[str, Any], file: Path) -> list[Path]:
    """Write the figure, and beside it the one of the scaling if that was measured."""
    with plt.rc_context(STYLE):
        files = [_write(ratios(results["rows"]), file)]
        if results["scaling"]:
            beside = file.with_name(f"{file.stem}-scaling{file.suffix}")
            files.append(_write(scaling(results["scaling"]), beside))
    return files


def _write(figure: Figure, file: Path) -> Path:
    # A date in the file would make two drawings of the same results differ.
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)
    return file


def ratios(rows: Sequence[dict[str, Any]]) -> Figure:
    """A panel for each model: median and quartiles, and a bar where the aim is."""
    timed = [r for r in rows if r["ratio"] and r["way"] != "baseline"]
    models = list(dict.fromkeys(_panel_of(r) for r in timed))
    labels = list(dict.fromkeys(r["label"] for r in timed))
    columns = min(4, len(models))
    lines = -(-len(models) // columns)
    figure, grid = plt.subplots(
        lines,
        columns,
        figsize=(0.9 + 2.1 * columns, 0.9 + lines * (0.5 + 0.2 * len(labels))),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes in grid.flat[len(models) :]:
        axes.set_axis_off()
    for axes, model in zip(grid.flat, models, strict=False):
        _panel(axes, [r for r in timed if _panel_of(r) == model], labels)
        axes.set_title(model)
    grid.flat[0].set_yticks(range(len(labels)), labels)
    grid.flat[0].invert_yaxis()
    figure.supxlabel(
        "time relative to BP in the same framework (quartiles; bar: aim)", fontsize=11
    )
    return figure


def _panel_of(row: dict[str, Any]) -> str:
    """The model; what a peer with its own baseline did with it stands beside."""
    return row["model"].partition(",")[0]


def _panel(axes: Axes, rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> None:
    axes.set_xscale("log")
    _ticks(axes.xaxis, (1, 3, 10, 30, 100))
    axes.axvline(1, color=INK, linewidth=1)
    for row in rows:
        place, ratio = labels.index(row["label"]), row["ratio"]
        middle = ratio["median"]
        ours = row["way"] != "peer"
        axes.errorbar(
            middle,
            place,
            xerr=[[middle - ratio["low"]], [ratio["high"] - middle]],
            fmt="o" if ours else "s",
            color=BLUE if ours else INK,
            markersize=4,
        )
        if row["target"] is not None:
            axes.plot([row["target"]] * 2, [place - 0.4, place + 0.4], color=ORANGE)


def _ticks(axis: Axis, places: Sequence[float]) -> None:
    """Plain numbers at these places, and nothing between."""
    axis.set_major_locator(FixedLocator(places))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(ScalarFormatter())


def scaling(rows: Sequence[dict[str, Any]]) -> Figure:
    """Left: with the number of layers. Right: with their width. Lines: the formulas."""
    from .scaling import DEPTHS, WIDTHS

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8.4, 4.2), sharey=True, layout="constrained"
    )
    _curves(left, rows, DEPTHS, 0, "layers")
    _curves(right, rows, WIDTHS, 1, "width")
    left.set_title(f"width {DEPTHS[0][1]}")
    right.set_title(f"{WIDTHS[0][0]} layers")
    left.set_ylabel("time relative to backpropagation")
    handles, names = left.get_legend_handles_labels()
    handles.append(Line2D([], [], color=INK, linestyle=":"))
    figure.legend(handles, [*names, "formula"], loc="outside lower center", ncols=4)
    return figure


def _curves(
    axes: Axes,
    rows: Sequence[dict[str, Any]],
    sizes: Sequence[tuple[int, int]],
    which: int,
    name: str,
) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    _ticks(axes.xaxis, [size[which] for size in sizes])
    _ticks(axes.yaxis, (1, 3, 10, 30, 100, 300))
    axes.set_xlabel(name)
    labels = [g for g in GROWTH if any(r["label"] == g and r["ratio"] for r in rows)]
    for label, colour, marker in zip(labels, COLOURS, MARKERS, strict=False):
        mine = {
            (r["layers"], r["width"]): r
            for r in rows
            if r["label"] == label and r["ratio"]
        }
        x = [size[which] for size in sizes if size in mine]
        found = [mine[size] for size in sizes if size in mine]
        middle = [r["ratio"]["median"] for r in found]
        spread = [
            [m - r["ratio"]["low"] for m, r in zip(middle, found, strict=True)],
            [r["ratio"]["high"] - m for m, r in zip(middle, found, strict=True)],
        ]
        axes.errorbar(x, middle, spread, color=colour, marker=marker, label=label)
        axes.plot(x, [r["predicted"] for r in found], color=colour, linestyle=":")
