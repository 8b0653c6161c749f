"""One look for every figure of the book.

Figures are drawn without a ground of their own, in colours that keep their contrast on
white and on the dark theme's grey, so that one picture serves both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import Parameter

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
    "figure.figsize": (5.4, 3.3),  # its letters stay legible on a phone
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
    "legend.fontsize": 10,
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
    """The cut graph: a row for each vertex as it runs, a column for each level.

    The loss is at the right, outputs are orange, `+2` behind a name says that two
    identity vertices are needed. shares: {vertex: 0..1} fills the vertices, to show how
    much of an error arrived. Without axes the figure grows with the graph; names are
    left out beyond sixty vertices.
    """
    rows = len(cut.vertices)
    if axes is None:
        width = min(11.0, 3.2 + 0.34 * cut.depth)
        height = min(16.0, 1.2 + 0.23 * rows)
        axes = plt.figure(figsize=(width, height)).gca()
    place = {i: (-cut.levels[i], -row) for row, i in enumerate(cut.vertices)}
    for child, parents in cut.parents.items():
        for parent in parents:
            _arrow(axes, place[parent], place[child])
    for name, (x, y) in place.items():
        share = max(0.0, min(1.0, (shares or {}).get(name, 0.0)))
        ring = ORANGE if name in cut.outputs else BLUE
        axes.scatter(x, y, s=70, color=BLUE, alpha=share, zorder=2)
        axes.scatter(x, y, s=70, facecolors="none", edgecolors=ring, zorder=3)
        if rows <= 60:
            copies = cut.identity_vertices.get(name, 0)
            label = name + (f"  +{copies}" if copies else "")
            axes.annotate(
                label, (x, y), (8, 1), textcoords="offset points", va="center", size=9
            )
    every = max(1, cut.depth // 12)
    ticks = range(0, cut.depth + 1, every)
    axes.set_xticks([-k for k in ticks], [str(k) for k in ticks])
    axes.set_xlabel("level (edges to the loss)")
    axes.set_yticks([])
    axes.set_ylim(-rows + 0.3, 0.7)
    axes.set_xlim(-cut.depth - 0.6, 0.6 + 0.22 * (cut.depth + 2))  # room for names
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    return axes


def lamps(
    place: Mapping[str, tuple[float, float]],
    edges: Iterable[tuple[str, str]],
    lit: Mapping[str, str],
    axes: Axes | None = None,
) -> Axes:
    """A small graph whose vertices are lamps, each placed by hand.

    lit: {vertex: state}. `"dark"` is a ring, `"wrong"` one with a cross, `"exact"` a
    disc. A vertex without an entry is a square: the loss. Edges are straight unless
    they would run through another vertex.
    """
    axes = axes or plt.gca()
    for start, end in edges:
        _arrow(axes, place[start], place[end])
    for name, at in place.items():
        state = lit.get(name, "loss")
        colour = {"dark": INK, "wrong": ORANGE, "exact": BLUE, "loss": INK}[state]
        axes.scatter(
            *at,
            s=64 if state != "loss" else 36,
            marker="s" if state == "loss" else "o",
            facecolors=colour if state in ("exact", "loss") else "none",
            edgecolors=colour,
            zorder=3,
        )
        if state == "wrong":
            axes.scatter(*at, s=26, marker="x", color=colour, linewidth=1.2, zorder=4)
    across, up = zip(*place.values(), strict=True)
    axes.set_xlim(min(across) - 0.5, max(across) + 0.5)
    axes.set_ylim(min(up) - 0.9, max(up) + 0.6)
    axes.set_axis_off()
    return axes


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    shrink: float = 5,
    bend: float = 0.25,
) -> None:
    """Edges that skip a level take a bend, so as not to run through vertices."""
    skips = end[0] - start[0] > 1
    axes.annotate(
        "",
        end,
        start,
        arrowprops={
            "arrowstyle": "-|>,head_length=0.3,head_width=0.15",
            "color": INK,
            "alpha": 0.55 if skips else 1.0,
            "linewidth": 0.8,
            "shrinkA": shrink,
            "shrinkB": shrink,
            "connectionstyle": f"arc3,rad={bend}" if skips else "arc3,rad=0",
        },
    )


def recorded(
    roots: Mapping[str, Tensor],
    names: Mapping[str, Tensor],
    axes: Axes | None = None,
) -> Axes:
    """What autograd recorded below each of these tensors, a row for each.

    A row begins where the one above it ends. Circles are operations, by autograd's
    names (transposes are left out), the last one ringed in orange and called as in
    `roots`; squares are leaves, called as in `names`: parameters green, others blue.
    """
    axes = axes or plt.gca()
    called = {id(leaf): name for name, leaf in names.items()}
    left = top = 0.0
    for name, root in roots.items():
        below = _recorded_below(root.grad_fn)
        columns = _columns(below)
        last = max(columns.values())
        place, used = {}, dict.fromkeys(range(last + 1), top)
        for node in below:  # the root first, operations before leaves
            column = columns[node]
            place[node] = (left + last - column, used[column])
            used[column] -= 1.0
        for node, inputs in below.items():
            for other in inputs:
                _arrow(axes, place[other], place[node], shrink=14, bend=-0.3)
        for node, (x, y) in place.items():
            variable = getattr(node, "variable", None)
            words = called.get(id(variable), _operation(node))
            colour = INK
            if variable is not None:
                colour = GREEN if isinstance(variable, Parameter) else BLUE
            elif columns[node] == 0:
                colour = ORANGE
            shape = "o" if variable is None else "s"
            axes.scatter(
                x, y, s=680, marker=shape, facecolors="none", edgecolors=colour
            )
            axes.annotate(words, (x, y), ha="center", va="center", size=9.5)
        end, beside = (left + last, top), (15, 0)
        axes.annotate(
            name, end, beside, textcoords="offset points", va="center", color=ORANGE
        )
        left, top = left + last, min(used.values()) - 0.05
    axes.set_xlim(-0.5, left + 1.0)
    axes.set_ylim(top + 0.4, 0.6)
    axes.axis("off")
    return axes


def _recorded_below(root: Any) -> dict[Any, list[Any]]:
    """{node of autograd: what it was made of}, operations before leaves."""
    found: dict[Any, list[Any]] = {}
    stack = [root]
    while stack:
        node = stack.pop(0)
        if node in found:
            continue
        inputs = [_not_transposed(n) for n, _ in node.next_functions if n is not None]
        found[node] = inputs
        stack += inputs
    return dict(sorted(found.items(), key=lambda item: hasattr(item[0], "variable")))


def _not_transposed(node: Any) -> Any:
    while node.name() in ("TBackward0", "TransposeBackward0"):
        ((node, _),) = node.next_functions
    return node


def _columns(below: Mapping[Any, list[Any]]) -> dict[Any, int]:
    """The largest number of edges from each node to the first one."""
    columns = dict.fromkeys(below, 0)
    for _ in below:
        for node, inputs in below.items():
            for other in inputs:
                columns[other] = max(columns[other], columns[node] + 1)
    return columns


def _operation(node: Any) -> str:
    name: str = node.name().partition("Backward")[0]
    return name.lower()
