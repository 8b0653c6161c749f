"""The house rules, on the sources of the book."""

import re

import pytest
import yaml
from reading import PROVED, cells, executed, source, texts

from tools.house import ROOT, files, notebooks, project, table_of_contents
from tools.notebooks import differing

NOTEBOOKS = notebooks()


def test_every_page_is_in_the_table_of_contents_and_the_other_way() -> None:
    present = {
        path.relative_to(ROOT).with_suffix("").as_posix()
        for path in files("book/**/*.ipynb", "book/**/*.md")
        if "_static" not in path.parts
    }
    listed = table_of_contents()
    assert set(listed) == present
    assert len(set(listed)) == len(listed), "a page is listed twice"


def test_notebooks_are_in_their_committed_form() -> None:
    changed = [
        str(path.relative_to(ROOT)) for path in differing(files("book/**/*.ipynb"))
    ]
    assert not changed, f"run `make fix`: {changed}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_cells_are_short(name: str) -> None:
    for number, text, _ in cells("code", source(name)):
        lines = text.split("\n")
        where = f"{name}, cell {number}"
        assert len(lines) <= 25, f"{where} has {len(lines)} lines; 25 at most"
        wide = [line for line in lines if len(line) > 78]
        assert not wide, f"{where} has lines of more than 78 columns: {wide}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_cell_prints_a_time(name: str) -> None:
    clock = re.compile(r"%%?time|\btimeit\b|perf_counter|process_time|time\.time\(")
    for number, text, _ in cells("code", source(name)):
        assert not clock.search(text), f"{name}, cell {number} measures time"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_figures_have_a_caption_and_a_text_alternative(name: str) -> None:
    for number, cell in enumerate(executed(name)["cells"], start=1):
        if not any(is_image(output) for output in cell.get("outputs", [])):
            continue
        told = cell["metadata"].get("mystnb", {})
        where = f"{name}, cell {number}: mystnb"
        alt = told.get("image", {}).get("alt", "")
        assert len(alt.split()) >= 4, f"{where}.image.alt must describe the figure"
        assert told.get("figure", {}).get("caption"), (
            f"{where}.figure.caption is missing"
        )


def is_image(output: dict) -> bool:
    return any(kind.startswith("image/") for kind in output.get("data", {}))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_nothing_is_written_to_standard_error(name: str) -> None:
    for number, cell in enumerate(executed(name)["cells"], start=1):
        for output in cell.get("outputs", []):
            said = output.get("text", "") if output.get("name") == "stderr" else ""
            assert not said, f"{name}, cell {number} warns: {''.join(said)}"


def statements() -> dict[str, str]:
    """Label and kind of each statement in the sources."""
    found = {}
    pattern = re.compile(
        r"^[`:]{3,}\{prf:(\w+)\}[^\n]*\n(?::(?!label)[^\n]*\n)*:label: *(\S+)", re.M
    )
    for text in texts().values():
        for kind, label in pattern.findall(text):
            assert label not in found, f"two statements have the label {label}"
            found[label] = kind
    return found


def test_every_proved_statement_has_a_label() -> None:
    opened = sum(
        len(re.findall(rf"^[`:]{{3,}}\{{prf:(?:{'|'.join(PROVED)})\}}", text, re.M))
        for text in texts().values()
    )
    labelled = [label for label, kind in statements().items() if kind in PROVED]
    assert opened == len(labelled)


def test_statements_and_claims_have_the_same_labels() -> None:
    from pcnotes.claims import CLAIMS

    proved = {label for label, kind in statements().items() if kind in PROVED}
    assert proved - set(CLAIMS) == set(), "statements without a claim"
    assert set(CLAIMS) - proved == set(), "claims without a statement"


def test_every_exercise_has_a_hidden_solution() -> None:
    for name, text in texts().items():
        exercises = re.findall(r"\{exercise(?:-start)?\}[^\n]*\n:label: *(\S+)", text)
        opened = len(re.findall(r"\{exercise(?:-start)?\}", text))
        assert opened == len(exercises), f"{name}: an exercise has no label"
        solutions = re.findall(
            r"\{solution(?:-start)?\} *(\S+)\n((?::[^\n]*\n)*)", text
        )
        assert sorted(exercises) == sorted(label for label, _ in solutions), name
        for label, options in solutions:
            assert re.search(r":class:.*\bdropdown\b", options), (
                f"{label} is not hidden"
            )


def test_the_guide_shows_every_recipe_and_nothing_else() -> None:
    text = texts()["book/practice/your-model.md"]
    shown = re.findall(r"^```\{literalinclude\} \.\./\.\./(examples/\S+)$", text, re.M)
    recipes = [path.relative_to(ROOT).as_posix() for path in files("examples/*.py")]
    assert sorted(shown) == recipes


def test_references_are_complete_and_cited() -> None:
    text = (ROOT / "book" / "references.bib").read_text("utf-8")
    entries = re.findall(r"^@\w+\{([^,]+),(.*?)^\}", text, re.M | re.S)
    keys = [key for key, _ in entries]
    assert len(set(keys)) == len(keys), "an entry appears twice"
    for key, body in entries:
        assert re.search(r"^\s*(doi|eprint)\s*=", body, re.M), (
            f"{key}: no DOI, no arXiv"
        )
    for field in ("doi", "eprint"):
        numbers = re.findall(rf"^\s*{field}\s*=\s*{{(.+?)}}", text, re.M)
        assert len(set(numbers)) == len(numbers), f"two entries have the same {field}"
    cited = {
        key.strip()
        for page in texts().values()
        for group in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", page)
        for key in group.split(",")
    }
    assert cited - set(keys) == set(), "cited, but not in references.bib"
    assert set(keys) - cited == set(), "in references.bib, but cited nowhere"


def test_citation_file_says_what_pyproject_says() -> None:
    facts = project()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["title"] == facts["title"]
    assert str(citation["version"]) == facts["version"]
    assert citation["authors"] == facts["authors"]
    for key, name in [
        ("repository", "repository-code"),
        ("site", "url"),
        ("doi", "doi"),
    ]:
        assert citation.get(name, "") == facts[key], name


def test_citation_file_is_valid() -> None:
    from cffconvert.citation import Citation

    Citation((ROOT / "CITATION.cff").read_text("utf-8")).validate()


def test_the_package_has_one_version() -> None:
    import pcnotes

    assert pcnotes.__version__ == project()["version"]
