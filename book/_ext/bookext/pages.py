"""Pages that no document makes, and what every page says about itself."""

import html
from collections.abc import Iterator
from typing import Any

from bs4 import BeautifulSoup
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

from bookext.project import project

CARD = "_static/card.png"


def set_footer(app: Sphinx, config: Config) -> None:
    # Not under `sphinx.config`, for the reason given in address.py.
    config.html_theme_options |= {
        "footer_content_items": ["colophon.html"],
        "use_fullscreen_button": False,
        "logo": {"text": project().title, "alt_text": ""},
    }


def extra_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The way from the root of the site to the book, and the page for lost readers."""
    if app.builder.format == "html":
        first = app.builder.get_target_uri(app.config.root_doc)
        yield "index", {"first_page": first}, "redirect.html"
        yield "404", {"first_page": first}, "404.html"


def add_context(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    context["project_facts"] = project()
    if doctree is not None:
        context["metatags"] = context.get("metatags", "") + open_graph(
            app, page, context["title"], doctree
        )


def open_graph(app: Sphinx, page: str, title: str, doctree: nodes.document) -> str:
    """What a link to the page looks like elsewhere. Sphinx's `title` is HTML."""
    facts = project()
    url = facts.url(app.builder.get_target_uri(page))
    about = first_sentence(doctree) or facts.subtitle
    tags = {
        "og:type": "article",
        "og:site_name": facts.title,
        "og:title": BeautifulSoup(title, "html.parser").get_text(),
        "og:description": about,
        "og:url": url,
        "og:image": facts.url(CARD),
        "og:image:alt": f"{facts.title}: {facts.subtitle}" if facts.site else "",
    }
    lines = [f'<meta name="description" content="{html.escape(about)}" />']
    lines += [
        f'<meta property="{name}" content="{html.escape(value)}" />'
        for name, value in tags.items()
        if value
    ]
    return "\n".join(lines) + "\n"


def first_sentence(doctree: nodes.document) -> str:
    """The first paragraph that stands in a section: chapters begin with a plain one."""
    for paragraph in doctree.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section):
            return " ".join(paragraph.astext().split())
    return ""


def setup(app: Sphinx) -> None:
    app.connect("config-inited", set_footer)
    app.connect("html-collect-pages", extra_pages)
    app.connect("html-page-context", add_context)
