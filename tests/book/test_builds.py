"""Other builds of the same sources: twice the same, and with an address."""

import json
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from tools.build import make_site
from tools.house import ROOT, SITE, SOURCE, project
from tools.reproducible import differences

OWNER = "https://github.com/owner/name"
PUBLISHED = "https://owner.github.io/name/"


def test_a_second_build_is_the_same_byte_for_byte(site: Path, tmp_path: Path) -> None:
    make_site(SOURCE, tmp_path, tmp_path / "site.log")
    assert differences(SITE, tmp_path / "_build" / "html") == []


def test_without_an_address_nothing_claims_one(
    site: Path, theorems: list[dict]
) -> None:
    if project()["repository"] or project()["site"]:
        pytest.skip("this repository has an address; the other test covers it")
    page = (site / theorems[0]["url"].split("#")[0]).read_text("utf-8")
    assert "mybinder" not in page
    assert "colab" not in page
    assert "og:url" not in page
    assert all(row["permalink"] == "" for row in theorems)


def test_with_an_address_the_links_are_there(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PCNOTES_REPOSITORY", OWNER)
    monkeypatch.setenv("PCNOTES_SITE", PUBLISHED)
    make_site(SOURCE, tmp_path, tmp_path / "site.log")
    built = tmp_path / "_build" / "html"
    rows = json.loads((built / "theorems.json").read_text("utf-8"))
    page = rows[0]["url"].split("#")[0]
    soup = BeautifulSoup((built / page).read_text("utf-8"), "html.parser")
    links = [tag["href"] for tag in soup.find_all("a", href=True)]
    notebook = page.removesuffix(".html") + ".ipynb"
    assert (ROOT / notebook).exists()
    assert any("mybinder.org" in u and u.endswith(notebook) for u in links)
    assert any("colab.research" in u and u.endswith(notebook) for u in links)
    assert OWNER in links
    assert soup.find("meta", property="og:url")["content"] == PUBLISHED + page
    assert soup.find("meta", property="og:image")["content"].startswith(PUBLISHED)
    assert soup.find("link", rel="canonical")["href"] == PUBLISHED + page
    assert rows[0]["permalink"] == PUBLISHED + rows[0]["url"]
    cited = soup.select_one(".statement-footer pre").get_text()
    assert f"{PUBLISHED}{page}#" in cited
    lost = (built / "404.html").read_text("utf-8")
    assert f"{PUBLISHED}book/index.html" in lost
