"""The table of all claims. book/_static/book.js makes it sort and filter."""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

from bookext.claims import Claim, claims, code_link, power
from bookext.statements import statements

HEADINGS = ("Statement", "Checked on", "Worst", "Bound", "Holds", "Code")


class ledger(nodes.General, nodes.Element):  # noqa: N801
    """Stands for the table until the numbers of the statements are known."""


class LedgerDirective(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [ledger()]


class FillLedger(SphinxPostTransform):
    default_priority = 5

    def run(self, **kwargs: Any) -> None:
        for node in list(self.document.findall(ledger)):
            node.replace_self(self.table())

    def table(self) -> nodes.table:
        group = nodes.tgroup("", cols=len(HEADINGS))
        group += [nodes.colspec(colwidth=1) for _ in HEADINGS]
        group += nodes.thead("", row([nodes.Text(text) for text in HEADINGS]))
        # In the order of the book; what has no page yet comes last.
        order = list(statements(self.app))
        ordered = sorted(
            claims().values(),
            key=lambda c: order.index(c.label) if c.label in order else len(order),
        )
        group += nodes.tbody("", *(row(self.cells(claim)) for claim in ordered))
        return nodes.table("", group, classes=["claims-ledger"])

    def cells(self, claim: Claim) -> list[nodes.Node]:
        statement = statements(self.app).get(claim.label)
        name: nodes.Node = nodes.Text(claim.summary)
        if statement:
            page = self.app.builder.get_relative_uri(
                self.env.docname, statement.document
            )
            uri = f"{page}#{statement.label}"
            text = statement.name
            name = nodes.reference(text, text, internal=True, refuri=uri)
        label = nodes.literal(claim.label, claim.label)
        return [
            nodes.inline("", "", name, nodes.Text(" "), label, classes=["named"]),
            nodes.Text(f"{claim.trials} {claim.instances}"),
            nodes.Text(power(claim.worst)),
            nodes.Text(power(claim.bound)),
            nodes.Text("yes" if claim.ok else "no"),
            code_link(self.app, self.env.docname, claim),
        ]


def row(cells: list[nodes.Node]) -> nodes.row:
    return nodes.row(
        "", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells)
    )


def setup(app: Sphinx) -> None:
    app.add_node(ledger)
    app.add_directive("claims-ledger", LedgerDirective)
    app.add_post_transform(FillLedger)
    app.add_js_file("book.js", loading_method="defer")
