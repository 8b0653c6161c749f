"""Launch buttons, source links and the canonical address, where they are known."""

from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

from bookext.project import project

LAUNCH = {
    "notebook_interface": "jupyterlab",
    "binderhub_url": "https://mybinder.org",
    "colab_url": "https://colab.research.google.com",
}


def set_addresses(app: Sphinx, config: Config) -> None:
    # Set here and not under `sphinx.config`, where html_theme_options would replace
    # the options that Jupyter Book derives from its own keys.
    options: dict[str, Any] = config.html_theme_options
    options.pop("repository_url", None)
    facts = project()
    if facts.repository:
        options |= {
            "repository_url": facts.repository,
            "repository_branch": "main",
            "path_to_docs": "",
            "use_repository_button": True,
            "use_issues_button": True,
            "launch_buttons": LAUNCH,
        }
    config.html_baseurl = facts.site


def setup(app: Sphinx) -> None:
    app.connect("config-inited", set_addresses)
