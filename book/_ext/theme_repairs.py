"""Repairs of other people's work, each with its reason. Nothing here is ours to keep:
a repair goes when the version that makes it needless is pinned.
"""

import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import sphinx_tippy
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.writers.html5 import HTML5Translator
from sphinxcontrib.katex import KaTeXServer

REPEATED = {"proof", "proof-content", "exercise-content", "solution-content"}


class MarkProofs(SphinxPostTransform):
    """sphinx-proof and sphinx-exercise give the content of every box the same id; an
    id must be the only one of its name on a page. A proof also has no class of its
    own, and its first word no emphasis.
    """

    # Late: Sphinx wants sections to have an id while it numbers them.
    default_priority = 900

    def run(self, **kwargs: Any) -> None:
        for node in self.document.findall(nodes.Element):
            ids = node.get("ids", [])
            if "proof" in ids:
                node["classes"].append("proof-text")
                emphasise_first_word(node)
            if not REPEATED.isdisjoint(ids):
                node["ids"] = [name for name in ids if name not in REPEATED]


def emphasise_first_word(proof: nodes.Element) -> None:
    text = proof.next_node(nodes.Text)
    if text is not None and text.startswith("Proof. "):
        rest = nodes.Text(text.removeprefix("Proof."))
        text.parent.replace(text, [nodes.emphasis("", "Proof."), rest])


def visit_citation(translator: HTML5Translator, node: nodes.citation) -> None:
    """docutils writes roles that ARIA has since deprecated, in a `list` whose other
    children are not allowed there. Plain elements say the same.
    """
    translator.body.append(translator.starttag(node, "div", CLASS="citation"))


def depart_citation(translator: HTML5Translator, node: nodes.citation) -> None:
    translator.body.append("</div>\n")


def stable_previews(app: Sphinx) -> None:
    """sphinx-tippy names its files at random, so that no two builds are equal."""
    sphinx_tippy.uuid4 = lambda: "previews"


def sorted_previews(app: Sphinx, exception: Exception | None) -> None:
    """sphinx-tippy keeps references in sets, whose order differs from run to run."""
    for page in getattr(app.env, "tippy_data", {}).get("pages", {}).values():
        for key, value in page.items():
            if isinstance(value, set):
                page[key] = sorted(value, key=str)


def drop_preview_caches(app: Sphinx, exception: Exception | None) -> None:
    """sphinx-tippy leaves its (empty) caches of other hosts' pages in the site."""
    for path in Path(app.outdir).glob("tippy_*_cache.json"):
        path.unlink()


def drop_icon_script(app: Sphinx, exception: Exception | None) -> None:
    """The theme ships its icons twice, as fonts and as a script of 1.5 MB. The
    template static/webpack-macros.html no longer loads the script.
    """
    scripts = Path(app.outdir) / "_static" / "vendor" / "fontawesome"
    for path in scripts.glob("*/js/*.js"):
        path.unlink()


def start_katex(
    cls: type[KaTeXServer], rundir: Path, timeout: float
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """sphinxcontrib-katex connects as soon as the server's socket has a name, which is
    a moment before the server listens: on a busy machine a build then fails at random.
    """
    path = rundir / "katex.sock"
    process = subprocess.Popen(
        cls.build_command(socket=path),
        cwd=rundir,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            time.sleep(0.01)
        else:
            return process, connection
    process.kill()
    raise cls.timeout_error(timeout)


def setup(app: Sphinx) -> dict[str, Any]:
    KaTeXServer.start_server_process = classmethod(start_katex)
    # Jupyter Book sets this option of sphinx_comments also where that is not loaded.
    app.add_config_value("comments_config", {}, "")
    app.add_post_transform(MarkProofs)
    app.add_node(nodes.citation, override=True, html=(visit_citation, depart_citation))
    app.connect("builder-inited", stable_previews)
    # Before sphinx-tippy writes its files at the same event (priority 500), and after.
    app.connect("build-finished", sorted_previews, priority=100)
    app.connect("build-finished", drop_preview_caches, priority=900)
    app.connect("build-finished", drop_icon_script, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
