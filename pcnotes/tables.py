"""Tables that read well in a terminal and in a notebook."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence


class Table:
    """Rows of words and numbers under a head, and notes below."""

    def __init__(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        notes: Sequence[str] = (),
    ) -> None:
        self.columns, self.rows, self.notes = columns, rows, notes

    def __str__(self) -> str:
        cells = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0])]
                + [x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True)]
            ).rstrip()
            for row in cells
        ]
        notes = [textwrap.fill(n, 76, subsequent_indent="  ") for n in self.notes]
        return "\n".join([*lines, *notes])

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            return "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)

        body = "".join(f"<tr>{row(r, 'td')}</tr>" for r in self.rows)
        notes = "".join(f"<p>{html.escape(n)}</p>" for n in self.notes)
        head = f"<thead><tr>{row(self.columns, 'th')}</tr></thead>"
        return f"<table>{head}<tbody>{body}</tbody></table>{notes}"

    __repr__ = __str__
