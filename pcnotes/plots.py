"""One look for every figure of the book.

Figures are drawn without a ground of their own, in colours that keep their contrast on
white and on the dark theme's grey, so that one picture serves both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .graph import Graph

try:
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    from cycler import cycler
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "figures need matplotlib: pip install 'pcnotes[plots]'"
    ) from error

# At least 3:1 against white and against the dark ground, told apart without colour
# vision by lightness and, where lines cross, by their markers.
INK = "#7a808a"
BLUE = "#2f7fd6"
ORANGE = "#d96a12"
GREEN = "#2a9461"
PURPLE = "#9a66d0"
RED = "#d6455d"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED, INK)
MARKERS = ("o", "s", "^", "D", "v", "X")

# From almost nothing to full: legible on both grounds since zero is transparent.
WAVE = LinearSegmentedColormap.from_list(
    "wave", [(0.18, 0.5, 0.84, 0.0), (0.18, 0.5, 0.84, 1.0)]
)

STYLE: Any = {
    "figure.figsize": (6.4, 3.6),
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.transparent": True,
    "savefig.bbox": "tight",
    "svg.hashsalt": "pcnotes",
    "svg.fonttype": "path",
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.2,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=COLOURS),
}


def use() -> None:
    """Make the book's look the default, and SVG the format of notebook figures.

    >>> use()
    >>> mpl.rcParams["axes.spines.top"]
    False
    """
    mpl.rcParams.update(STYLE)
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:  # outside of a notebook
        return
    # A date in the file would make two builds of one commit differ.
    set_matplotlib_formats("svg", metadata={"Date": None}, bbox_inches="tight")


def wave(
    shares: np.ndarray | Sequence[Sequence[float]],
    vertices: Sequence[str],
    axes: Axes | None = None,
) -> Axes:
    """How much of its final error each vertex has after each step.

    shares: array of shape (steps + 1, vertices), entries 0 (nothing) to 1 (all).
    """
    array = np.asarray(shares, dtype=float)
    axes = axes or plt.gca()
    image = axes.imshow(
        array.T, aspect="auto", cmap=WAVE, vmin=0, vmax=1, interpolation="nearest"
    )
    axes.set_yticks(range(len(vertices)), vertices)
    axes.set_xlabel("step $n$")
    axes.grid(False)
    colorbar = axes.figure.colorbar(image, ax=axes, pad=0.02)
    colorbar.set_label("share of its final error")
    colorbar.outline.set_edgecolor(INK)
    return axes


def lines(
    x: Sequence[float] | np.ndarray,
    curves: Mapping[str, Sequence[float] | np.ndarray],
    axes: Axes | None = None,
    **options: Any,
) -> Axes:
    """Labelled curves over a common x, told apart by colour and by marker."""
    axes = axes or plt.gca()
    every = max(1, len(x) // 10)
    for k, (label, y) in enumerate(curves.items()):
        style = {"marker": MARKERS[k % len(MARKERS)], "markevery": every, **options}
        axes.plot(x, y, label=label, color=COLOURS[k % len(COLOURS)], **style)
    axes.legend()
    return axes


def graph(
    cut: Graph,
    axes: Axes | None = None,
    shares: Mapping[str, float] | None = None,
) -> Axes:
    """The cut graph: one column a level, the loss at the right.

    shares: {vertex: 0..1} fills the vertices, to show how much of an error arrived.
    Names are left out beyond fifty vertices, where they would cover each other.
    """
    axes = axes or plt.gca()
    columns: dict[int, list[str]] = {}
    for name in cut.vertices:
        columns.setdefault(cut.levels[name], []).append(name)
    place = {
        name: (-level, (len(column) - 1) / 2 - row)
        for level, column in columns.items()
        for row, name in enumerate(column)
    }
    for child, parents in cut.parents.items():
        for parent in parents:
            _arrow(axes, place[parent], place[child])
    for name, (x, y) in place.items():
        share = (shares or {}).get(name, 0.0)
        axes.scatter(x, y, s=180, color=BLUE, alpha=max(0.0, min(1.0, share)), zorder=2)
        ring = ORANGE if name in cut.outputs else BLUE
        axes.scatter(x, y, s=180, facecolors="none", edgecolors=ring, zorder=3)
        if len(place) <= 50:
            axes.annotate(
                name, (x, y), (0, 11), textcoords="offset points", ha="center", size=9
            )
    axes.set_xticks([-k for k in columns], [str(k) for k in columns])
    axes.set_xlabel("level (edges to the loss)")
    axes.set_yticks([])
    axes.margins(0.12)
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    return axes


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Edges that skip a level are bent, so that they do not run through vertices."""
    bend = 0.0 if end[0] - start[0] <= 1 else -0.25
    axes.annotate(
        "",
        end,
        start,
        arrowprops={
            "arrowstyle": "-|>",
            "color": INK,
            "shrinkA": 8,
            "shrinkB": 8,
            "connectionstyle": f"arc3,rad={bend}",
        },
    )
