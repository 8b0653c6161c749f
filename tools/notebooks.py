"""Put notebooks into the form in which they are committed, or check that they are.

No outputs, no counts, cell ids that depend on position and source only, the kernel
`python3`, and two generated cells at the top (both tagged `remove-cell`, so the book
does not show them): the macros of book/macros.json, for plain Jupyter and Colab, and
a bootstrap that installs the package where a chapter is opened elsewhere.

    python -m tools.notebooks            fix every notebook of the book
    python -m tools.notebooks --check    list those that are not in that form
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from tools.house import ROOT, files, project, say

Cell = dict[str, Any]
Notebook = dict[str, Any]

# Marks a cell as ours; what an author writes never carries it.
GENERATED = "generated"
METADATA = {
    "kernelspec": {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python"},
}


def macro_text() -> str:
    """The macros as LaTeX definitions that MathJax reads in a Markdown cell."""
    macros = json.loads((ROOT / "book" / "macros.json").read_text("utf-8"))
    lines = []
    for name, macro in macros.items():
        body, count = macro if isinstance(macro, list) else (macro, 0)
        arguments = "".join(f"#{k + 1}" for k in range(count))
        lines.append(f"\\def\\{name}{arguments}{{{body}}}")
    return "$$\n" + "\n".join(lines) + "\n$$"


def bootstrap_text() -> str:
    """Code that does nothing where pcnotes is installed."""
    repository = project()["repository"].rstrip("/")
    if repository:
        action = [
            '    requirement = "pcnotes[data,plots] @ "',
            f'    requirement += "git+{repository}"',
            "    %pip install --quiet $requirement",
        ]
    else:
        action = [
            "    raise ImportError(",
            '        "This chapter needs the package pcnotes. In a clone of the "',
            '        "book: pip install -e . (or make book), then restart the "',
            '        "kernel."',
            "    )",
        ]
    return "\n".join(
        [
            "import importlib.util",
            "",
            'if importlib.util.find_spec("pcnotes") is None:',
            *action,
        ]
    )


def generated_cells() -> list[Cell]:
    return [
        {"cell_type": "markdown", "source": macro_text()},
        {"cell_type": "code", "source": bootstrap_text()},
    ]


def text_of(cell: Cell) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def normal(notebook: Notebook) -> Notebook:
    """The committed form of a notebook."""
    own = [c for c in notebook["cells"] if GENERATED not in tags(c)]
    cells = [
        {**cell, "metadata": {"tags": [GENERATED, "remove-cell"]}}
        for cell in generated_cells()
    ] + [cell for cell in own if text_of(cell).strip()]
    seen: dict[str, int] = {}
    return {
        "cells": [normal_cell(cell, seen) for cell in cells],
        "metadata": METADATA,
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def normal_cell(cell: Cell, seen: dict[str, int]) -> Cell:
    # Blanks at a line's end are not seen; Markdown's line break is a backslash.
    lines = [line.rstrip() for line in text_of(cell).strip("\n").split("\n")]
    source = "\n".join(lines)
    # Equal cells get different ids by counting them.
    count = seen[source] = seen.get(source, -1) + 1
    name = hashlib.sha256(f"{count} {source}".encode()).hexdigest()[:8]
    result: Cell = {
        "cell_type": cell["cell_type"],
        "id": name,
        "metadata": normal_metadata(cell),
        "source": source.splitlines(keepends=True),
    }
    if cell["cell_type"] == "code":
        result |= {"execution_count": None, "outputs": []}
    return result


def normal_metadata(cell: Cell) -> dict[str, Any]:
    """Only what the book uses; editors add more, which differs by editor."""
    kept = {"tags", "mystnb", "slideshow"}
    metadata = {k: v for k, v in cell.get("metadata", {}).items() if k in kept}
    if "tags" in metadata:
        metadata["tags"] = sorted(set(metadata["tags"]))
    return {key: value for key, value in metadata.items() if value}


def tags(cell: Cell) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def dump(notebook: Notebook) -> str:
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def differing(paths: list[Path]) -> dict[Path, str]:
    """The notebooks that are not in their committed form, with that form."""
    result = {}
    for path in paths:
        text = path.read_text("utf-8")
        wanted = dump(normal(json.loads(text)))
        if text != wanted:
            result[path] = wanted
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    arguments = parser.parse_args()
    changed = differing(files("book/**/*.ipynb"))
    for path, text in changed.items():
        say(f"{'differs' if arguments.check else 'fixed'}: {path.relative_to(ROOT)}")
        if not arguments.check:
            path.write_text(text, "utf-8")
    return int(bool(changed) and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
