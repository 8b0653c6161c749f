"""The built pages, read as files: links, pictures, formulas, theorem data."""

import inspect
import json
import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from reading import PROVED, by_id, parsed, site_pages, texts

import pcnotes
from tools.house import ROOT, SITE, files

PAGES = site_pages()
API = "book/appendix/api.html"
GUIDE = "book/practice/your-model.html"


def test_there_are_pages(site: Path) -> None:
    assert "book/index.html" in PAGES


@pytest.mark.parametrize("page", PAGES)
def test_internal_links_lead_somewhere(page: str) -> None:
    broken = []
    for tag in parsed(page).find_all(
        ["a", "img", "script", "link", "source", "iframe"]
    ):
        link = tag.get("href") or tag.get("src") or ""
        path, anchor = urldefrag(link)
        if not link or urlsplit(link).scheme:
            continue
        here = SITE / page
        file = here.parent / unquote(urlsplit(path).path) if path else here
        file = file.resolve()
        if not file.is_file():
            broken.append(link)
        elif anchor and file.suffix == ".html":
            name = file.relative_to(SITE.resolve()).as_posix()
            if unquote(anchor) not in by_id(name):
                broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_loaded_from_another_host(page: str) -> None:
    soup = parsed(page)
    loaded = [
        tag.get("src") or tag.get("href")
        for tag in soup.find_all(["script", "img", "iframe", "source", "link"])
        if tag.get("rel") != ["canonical"]
    ]
    assert [u for u in loaded if u and urlsplit(u).netloc] == []


def test_style_sheets_find_their_files() -> None:
    missing = []
    for sheet in SITE.rglob("*.css"):
        text = re.sub(r"/\*.*?\*/", "", sheet.read_text("utf-8"), flags=re.S)
        for link in re.findall(r"url\(\s*['\"]?([^'\")]+)", text):
            if link.startswith(("data:", "#", "%23")):
                continue
            assert not urlsplit(link).netloc, f"{sheet.name} loads {link}"
            if not (sheet.parent / urlsplit(link).path).exists():
                missing.append(f"{sheet.name}: {link}")
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_ids_are_unique(page: str) -> None:
    assert [name for name, tags in by_id(page).items() if len(tags) > 1] == []


@pytest.mark.parametrize("page", PAGES)
def test_pictures_have_a_text_alternative(page: str) -> None:
    article = parsed(page).find("article")
    for image in article.find_all("img") if article else []:
        alt = image.get("alt", "")
        assert len(alt.split()) >= 4, f"{image['src']}: {alt!r} does not describe it"
        assert not re.search(r"\.(svg|png|jpe?g)$", alt), f"{alt!r} is a file name"


@pytest.mark.parametrize("page", PAGES)
def test_formulas_are_set(page: str) -> None:
    soup = parsed(page)
    assert not soup.select(".katex-error, mjx-container, .math:not(:has(.katex))")


@pytest.mark.parametrize("page", [p for p in PAGES if p.startswith("book/")])
def test_pages_say_what_they_are(page: str) -> None:
    soup = parsed(page)
    tags = {tag["property"]: tag["content"] for tag in soup.select("meta[property]")}
    assert {"og:title", "og:description", "og:site_name", "og:type"} <= set(tags)
    assert len(tags["og:description"].split()) >= 5
    assert not re.search(r"\\|\$", tags["og:description"]), "TeX in the description"
    assert soup.html["lang"] == "en"


def test_every_solution_is_on_its_page() -> None:
    found = 0
    for name, text in texts().items():
        opened = re.findall(r"\{solution(?:-start)?\}", text)
        page = Path(name).with_suffix(".html").as_posix()
        boxes = parsed(page).select("div.admonition.solution")
        assert len(boxes) == len(opened), name
        found += len(boxes)
    assert found, "the book has no exercise"


def test_every_proved_statement_shows_its_claim(theorems: list[dict]) -> None:
    for statement in theorems:
        if statement["type"] not in PROVED:
            continue
        page, label = statement["url"].split("#")
        box = by_id(page)[label][0]
        line = box.select_one(".claim")
        assert line, f"{label} has no claim line"
        assert re.match(r"Checked on \d+ .+: worst .+ \(bound .+\)", line.get_text())
        assert line.find("a")["href"].startswith("../"), "no link to the claim's code"
        entry = box.select_one("details pre").get_text()
        assert f"pcnotes:{label}," in entry
        assert statement["number"] in entry
        assert statement["title"] in entry


def test_every_statement_has_a_permalink(theorems: list[dict]) -> None:
    for statement in theorems:
        page, label = statement["url"].split("#")
        box = by_id(page)[label][0]
        assert box.select_one(".admonition-title a.headerlink")["href"] == f"#{label}"
        assert statement["number"], f"{label} has no number"


def test_the_ledger_lists_every_claim_and_links_to_it(theorems: list[dict]) -> None:
    page = "book/appendix/ledger.html"
    rows = parsed(page).select("table.claims-ledger tbody tr")
    linked = {row.find("a")["href"].split("#")[1]: row for row in rows}
    proved = {row["label"] for row in theorems if row["type"] in PROVED}
    assert set(linked) == proved
    for label, row in linked.items():
        assert label in row.get_text()
        assert "yes" in row.get_text()


def test_search_index_knows_titles_and_labels(theorems: list[dict]) -> None:
    text = (SITE / "searchindex.js").read_text("utf-8")
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    titles = " ".join(index["alltitles"])
    for statement in theorems:
        assert statement["label"] in index["indexentries"]
        assert statement["title"] in titles


@pytest.mark.parametrize("name", pcnotes.__all__)
def test_every_public_name_has_its_docstring_on_the_api_page(name: str) -> None:
    signature = parsed(API).find("dt", id=f"pcnotes.{name}")
    assert signature, f"{name} is not on the API page"
    first = inspect.getdoc(getattr(pcnotes, name)).split("\n\n")[0]
    about = signature.find_next_sibling("dd").get_text()
    assert bare(about).startswith(bare(first))


def bare(text: str) -> str:
    """Without what setting changes: blanks, quotes, marks of emphasis and names."""
    return re.sub(r"[`*\s'\"’“”]+", "", text)


def test_labels_in_docstrings_link_to_their_statements(theorems: list[dict]) -> None:
    labels = {row["label"]: row["url"] for row in theorems}
    documents = [inspect.getdoc(getattr(pcnotes, name)) for name in pcnotes.__all__]
    named = set(re.findall(r"`([^`]+)`", " ".join(documents))) & set(labels)
    assert named, "no docstring names a theorem"
    links = {tag["href"] for tag in parsed(API).select("article a[href]")}
    for label in named:
        assert any(link.endswith(labels[label].split("/", 1)[1]) for link in links)


@pytest.mark.parametrize("path", files("examples/*.py"), ids=lambda path: path.name)
def test_the_guide_shows_recipes_as_they_are(path: Path) -> None:
    shown = [block.get_text().strip() for block in parsed(GUIDE).select("pre")]
    assert path.read_text("utf-8").strip() in shown
    summaries = [tag.get_text() for tag in parsed(GUIDE).select("details summary")]
    assert any(path.relative_to(ROOT).as_posix() in text for text in summaries)
