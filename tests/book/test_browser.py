"""Every page in a real browser: wide and narrow, light and dark.

Needs Chromium. Without it these tests are skipped, except where CI or
PCNOTES_REQUIRE_BROWSER is set: there a missing browser is a failure.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from urllib.parse import quote

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright
from reading import site_pages

import pcnotes as pc
from pcnotes import theory
from pcnotes.claims.equilibria import Landscape, equilibrium

PAGES = [page for page in site_pages() if page != "index.html"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOUND = next(filter(None, map(shutil.which, NAMES)), None)
REQUIRED = bool(os.environ.get("CI") or os.environ.get("PCNOTES_REQUIRE_BROWSER"))
MISSING = (
    "no Chromium, so no page was looked at; install one (Debian: apt-get install "
    "chromium, macOS: brew install --cask chromium) and run again"
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS = {"desktop": (1280, 900), "phone": (375, 812)}

# TeX that reaches the reader as text: commands, and signs around formulas.
RAW_TEX = re.compile(r"\\[a-zA-Z]{2,}|\\[([]|\$\$|\$[^$\n]{1,80}[\\^_][^$\n]{0,80}\$")
VISIBLE_TEXT = """() => {
  const hidden = ".katex, pre, code, script, style, noscript, template";
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode())
    if (!walker.currentNode.parentElement.closest(hidden))
      texts.push(walker.currentNode.textContent);
  return texts.join("\\n");
}"""
# What lies outside of the window at the right, unless something around it scrolls.
TOO_WIDE = """() => {
  const root = document.documentElement;
  return root.scrollWidth <= root.clientWidth ? [] :
    [...document.querySelectorAll("body *")]
      .filter(e => e.getBoundingClientRect().right > root.clientWidth + 1)
      .map(e => e.outerHTML.slice(0, 120)).slice(0, 5);
}"""

# Formulas and listings are tens of thousands of nodes, for which axe takes minutes.
# KaTeX hides the nodes of a formula and offers MathML, in the colour of the text around
# it: a letter stands for it here. The colours of listings are those of one style sheet,
# so each page keeps its first ones.
SIMPLIFY = """() => {
  document.querySelectorAll('.katex').forEach(f => f.replaceChildren('x'));
  document.querySelectorAll('.highlight pre').forEach(listing =>
    [...listing.children].slice(200).forEach(token => token.remove()));
}"""
AXE_OPTIONS = {"resultTypes": ["violations"]}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if FOUND is None:
        (pytest.fail if REQUIRED else pytest.skip)(MISSING)
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=FOUND, args=FLAGS, env={**os.environ, "HOME": folder}
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page in a fresh context; a test may ask for a width and a scheme."""
    width, scheme = getattr(request, "param", ("desktop", "light"))
    size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
    context = browser.new_context(viewport=size, color_scheme=scheme)
    context.set_default_timeout(20_000)
    yield context.new_page()
    context.close()


def visit(page: Page, url: str) -> None:
    """Open a page and wait until scripts, fonts and transitions have come to rest.

    In the dark a page starts light and fades: a colour read half way is nobody's.
    """
    page.goto(url, wait_until="load")
    page.evaluate("() => document.fonts.ready.then(() => true)")
    page.wait_for_function(
        "() => document.getAnimations().every(a => a.playState !== 'running')"
    )


LOOKS = [
    pytest.param((width, scheme), id=f"{width}-{scheme}")
    for width in WIDTHS
    for scheme in ("light", "dark")
]


@pytest.mark.parametrize("page", LOOKS, indirect=True)
@pytest.mark.parametrize("name", PAGES)
def test_page(page: Page, address: str, name: str) -> None:
    problems: list[str] = []
    page.on(
        "request",
        lambda request: (
            request.url.startswith((address, "data:", "blob:"))
            or problems.append(f"another host: {request.url}")
        ),
    )
    page.on(
        "response",
        lambda response: (
            response.status < 400
            or problems.append(f"{response.status}: {response.url}")
        ),
    )
    page.on(
        "console",
        lambda message: (
            message.type not in ("error", "warning")
            or problems.append(f"console: {message.text}")
        ),
    )
    page.on("pageerror", lambda error: problems.append(f"script: {error}"))
    visit(page, address + name)
    # Taken now: axe itself asks for style sheets in order to read them.
    seen = list(problems)
    assert seen == []
    assert page.evaluate(TOO_WIDE) == [], "the page is wider than the window"
    shown = RAW_TEX.findall(page.evaluate(VISIBLE_TEXT))
    assert shown == [], "TeX is visible"
    assert violations(page) == []


