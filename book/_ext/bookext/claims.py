"""What was measured for each statement, and the line under it that says so.

The measurements come from `python -m pcnotes verify --json`, run in the same build;
the environment variable PCNOTES_CLAIMS names the file.
"""

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

from bookext.cite import bibtex
from bookext.project import ROOT, project
from bookext.statements import PROVED, skip, statement_nodes, statements

LOGGER = logging.getLogger(__name__)

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Claim:
    label: str
    trials: int
    worst: float
    bound: float
    ok: bool
    seed: int
    instances: str
    quantity: str
    source: str
    line: int
    summary: str

    @property
    def code_page(self) -> str:
        return "code/" + self.source.removesuffix(".py")

    @property
    def anchor(self) -> str:
        return f"line-{self.line}"


@cache
def claims() -> dict[str, Claim]:
    """The measured claims by label."""
    path = Path(os.environ.get("PCNOTES_CLAIMS", ROOT.parent / "claims.json"))
    rows = json.loads(path.read_text("utf-8"))
    names = Claim.__annotations__
    return {row["label"]: Claim(**{name: row[name] for name in names}) for row in rows}


def power(number: float) -> str:
    """3.1 × 10⁻¹⁵ rather than 3.1e-15; everyday sizes stay as they are."""
    if number == 0 or 1e-2 <= abs(number) < 1e4:
        return f"{number:.3g}"
    digits, exponent = f"{number:.1e}".split("e")
    return f"{digits} × 10{str(int(exponent)).translate(RAISED)}"


def code_link(app: Sphinx, docname: str, claim: Claim) -> nodes.Node:
    """A link to the claim's code; in print, where it lies."""
    if app.builder.format != "html":
        where = f"{claim.source}, line {claim.line}"
        return nodes.literal(where, where)
    page = app.builder.get_relative_uri(docname, claim.code_page)
    uri = f"{page}#{claim.anchor}"
    return nodes.reference("code", "code", internal=True, refuri=uri)


class fold(nodes.General, nodes.Element):  # noqa: N801
    """Content that is shown when its summary is clicked."""


def visit_fold(translator: HTML5Translator, node: fold) -> None:
    start = translator.starttag(node, "details", CLASS="fold")
    translator.body.append(f"{start}<summary>{node['summary']}</summary>")


def depart_fold(translator: HTML5Translator, node: fold) -> None:
    translator.body.append("</details>")


class AddClaimLines(SphinxPostTransform):
    """Under each proved statement: what was checked, its code, how to cite it."""

    # Before Sphinx resolves references, after numbers are known.
    default_priority = 5

    def run(self, **kwargs: Any) -> None:
        for node in statement_nodes(self.document):
            if node["realtype"] not in PROVED:
                continue
            claim = claims().get(node["label"])
            if claim is None:
                LOGGER.warning(
                    "%s %s has no claim in pcnotes.claims",
                    *(node["realtype"], node["label"]),
                    location=node,
                )
                continue
            node += nodes.container(
                "",
                self.line(claim),
                self.citation(claim.label),
                classes=["statement-footer"],
                is_div=True,
            )

    def line(self, claim: Claim) -> nodes.paragraph:
        text = (
            f"Checked on {claim.trials} {claim.instances}: worst {claim.quantity} "
            f"{power(claim.worst)} (bound {power(claim.bound)})"
        )
        if not claim.ok:
            text = f"Not confirmed. {text}"
        link = code_link(self.app, self.env.docname, claim)
        # The sign between "code" and "cite" is set by the style sheet.
        return nodes.paragraph(
            "", "", nodes.Text(f"{text} · "), link, classes=["claim"]
        )

    def citation(self, label: str) -> fold:
        year = str(self.config.copyright)
        text = bibtex(statements(self.app)[label], project(), year)
        block = nodes.literal_block(text, text, language="bibtex", classes=["cite"])
        return fold("", block, summary="cite")


def setup(app: Sphinx) -> None:
    app.add_node(fold, html=(visit_fold, depart_fold), latex=(skip, None))
    app.add_post_transform(AddClaimLines)
