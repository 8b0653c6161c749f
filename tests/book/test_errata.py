"""Every entry of the errata of the literature has its five parts."""

import ast
import copy
import re
from typing import Any

import pytest
from reading import source, texts

PAGE = "book/appendix/errata-of-the-literature.ipynb"

Cells = list[dict[str, Any]]


def text(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def entries(notebook: dict[str, Any]) -> dict[str, Cells]:
    """By title: the cells from each heading of level three to the next heading."""
    found: dict[str, Cells] = {}
    title = None
    for cell in notebook["cells"]:
        heading = re.search(r"^(##+) (.+)$", text(cell), re.M)
        if cell["cell_type"] == "markdown" and heading:
            title = heading[2] if heading[1] == "###" else None
            if title is not None:
                assert title not in found, f"two entries are called {title}"
                found[title] = []
        if title is not None:
            found[title].append(cell)
    return found


# A section, an equation, lines, a cell, a conclusion; and which version was read.
PLACE = r"§|section|lines? \d|cell|abstract|introduction|conclusion|function|part|post"
VERSION = r"commit [0-9a-f]{7}|arXiv|\(\d{4}\.\d{5}\)|\d{1,2} [A-Z][a-z]+ \d{4}"


def missing(cells: Cells, labels: set[str]) -> list[str]:
    """The parts that an entry lacks, and why they do not count."""
    kinds = [cell["cell_type"] for cell in cells]
    if kinds != ["markdown", "code", "markdown"]:
        return [f"a text, a cell and a text; there are {kinds}"]
    head, code, tail = map(text, cells)
    parts = dict(re.findall(r"^\*\*(\w+)[^*]*\*\* ?(.*)$", head, re.M))
    lacks = [] if re.match(r"\(erratum-[a-z0-9-]+\)=\n### ", head) else ["a label"]
    lacks += [p for p in ("Source", "Statement") if not parts.get(p)]
    if not re.search(PLACE, parts.get("Source", "")):
        lacks.append("Source: the place")
    if not re.search(VERSION, parts.get("Source", "")):
        lacks.append("Source: the version that was read")
    if not (parts.get("Loose") or parts.get("Wrong")):
        lacks.append("Loose or Wrong")
    if not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(code))):
        lacks.append("an assert in the counterexample")
    if not tail.startswith("**Corrected.** "):
        lacks.append("Corrected")
    theorems = set(re.findall(r"\{prf:ref\}`([^`]+)`", tail))
    if not theorems & labels:
        lacks.append("Corrected: a statement of this book")
    return lacks


def labels() -> set[str]:
    found: set[str] = set()
    for page in texts().values():
        found |= set(re.findall(r"^:label: *(\S+)", page, re.M))
    return found


ENTRIES = entries(source(PAGE))


@pytest.mark.parametrize("title", ENTRIES)
def test_an_entry_has_its_five_parts(title: str) -> None:
    assert missing(ENTRIES[title], labels()) == []


def test_entries_have_labels_of_their_own() -> None:
    names = [text(cells[0]).split("\n")[0] for cells in ENTRIES.values()]
    assert len(set(names)) == len(names) > 20


@pytest.mark.parametrize(
    ("cell", "part", "instead", "lack"),
    [
        (0, "erratum-", "error-", "a label"),
        (0, r"\*\*Source", "Source", "Source"),
        (0, r"\*\*Statement", "Statement", "Statement"),
        (
            0,
            r"(?m)^\*\*Source\.\*\*.*$",
            "**Source.** A paper, 2020.",
            "Source: the place",
        ),
        (0, r"commit \w+|arXiv|\d{4}", "", "Source: the version that was read"),
        (0, r"\*\*(Loose|Wrong)", "**Fine", "Loose or Wrong"),
        (1, r"(?s).+", "print(1)", "an assert in the counterexample"),
        (2, r"\*\*Corrected\.\*\*", "Corrected.", "Corrected"),
        (2, "prf:ref", "ref", "Corrected: a statement of this book"),
        (
            2,
            r"\{prf:ref\}`[^`]+`",
            "{prf:ref}`no-such`",
            "Corrected: a statement of this book",
        ),
    ],
)
def test_an_entry_without_a_part_is_found(
    cell: int, part: str, instead: str, lack: str
) -> None:
    for cells in list(ENTRIES.values())[:3]:
        broken = copy.deepcopy(cells)
        changed = re.sub(part, instead, text(broken[cell]))
        assert changed != text(broken[cell])
        broken[cell]["source"] = [changed]
        assert lack in missing(broken, labels())


def test_an_entry_without_a_cell_is_found() -> None:
    for cells in ENTRIES.values():
        assert missing([cells[0], cells[2]], labels())
