"""The numbered statements of the book: their list, their permalinks, their labels.

sphinx-proof numbers them and resolves references; it does not write a permalink, a
list for other programs, or anything that the search could find a label by.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.writers.html5 import HTML5Translator
from sphinx.writers.latex import LaTeXTranslator

from bookext.project import project

# These are proved, so each of them has a claim; the other kinds need none.
PROVED = ("theorem", "lemma", "proposition", "corollary")


@dataclass(frozen=True)
class Statement:
    label: str
    type: str
    number: str
    title: str
    document: str
    page: str
    url: str

    @property
    def name(self) -> str:
        """As one would cite it: Theorem 2.3 (Binomial law)."""
        title = f" ({self.title})" if self.title else ""
        return f"{self.type.title()} {self.number}{title}"


def statement_nodes(tree: nodes.Node) -> Iterator[nodes.Element]:
    """The nodes of sphinx-proof, except proofs."""
    for node in tree.findall(nodes.Element):
        if "realtype" in node.attributes:
            yield node


@cache
def statements(app: Sphinx) -> dict[str, Statement]:
    """All labelled statements, by label, in the order of the book.

    Numbers are known once every page is read, so call this only while writing.
    """
    env = app.env
    found = {}
    for docname in reading_order(app):
        numbers = env.toc_fignumbers.get(docname, {})
        for node in statement_nodes(env.get_doctree(docname)):
            label = node["label"]
            number = numbers.get(node["countertype"], {}).get(label, ())
            page = app.builder.get_target_uri(docname)
            found[label] = Statement(
                label=label,
                type=node["realtype"],
                number=".".join(map(str, number)),
                title=plain_title(node),
                document=docname,
                page=env.titles[docname].astext(),
                url=f"{page}#{label}",
            )
    return found


def plain_title(node: nodes.Element) -> str:
    """The title without the parentheses that sphinx-proof puts around it."""
    text = " ".join(node["title"].split())
    return text.removeprefix("(").removesuffix(")")


def reading_order(app: Sphinx) -> list[str]:
    """The documents as the table of contents lists them."""
    ordered = [app.config.root_doc]
    for docname in ordered:
        children = app.env.toctree_includes.get(docname, [])
        ordered += [child for child in children if child not in ordered]
    return ordered


class PrepareLabels(SphinxTransform):
    """Let the search find a statement by its label (it finds titles by itself), and
    let no heading take the label's place as an anchor: a section on fixed prediction
    may define `fixed-prediction`.
    """

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        found = list(statement_nodes(self.document))
        labels = {node["label"] for node in found}
        for section in self.document.findall(nodes.section):
            section["ids"] = [
                f"{name}-section" if name in labels else name for name in section["ids"]
            ]
        for node in found:
            entry = ("single", node["label"], node["label"], "main", None)
            node.insert(1, addnodes.index(entries=[entry]))


class permalink(nodes.General, nodes.Inline, nodes.Element):  # noqa: N801
    """The sign after a title that links to the statement itself."""


def visit_permalink(translator: HTML5Translator, node: permalink) -> None:
    translator.body.append(
        f'<a class="headerlink statement-permalink" href="#{node["label"]}" '
        f'title="Link to this {node["type"]}">#</a>'
    )
    raise nodes.SkipNode


def skip(translator: LaTeXTranslator, node: nodes.Node) -> None:
    """In print there is nothing to click."""
    raise nodes.SkipNode


class AddPermalinks(SphinxPostTransform):
    default_priority = 400

    def run(self, **kwargs: Any) -> None:
        for node in statement_nodes(self.document):
            node[0] += permalink(label=node["label"], type=node["realtype"])


def write_list(app: Sphinx, exception: Exception | None) -> None:
    """theorems.json: what other programs need to link to or cite a statement."""
    if exception or app.builder.format != "html":
        return
    rows = [
        {**asdict(row), "permalink": project().url(row.url)}
        for row in statements(app).values()
    ]
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    (Path(app.outdir) / "theorems.json").write_text(text, "utf-8")


def setup(app: Sphinx) -> None:
    app.add_node(permalink, html=(visit_permalink, None), latex=(skip, None))
    app.add_transform(PrepareLabels)
    app.add_post_transform(AddPermalinks)
    app.connect("build-finished", write_list)
