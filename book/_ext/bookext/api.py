"""The API page: the package's docstrings, collected by autodoc.

Docstrings are plain text: paragraphs, lists, examples with `>>>`, indented code, names
in backquotes, and paragraphs of the form "name: what it is. other: what it is." They
are set piece by piece with everything else escaped, so that no sign in them can mean
markup. A name in backquotes becomes a link where a statement or a public object is
called so.
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from textwrap import dedent, indent
from typing import Any

from docutils import nodes
from docutils.parsers.rst.states import Inliner
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

from bookext.statements import statements

PACKAGE = "pcnotes"
# A word and a colon where a sentence may begin: "at: which calls are vertices".
TERM = re.compile(r"(?:^|(?<=[.;] ))([a-z_]+(?:, [a-z_]+)*): (?=\S)")
ITEM = re.compile(r"^(?:-|\d+\.) ")
STRESS = re.compile(r"(?<![\w*])\*(\w[^*]*\w|\w)\*(?![\w*])")
MARKUP = re.compile(r"[\\*_|:`]")


class named(nodes.Inline, nodes.TextElement):  # noqa: N801
    """A name in backquotes, until it is known what it names."""


def named_role(
    role: str,
    rawtext: str,
    text: str,
    line: int,
    inliner: Inliner,
    options: dict[str, Any] | None = None,
    content: list[str] | None = None,
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    return [named(rawtext, nodes.unescape(text))], []


def set_docstring(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Replace a docstring by its reStructuredText, in place."""
    lines[:] = restructured("\n".join(lines)).split("\n")


def restructured(docstring: str) -> str:
    """Plain text as reStructuredText."""
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(docstring))
    return "\n\n".join(part for block in blocks for part in parts(block)) + "\n"


def parts(block: str) -> Iterator[str]:
    """One block between blank lines: code, a list, terms, or a paragraph."""
    if block.startswith(">>>"):
        yield block
    elif block.startswith(" "):
        yield ".. code-block:: python\n\n" + indent(dedent(block), "    ")
    elif ITEM.match(block):
        yield from items(block)
    elif TERM.match(text := " ".join(block.split())):
        _, *rest = TERM.split(text)
        for term, about in zip(rest[::2], rest[1::2], strict=True):
            named_terms = ", ".join(f"``{word}``" for word in term.split(", "))
            yield f"{named_terms}\n    {inline(about.strip())}"
    elif text:
        yield inline(text)


def items(block: str) -> Iterator[str]:
    found: list[str] = []
    for line in block.split("\n"):
        if ITEM.match(line):
            found.append(ITEM.sub("", line))
        else:
            found[-1] += f" {line.strip()}"
    yield from (f"- {inline(item)}" for item in found)


def inline(text: str) -> str:
    """Names as roles, every sign that could be markup escaped.

    The escaped blank in front is nothing, but what follows no longer begins a line.
    """
    pieces = re.split(r"`+([^`]+)`+", text)
    pieces[0::2] = [stressed(piece) for piece in pieces[0::2]]
    pieces[1::2] = [f"\\ :named:`{escaped(name)}`\\ " for name in pieces[1::2]]
    return "\\ " + "".join(pieces)


def stressed(text: str) -> str:
    """*So* is emphasis; every other sign is itself."""
    pieces = STRESS.split(text)
    pieces = [MARKUP.sub(r"\\\g<0>", piece) for piece in pieces]
    pieces[1::2] = [f"\\ *{piece}*\\ " for piece in pieces[1::2]]
    return "".join(pieces)


def escaped(name: str) -> str:
    return name.replace("\\", "\\\\")


def set_signature(
    app: Sphinx,
    what: str,
    name: str,
    thing: Any,
    options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None] | None:
    """Of all classes only rules are made by readers; the others have no signature."""
    if inspect.isclass(thing) and not (is_dataclass(thing) and hasattr(thing, "run")):
        return "", returns
    return None


class LinkNames(SphinxPostTransform):
    """Turn names in backquotes into links where there is something to link to."""

    # After every page is read, before Sphinx resolves references.
    default_priority = 5

    def run(self, **kwargs: Any) -> None:
        for node in list(self.document.findall(named)):
            text = node.astext()
            literal = nodes.literal(text, text)
            target = self.target(text)
            if target is None:
                node.replace_self(literal)
            else:
                document, anchor, title = target
                page = self.app.builder.get_relative_uri(self.env.docname, document)
                node.replace_self(
                    nodes.reference(
                        "",
                        "",
                        literal,
                        internal=True,
                        refuri=f"{page}#{anchor}",
                        reftitle=title,
                    )
                )

    def target(self, text: str) -> tuple[str, str, str] | None:
        """Document, anchor and title of what is called so."""
        if statement := statements(self.app).get(text):
            return statement.document, statement.label, statement.name
        name = re.sub(r"\(.*\)$", "", text).removeprefix(f"{PACKAGE}.").strip()
        parts = name.split(".")
        if len(parts) > 1:  # graph.pull is a method of Graph
            parts[0] = parts[0][:1].upper() + parts[0][1:]
        full = ".".join([PACKAGE, *parts])
        if found := self.env.get_domain("py").objects.get(full):
            return found.docname, found.node_id, full
        return None


def setup(app: Sphinx) -> None:
    app.setup_extension("sphinx.ext.autodoc")
    app.add_node(named)
    app.add_role("named", named_role)
    app.add_post_transform(LinkNames)
    app.connect("autodoc-process-docstring", set_docstring)
    app.connect("autodoc-process-signature", set_signature)
