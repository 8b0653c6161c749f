"""Draw the logo, the favicon and the card that links to the book show.

Three vertices of a chain after two steps of size 1/2: each ring is filled by the
share of its error that has arrived, P[Bin(2, 1/2) >= distance + 1].
"""

import itertools
import math
from pathlib import Path

from tools.house import ROOT, project

STATIC = ROOT / "book" / "_static"
BLUE = "#3f7fd6"  # the same on light and dark: 4 : 1 against white, 4.8 : 1 on black
SIZE = 64
CENTRES = [(12.0, 50.0), (32.0, 32.0), (52.0, 14.0)]
RADIUS = 9.0


def arrived(distance: int, steps: int = 2, step_size: float = 0.5) -> float:
    """The share of a vertex's error after these steps of fixed prediction."""
    return sum(
        math.comb(steps, k) * step_size**k * (1 - step_size) ** (steps - k)
        for k in range(distance, steps + 1)
    )


def shapes() -> list[str]:
    """The drawing as SVG elements, from the input to the loss."""
    shares = [arrived(2), arrived(1), 1.0]
    lines = []
    for (x0, y0), (x1, y1) in itertools.pairwise(CENTRES):
        length = math.hypot(x1 - x0, y1 - y0)
        dx, dy = RADIUS * (x1 - x0) / length, RADIUS * (y1 - y0) / length
        lines.append(
            f'<path d="M{x0 + dx:.2f} {y0 + dy:.2f}L{x1 - dx:.2f} {y1 - dy:.2f}"/>'
        )
    for (x, y), share in zip(CENTRES, shares, strict=True):
        lines.append(f'<circle cx="{x:g}" cy="{y:g}" r="{RADIUS:g}"/>')
        disk = (RADIUS - 3) * math.sqrt(share)
        place = f'cx="{x:g}" cy="{y:g}" r="{disk:.2f}"'
        lines.append(f'<circle {place} fill="{BLUE}" stroke="none"/>')
    return lines


def svg() -> str:
    inside = "\n  ".join(shapes())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}" '
        f'fill="none" stroke="{BLUE}" stroke-width="3">\n  {inside}\n</svg>\n'
    )


def card(path: Path) -> None:
    """A picture of 1200 by 630, for places that show a preview of a link."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.patches import Circle

    facts = project()
    figure = pyplot.figure(figsize=(12, 6.3), dpi=100, facecolor="white")
    axes = figure.add_axes((0.06, 0.52, 0.2, 0.2 * 1200 / 630))
    axes.set(xlim=(0, SIZE), ylim=(SIZE, 0), aspect="equal")
    axes.axis("off")
    for centre, share in zip(CENTRES, [arrived(2), arrived(1), 1.0], strict=True):
        axes.add_patch(Circle(centre, RADIUS, fill=False, ec=BLUE, lw=7))
        disk = (RADIUS - 3) * math.sqrt(share)
        axes.add_patch(Circle(centre, disk, color=BLUE, lw=0))
    for (x0, y0), (x1, y1) in itertools.pairwise(CENTRES):
        gap = RADIUS / math.hypot(x1 - x0, y1 - y0)
        xs = (x0 + gap * (x1 - x0), x1 - gap * (x1 - x0))
        ys = (y0 + gap * (y1 - y0), y1 - gap * (y1 - y0))
        axes.plot(xs, ys, color=BLUE, lw=7)
    figure.text(0.07, 0.36, facts["title"], fontsize=33, color="#1b2430", weight="bold")
    figure.text(0.07, 0.24, facts["subtitle"], fontsize=20, color="#4a5563")
    # No version of Matplotlib in the file: the same drawing gives the same bytes.
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    for name in ("logo.svg", "favicon.svg"):
        (STATIC / name).write_text(svg(), "utf-8")
    card(STATIC / "card.png")


if __name__ == "__main__":
    main()
