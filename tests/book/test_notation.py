"""One notation: its symbols are those in use, and statements define their own."""

import json
import re

import pytest
from reading import PROVED, texts

from tools.house import ROOT

PAGES = texts()
NOTATION = PAGES["book/appendix/notation.md"]

# What every reader brings along: operations, relations, layout, sets of numbers.
COMMON = """
frac dfrac tfrac sum prod int lim limsup max min inf sup log exp sin cos tan ln det
partial nabla infty cdot cdots dots ldots vdots times circ odot mid left right big Big
bigl bigr Bigl Bigr biggl biggr Biggl Biggr le leq ge geq ne neq in notin subset
subseteq setminus cup cap to mapsto qquad quad text mathrm mathbf mathsf mathcal
mathbb operatorname begin end approx sim equiv ll gg pm mp forall exists Rightarrow
Leftrightarrow iff succeq preceq binom lfloor rfloor lceil rceil langle rangle lvert
rvert lVert rVert ast star sqrt underbrace overbrace displaystyle textstyle limits
colon prime emptyset varnothing hat bar tilde dot vec overline widehat R T norm abs
diag substack pmatrix mathop tag not perp top leftarrow rightarrow longrightarrow neg
land lor pi
""".split()  # noqa: SIM905
ACCENTS = (
    "hat",
    "bar",
    "tilde",
    "dot",
    "vec",
    "overline",
    "widehat",
    "mathcal",
    "mathbb",
)
TOKEN = re.compile(
    rf"\\(?:{'|'.join(ACCENTS)})\s*\{{?\s*(?:\\[A-Za-z]+|[A-Za-z])\}}?"
    r"|\\[A-Za-z]+|[A-Za-z]"
)
WORDS = re.compile(
    r"\\(?:text|mathrm|operatorname|mathsf|textstyle)\s*\{[^{}]*\}"
    r"|\\(?:begin|end)\{[^{}]*\}|\\[,;:!| ]"
)
MATH = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$", re.S)


def symbols(tex: str) -> set[str]:
    """Letters, Greek letters and macros of ours; accented ones as a whole."""
    found = set()
    for token in TOKEN.findall(WORDS.sub(" ", tex)):
        token = re.sub(r"[{}\s]", "", token)
        if token.lstrip("\\") not in COMMON:
            found.add(token)
    return found


def spans(text: str) -> list[tuple[str, bool]]:
    """The formulas of a text, and whether each stands in a line of words."""
    return [(a or b, not a) for a, b in MATH.findall(text)]


KNOWN = {s for tex, _ in spans(NOTATION) for s in symbols(tex)}


def defined(tex: str) -> set[str]:
    """What stands alone on the left of an equals sign, with its argument or index."""
    left = rf"({TOKEN.pattern})(?:[_^](?:\{{[^{{}}]*\}}|\w))*(?:\([^()]*\))?\s*&?="
    return {re.sub(r"[{}\s]", "", token) for token in re.findall(left, tex)}


def statements() -> list[tuple[str, str, str]]:
    """(page, label, the page's text up to the end of the statement) of each."""
    kinds = "|".join(PROVED)
    pattern = re.compile(
        rf"^```\{{prf:(?:{kinds})\}}[^\n]*\n:label: (\S+)\n(.*?)^```", re.M | re.S
    )
    return [
        (page, match[1], match.start(2), match.end(2))
        for page, text in PAGES.items()
        for match in pattern.finditer(text)
    ]


@pytest.mark.parametrize(
    ("page", "label", "start", "end"), [pytest.param(*s, id=s[1]) for s in statements()]
)
def test_every_symbol_of_a_statement_is_defined(
    page: str, label: str, start: int, end: int
) -> None:
    """On the notation page, or in a line of words, here or earlier on the page."""
    text = PAGES[page]
    used = {s for tex, _ in spans(text[start:end]) for s in symbols(tex)}
    named: set[str] = set()
    for tex, inline in spans(text[:end]):
        named |= symbols(tex) if inline else defined(tex)
    assert used - KNOWN - named == set(), f"{label}: symbols that nobody introduced"


def test_every_macro_is_used_and_means_one_thing() -> None:
    macros = json.loads((ROOT / "book" / "macros.json").read_text("utf-8"))
    meanings = [json.dumps(m) for m in macros.values()]
    assert len(set(meanings)) == len(meanings), "two macros for one thing"
    formulas = "".join(tex for text in PAGES.values() for tex, _ in spans(text))
    unused = [m for m in macros if not re.search(rf"\\{m}(?![A-Za-z])", formulas)]
    assert unused == [], "macros that no page uses"


def table() -> list[str]:
    """The first column of the tables of symbols."""
    part = NOTATION.split("## Graphs and values")[1].split("## Translation")[0]
    return re.findall(r"^\| (\$.+?\$) \|", part, re.M)


def test_every_symbol_of_the_notation_page_is_used() -> None:
    used = {
        s
        for page, text in PAGES.items()
        if page != "book/appendix/notation.md"
        for tex, _ in spans(text)
        for s in symbols(tex)
    }
    listed = {s for row in table() for tex, _ in spans(row) for s in symbols(tex)}
    assert listed - used == set(), "symbols that no page uses"


def test_no_symbol_stands_in_two_rows() -> None:
    cells = [cell.strip() for row in table() for cell in row.strip("$").split(r",\ ")]
    twice = {cell for cell in cells if cells.count(cell) > 1}
    assert twice == set()