def violations(page: Page) -> list[str]:
    """What axe-core objects to, with the element and the reason."""
    page.evaluate(SIMPLIFY)
    found = Axe().run(page, options=AXE_OPTIONS).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:160]} ({node['failureSummary']})"
        for rule in found
        for node in rule["nodes"]
    ]


def test_the_root_leads_to_the_book(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_url("**/book/index.html")


def test_search_finds_statements_by_title_and_label(
    page: Page, address: str, theorems: list[dict]
) -> None:
    for statement in theorems:
        for query in filter(None, (statement["title"], statement["label"])):
            visit(page, f"{address}search.html?q={quote(query)}")
            wanted = statement["url"]
            hit = page.locator(f'#search-results a[href$="#{statement["label"]}"]')
            expect(hit.first, f"{query!r} must find {wanted}").to_be_visible()


def test_cite_shows_an_entry_for_the_theorem(
    page: Page, address: str, theorems: list[dict]
) -> None:
    statement = next(row for row in theorems if row["type"] == "theorem")
    visit(page, address + statement["url"])
    fold = page.locator(f"#{statement['label']} details.fold")
    expect(fold.locator("pre")).to_be_hidden()
    fold.locator("summary").click()
    expect(fold.locator("pre")).to_contain_text(f"label {statement['label']}")


def test_the_ledger_sorts_and_filters(page: Page, address: str) -> None:
    visit(page, f"{address}book/appendix/ledger.html")
    rows = page.locator("table.claims-ledger tbody tr")
    heading = page.locator("table.claims-ledger th").filter(has_text="Worst")
    for direction in ("ascending", "descending"):
        heading.get_by_role("button").press("Enter")
        expect(heading).to_have_attribute("aria-sort", direction)
        numbers = [
            as_number(t) for t in rows.locator("td:nth-child(3)").all_inner_texts()
        ]
        assert numbers == sorted(numbers, reverse=direction == "descending")
    label = rows.first.locator("code").inner_text()
    page.get_by_label("Show only").fill(label)
    expect(page.get_by_role("status")).to_contain_text(" of ")
    expect(rows.filter(visible=True).first).to_contain_text(label)


def as_number(text: str) -> float:
    raised = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    return float(text.replace(" × 10", "e").translate(raised))


def test_a_link_to_a_theorem_shows_it_on_hover(
    page: Page, address: str, theorems: list[dict]
) -> None:
    labels = {row["label"] for row in theorems}
    for name in PAGES:
        visit(page, address + name)
        links = page.locator("article p a.reference.internal")
        for link in links.all():
            if (link.get_attribute("href") or "").split("#")[-1] in labels:
                link.scroll_into_view_if_needed()
                link.hover()
                expect(page.locator(".tippy-box .tippy-content")).to_be_visible()
                return
    pytest.fail("no page refers to a theorem")


def test_solutions_are_hidden_until_asked_for(page: Page, address: str) -> None:
    found = 0
    for name in PAGES:
        visit(page, address + name)
        for box in page.locator("div.admonition.solution").all():
            found += 1
            content = box.locator(":scope > *:not(.admonition-title)").first
            expect(content).to_be_hidden()
            box.locator("button.toggle-button").click()
            expect(content).to_be_visible()
    assert found, "the book has no exercise"


@pytest.mark.parametrize(("eta", "n"), [(0.5, 8), (1.0, 10), (1.5, 12), (1.95, 60)])
def test_error_wave_shows_the_numbers_of_the_package(
    page: Page, address: str, eta: float, n: int
) -> None:
    visit(page, address + "book/equivalence/fixed-prediction.html")
    for name, value in (("eta", eta), ("n", n)):
        page.locator(f"#error-wave-{name}").evaluate(
            "(slider, value) => { slider.value = value;"
            " slider.dispatchEvent(new Event('input')); }",
            value,
        )
    bars = page.locator("#error-wave rect").evaluate_all(
        "bars => bars.map(bar => ({...bar.dataset}))"
    )
    assert len(bars) == 10
    for bar in bars:
        share = theory.binomial_tail(n, eta, int(bar["distance"]))
        near = pytest.approx(share, rel=1e-6, abs=1e-9)
        assert float(bar["share"]) == near
        assert float(bar["law"]) == near


def test_error_wave_answers_to_the_keyboard(page: Page, address: str) -> None:
    visit(page, address + "book/equivalence/fixed-prediction.html")
    page.locator("#error-wave-n").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#error-wave-n-value")).to_have_text("9")
    expect(page.locator("#error-wave .explorable-says")).to_contain_text("Layer 1 has")


class Row(torch.nn.Module):
    """The network of the explorable on the light cone."""

    def __init__(self) -> None:
        super().__init__()
        number = torch.tensor(0.8, dtype=torch.float64)
        self.start = torch.nn.Parameter(number)
        self.vertices = torch.nn.ModuleList(Call() for _ in range(5))

    def forward(self) -> torch.Tensor:
        first = v = self.vertices[0](lambda: self.start.clone())
        for vertex in self.vertices[1:4]:
            v = vertex(lambda u: 0.9 * u.sin(), v)
        return self.vertices[4](lambda a, b: a + b, first, v)


class Call(torch.nn.Module):
    def forward(
        self, function: Callable[..., torch.Tensor], *values: torch.Tensor
    ) -> torch.Tensor:
        return function(*values)


@pytest.mark.parametrize(
    ("gamma", "n", "copies"),
    [(1.0, 1, False), (0.5, 3, False), (1.0, 4, True), (0.4, 2, True), (1.3, 3, True)],
)
def test_light_cone_shows_the_numbers_of_the_package(
    page: Page, address: str, gamma: float, n: int, copies: bool
) -> None:
    visit(page, address + "book/equivalence/any-graph.html")
    page.locator("#cone-play-level").set_checked(copies)
    for name, value in (("gamma", gamma), ("n", n)):
        page.locator(f"#cone-play-{name}").evaluate(
            "(slider, value) => { slider.value = value;"
            " slider.dispatchEvent(new Event('input')); }",
            value,
        )
    lamps = page.locator("#cone-play circle[data-vertex]").evaluate_all(
        "lamps => Object.fromEntries("
        "lamps.map(l => [l.dataset.vertex, {...l.dataset}]))"
    )
    row = Row()
    rule = pc.ZIL(gamma) if copies else pc.Strict(step_size=gamma, steps=n)

    def loss() -> torch.Tensor:
        return (row() - 0.4).square() / 2

    errors = list(pc.infer(row, loss, rule, at=Call))[n].errors
    delta = list(pc.infer(row, loss, pc.Backprop(), at=Call))[-1].errors
    assert len(lamps) == (7 if copies else 4)
    for name, lamp in lamps.items():
        kind, number = name.split()
        i = (
            f"vertices.{int(number) - 1}"
            if kind == "vertex"
            else f"vertices.0+{number}"
        )
        want = float(errors[i])
        assert float(lamp["error"]) == pytest.approx(want, rel=1e-9, abs=1e-12)
        if kind == "vertex":
            assert float(lamp["delta"]) == pytest.approx(float(delta[i]), rel=1e-9)
        level = (5 if kind == "vertex" else 4) - int(number)
        if copies:
            expected = {-1: "dark", 0: "exact", 1: "wrong"}[(n > level) - (n < level)]
            assert lamp["lamp"] == expected


def test_light_cone_answers_to_the_keyboard(page: Page, address: str) -> None:
    visit(page, address + "book/equivalence/any-graph.html")
    page.locator("#cone-play-level").focus()
    page.keyboard.press("Space")
    expect(page.locator("#cone-play-level-value")).to_have_text("three")
    page.locator("#cone-play-n").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#cone-play .explorable-says")).to_contain_text(
        "Exact after 2 steps: vertex 3, copy 2"
    )


