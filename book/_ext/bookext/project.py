"""The facts of the project, from pyproject.toml and from the build."""

import os
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# This file is book/_ext/bookext/project.py below the root of the copied sources, where
# tools/build.py also writes which commit they are.
ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Project:
    title: str
    subtitle: str
    authors: str
    version: str
    commit: str
    repository: str
    site: str
    doi: str

    def url(self, page: str) -> str:
        """The absolute address of a page, or nothing while the site has none."""
        return self.site + page if self.site else ""


@cache
def project() -> Project:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    ours, package = data["tool"]["pcnotes"], data["project"]
    site = os.environ.get("PCNOTES_SITE", ours["site"])
    return Project(
        title=ours["title"],
        subtitle=ours["subtitle"],
        authors=" and ".join(author["name"] for author in package["authors"]),
        version=package["version"],
        commit=(ROOT / "commit.txt").read_text("utf-8"),
        repository=os.environ.get("PCNOTES_REPOSITORY", ours["repository"]).rstrip("/"),
        site=site.rstrip("/") + "/" if site else "",
        doi=ours["doi"],
    )
