"""One page for each file that holds claims: the code that checked the statements.

A claim line links to it, so the code that a reader sees is the code that ran, with
or without a repository on the web.
"""

from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

from bookext.claims import claims
from bookext.project import ROOT

LEDGER = "book/appendix/ledger"


def code_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    if app.builder.format != "html":
        return
    pages = {claim.code_page: claim.source for claim in claims().values()}
    for page, source in sorted(pages.items()):
        text = (ROOT / source).read_text("utf-8")
        block = app.builder.highlighter.highlight_block(
            text, "python", linenos="inline", linespans="line"
        )
        ledger = "../" * page.count("/") + app.builder.get_target_uri(LEDGER)
        body = (
            f"<h1><code>{source}</code></h1>\n"
            f'<p>This code ran for this very build; <a href="{ledger}">the ledger</a> '
            f"lists what it measured.</p>\n{block}"
        )
        yield page, {"title": source, "body": body}, "page.html"


def setup(app: Sphinx) -> None:
    app.connect("html-collect-pages", code_pages)
