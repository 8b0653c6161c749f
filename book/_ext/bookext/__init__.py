"""What this book adds to Sphinx.

- `project`     title, version, commit, addresses: read once, from pyproject.toml
- `address`     launch buttons and absolute links, only where an address is set
- `math`        KaTeX at build time, with the macros of book/macros.json
- `statements`  theorems: their list, permalinks, theorems.json, search by label
- `claims`      what was measured for each of them, and the line that says so
- `cite`        BibTeX entries for the book, its chapters and its theorems
- `citing`      the page that lists those of the book and of its chapters
- `ledger`      the table of all claims
- `code`        pages that show the code of the claims
- `api`         the package's docstrings as a page
- `pages`       the page for lost readers, Open Graph, the footer
"""

from typing import Any

from sphinx.application import Sphinx

from bookext import (
    address,
    api,
    citing,
    claims,
    code,
    ledger,
    math,
    pages,
    statements,
)


def setup(app: Sphinx) -> dict[str, Any]:
    parts = (address, math, statements, claims, citing, ledger, code, api, pages)
    for part in parts:
        part.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
