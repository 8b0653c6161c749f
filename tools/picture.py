"""`make picture`: the README's figure, taken from the front page as it was executed.

One source for the figure: the cell named fig-map of book/index.ipynb.
"""

import sys

import nbformat

from tools.house import ROOT, SOURCE, say

FIGURE = "fig-map"
PICTURE = ROOT / "book" / "_static" / "map.svg"


def main() -> int:
    notebook = nbformat.read(SOURCE / "book" / "index.ipynb", as_version=4)
    for cell in notebook.cells:
        figure = cell.metadata.get("mystnb", {}).get("figure", {})
        for output in cell.get("outputs", []):
            svg = output.get("data", {}).get("image/svg+xml")
            if svg and figure.get("name") == FIGURE:
                PICTURE.write_text(svg, "utf-8")
                say(f"wrote {PICTURE.relative_to(ROOT)}")
                return 0
    say(f"the executed front page has no figure {FIGURE}: run `make book` first")
    return 1


if __name__ == "__main__":
    sys.exit(main())