def two_vertices(b: torch.Tensor) -> torch.Tensor:
    """v₁ = 0.3 + b₁, v₂ = 2 tanh v₁ + b₂, half the square of 1.5 v₂ - 3."""
    output = 1.5 * (2 * torch.tanh(0.3 + b[..., 0]) + b[..., 1])
    return (output - 3).square().sum() / 2


@pytest.mark.parametrize("exponent", [-2, -1, 0, 1])
def test_nudge_dial_shows_the_numbers_of_the_package(
    page: Page, address: str, exponent: float
) -> None:
    visit(page, address + "book/equivalence/nudging.html")
    page.locator("#nudge-dial-beta").evaluate(
        "(slider, value) => { slider.value = value;"
        " slider.dispatchEvent(new Event('input')); }",
        exponent,
    )
    shown = page.locator("#nudge-dial").evaluate("figure => ({...figure.dataset})")
    landscape, beta = Landscape(two_vertices, 2), 10.0**exponent
    expected = {
        "pc": equilibrium(landscape, beta).shift,
        "bp": -beta * landscape.adjoint(np.zeros(2)),
    }
    assert float(shown["beta"]) == pytest.approx(beta)
    for name, point in expected.items():
        assert [float(t) for t in shown[name].split()] == pytest.approx(list(point))


def test_nudge_dial_answers_to_the_keyboard(page: Page, address: str) -> None:
    visit(page, address + "book/equivalence/nudging.html")
    page.locator("#nudge-dial-beta").focus()
    page.keyboard.press("End")
    expect(page.locator("#nudge-dial-beta-value")).to_have_text("10.00")
    expect(page.locator("#nudge-dial .explorable-says")).to_contain_text("leaves")
