"""The page on citing: an entry for the book, and one for each chapter."""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

from bookext.cite import book_entry, chapter_entry
from bookext.claims import fold
from bookext.project import project
from bookext.statements import reading_order

CHAPTER = "ch-"


class entries(nodes.General, nodes.Element):  # noqa: N801
    """Stands for the entries until the titles of all pages are known."""


class EntriesDirective(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [entries()]


class FillEntries(SphinxPostTransform):
    default_priority = 5

    def run(self, **kwargs: Any) -> None:
        for node in list(self.document.findall(entries)):
            node.replace_self([self.book(), self.chapters()])

    def book(self) -> nodes.literal_block:
        return listing(book_entry(project(), self.year))

    def chapters(self) -> nodes.bullet_list:
        """In the order of the book; chapters are the pages whose label says so."""
        labels = {
            name: label
            for label, (name, *_) in self.env.domaindata["std"]["labels"].items()
            if label.startswith(CHAPTER)
        }
        return nodes.bullet_list(
            "",
            *(
                self.chapter(name, labels[name])
                for name in reading_order(self.app)
                if name in labels
            ),
            classes=["chapter-entries"],
        )

    def chapter(self, name: str, label: str) -> nodes.list_item:
        title = self.env.titles[name].astext()
        uri = self.app.builder.get_relative_uri(self.env.docname, name)
        url = self.app.builder.get_target_uri(name)
        text = chapter_entry(label, title, url, project(), self.year)
        link = nodes.reference(title, title, internal=True, refuri=uri)
        entry = fold("", listing(text), summary="BibTeX")
        return nodes.list_item("", nodes.paragraph("", "", link), entry)

    @property
    def year(self) -> str:
        return str(self.config.copyright)


def listing(text: str) -> nodes.literal_block:
    return nodes.literal_block(text, text, language="bibtex", classes=["cite"])


def setup(app: Sphinx) -> None:
    app.add_node(entries)
    app.add_directive("bibtex-entries", EntriesDirective)
    app.add_post_transform(FillEntries)
