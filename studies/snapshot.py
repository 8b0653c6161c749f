"""The text of the character model: the words of this book, as they once were.

`python -m studies.snapshot` writes studies/data/book.txt from the pages in their order.
It is a snapshot: training does not change when a page does, unless somebody runs this
command and measures again.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "studies" / "data" / "book.txt"
# What the model sees; a run of other characters is one space.
ALPHABET = " abcdefghijklmnopqrstuvwxyz.,"


def pages() -> list[Path]:
    """All chapters and appendices, as the table of contents lists them."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    names = [c["file"] for part in contents["parts"] for c in part["chapters"]]
    found = []
    for name in (contents["root"], *names):
        page = ROOT / f"{name}.ipynb"
        found.append(page if page.exists() else page.with_suffix(".md"))
    return found


def text(page: Path) -> str:
    """The Markdown of a page, without its code."""
    content = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        return content
    cells = json.loads(content)["cells"]
    kept = [
        cell
        for cell in cells
        if cell["cell_type"] == "markdown"
        and "generated" not in cell["metadata"].get("tags", [])
    ]
    return "\n\n".join("".join(cell["source"]) for cell in kept)


def folded(content: str) -> str:
    """Only characters of the alphabet.

    >>> folded("The error $\\\\eps$ is 2\\nvectors, thus.")
    'the error eps is vectors, thus.'
    """
    return re.sub(r"[^a-z.,]+", " ", content.lower())


def main() -> int:
    """Write the snapshot; exit status 0."""
    FILE.parent.mkdir(exist_ok=True)
    whole = "\n\n".join(text(page).strip() for page in pages()) + "\n"
    FILE.write_text(whole, encoding="utf-8")
    sys.stdout.write(f"{FILE}: {len(whole)} characters of {len(pages())} pages\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
