"""The book as files: sources, executed copies, built pages. For the tests beside it."""

import functools
import gc
import json
from collections.abc import Iterator

from bs4 import BeautifulSoup, Tag

from tools.house import ROOT, SITE, SOURCE, notebooks

# The statements that need a claim.
PROVED = ("theorem", "lemma", "proposition", "corollary")


def site_pages() -> list[str]:
    """Every page of the site. What Sphinx keeps under _static or _sources is none."""
    pages = (path.relative_to(SITE) for path in SITE.rglob("*.html"))
    return sorted(page.as_posix() for page in pages if page.parts[0][0] != "_")


@functools.cache
def parsed(page: str) -> BeautifulSoup:
    """A page as a tree, read once. A chapter has 100 000 nodes, which stay: the garbage
    collector need not go through them again and again.
    """
    gc.disable()
    try:
        return BeautifulSoup((SITE / page).read_text("utf-8"), "html.parser")
    finally:
        gc.freeze()
        gc.enable()


@functools.cache
def by_id(page: str) -> dict[str, list[Tag]]:
    """The elements of a page that have an id: one for each, if the page is right."""
    found: dict[str, list[Tag]] = {}
    for tag in parsed(page).find_all(id=True):
        found.setdefault(tag["id"], []).append(tag)
    return found


@functools.cache
def source(name: str) -> dict:
    """A notebook as committed."""
    return json.loads((ROOT / name).read_text("utf-8"))


@functools.cache
def executed(name: str) -> dict:
    """The same notebook as executed for the pages."""
    return json.loads((SOURCE / name).read_text("utf-8"))


def cells(kind: str, notebook: dict) -> Iterator[tuple[int, str, dict]]:
    """The cells of one kind: their number from 1, their text, their metadata."""
    for number, cell in enumerate(notebook["cells"], start=1):
        if cell["cell_type"] == kind:
            yield number, "".join(cell["source"]), cell.get("metadata", {})


def texts() -> dict[str, str]:
    """The Markdown of each page of the book, by file name."""
    found = {}
    for path in sorted((ROOT / "book").rglob("*.md")):
        if "_static" not in path.parts:
            found[path.relative_to(ROOT).as_posix()] = path.read_text("utf-8")
    for name in notebooks():
        markdown = cells("markdown", source(name))
        found[name] = "\n\n".join(text for _, text, _ in markdown)
    return found
