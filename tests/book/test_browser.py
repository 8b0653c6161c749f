"""Every page in a real browser: wide and narrow, light and dark."""

import re
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from looking import Scheme, fresh_page, resize, visit
from playwright.sync_api import Browser, Page, expect
from reading import site_pages

PAGES = [page for page in site_pages() if page != "index.html"]

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
  return root.scrollWidth <= root.clientWidth ? [] : [
    `${root.scrollWidth} px in a window of ${root.clientWidth} px`,
    ...[...document.querySelectorAll("body *")]
      .filter(e => e.getBoundingClientRect().right > root.clientWidth + 1)
      .map(e => e.outerHTML.slice(0, 120)).slice(0, 5)];
}"""

SEARCH = """query =>
  Search._performSearch(...Search._parseQuery(query))
    .map(([page, , anchor]) => page + ".html" + anchor)"""

# Formulas and listings are tens of thousands of elements, for which axe takes minutes.
# KaTeX hides the elements of a formula and offers MathML, in the colour of the text
# around it: a letter stands for it here. In a listing, the style sheet gives a class of
# token its colour. So one formula of each paragraph and one token of each class in a
# listing stay elements, the others become text: listings are as wide as before.
SIMPLIFY = """() => {
  const settle = (elements, kind) => {
    const seen = new Set();
    for (const element of elements)
      if (seen.has(kind(element))) element.replaceWith(element.textContent);
      else seen.add(kind(element));
  };
  for (const formula of document.querySelectorAll(".katex")) formula.textContent = "x";
  const whole = f => f.closest(".together") ?? f.closest("span.math") ?? f;
  settle([...document.querySelectorAll(".katex")].map(whole), f => f.parentElement);
  for (const listing of document.querySelectorAll(".highlight pre")) {
    const inside = [...listing.querySelectorAll("span")].reverse();  // parents last
    settle(inside.filter(token => !token.firstElementChild),
      token => `${token.parentElement.className} ${token.className}`);
    settle(inside.filter(line => line.isConnected && !line.firstElementChild),
      line => line.className);
    listing.normalize();
  }
}"""

# Texts that were there the last time and are no more.
VANISHED = """() => {
  const text = node => node.nodeType === Node.TEXT_NODE && node.data.trim();
  const shown = new Set([...document.querySelectorAll("body *")]
    .filter(e => e.checkVisibility() && [...e.childNodes].some(text)));
  const before = [...window.shownBefore ?? []];
  window.shownBefore = shown;
  return before.filter(e => !shown.has(e)).map(e => e.outerHTML.slice(0, 120));
}"""

EVERYTHING: dict = {"resultTypes": ["violations"]}
COLOURS = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
ONLY_COLOURS = EVERYTHING | {"runOnly": COLOURS}
# Contrast is nine tenths of axe's work.
NO_CONTRAST = EVERYTHING | {"rules": {"color-contrast": {"enabled": False}}}

# In each scheme: the width in which a page is loaded, the width to which its window
# then goes, and what axe is asked in which width. Structure is the same in both
# schemes, and a desktop shows all the text that a phone does (else the test says so).
LOOKS = {
    "light": ("phone", "desktop", {"desktop": EVERYTHING}),
    "dark": ("desktop", "phone", {"phone": NO_CONTRAST, "desktop": ONLY_COLOURS}),
}


@pytest.mark.parametrize("scheme", LOOKS)
@pytest.mark.parametrize("name", PAGES)
def test_page(browser: Browser, address: str, name: str, scheme: Scheme) -> None:
    first, second, questions = LOOKS[scheme]
    with fresh_page(browser, first, scheme) as page:
        heard = listen(page, address)
        visit(page, address + name)
        found = raw_tex(page) + solutions(page, by_hand=scheme == "light")
        found += too_wide(page)
        resize(page, second)
        found += too_wide(page)
        # Taken now: axe itself asks for style sheets in order to read them.
        found += heard
        page.evaluate(SIMPLIFY)
        for width, question in questions.items():
            resize(page, width)
            found += [f"on phones only: {text}" for text in page.evaluate(VANISHED)]
            found += violations(page, question)
    assert found == []


def listen(page: Page, address: str) -> list[str]:
    """What the browser says from now on: the list grows."""
    heard: list[str] = []
    page.on(
        "request",
        lambda request: (
            request.url.startswith((address, "data:", "blob:"))
            or heard.append(f"another host: {request.url}")
        ),
    )
    page.on(
        "response",
        lambda response: (
            response.status < 400 or heard.append(f"{response.status}: {response.url}")
        ),
    )
    page.on(
        "console",
        lambda message: (
            message.type not in ("error", "warning")
            or heard.append(f"console: {message.text}")
        ),
    )
    page.on("pageerror", lambda error: heard.append(f"script: {error}"))
    return heard


def raw_tex(page: Page) -> list[str]:
    shown = RAW_TEX.findall(page.evaluate(VISIBLE_TEXT))
    return [f"TeX is visible: {tex}" for tex in shown]


def too_wide(page: Page) -> list[str]:
    """Elements that widen the page beyond its window, if any does."""
    return [f"too wide: {element}" for element in page.evaluate(TOO_WIDE)]


def solutions(page: Page, by_hand: bool) -> list[str]:
    """Solutions that are not hidden until asked for. They stay open, to be looked at.

    By hand in one scheme only: after every click the page is laid out anew.
    """
    boxes = page.locator("div.admonition.solution")
    if not by_hand:
        buttons = boxes.locator("button.toggle-button")
        buttons.evaluate_all("buttons => buttons.forEach(button => button.click())")
        return []
    found = []
    for box in boxes.all():
        content = box.locator(":scope > *:not(.admonition-title)").first
        if content.is_visible():
            found.append(f"a solution is not hidden: {content.inner_text()[:80]}")
        else:
            box.locator("button.toggle-button").click()
            expect(content).to_be_visible()
    return found


def violations(page: Page, question: dict) -> list[str]:
    """What axe-core objects to, with the element and the reason."""
    return [
        f"{rule['id']}: {node['html'][:160]} ({node['failureSummary']})"
        for rule in Axe().run(page, options=question).response["violations"]
        for node in rule["nodes"]
    ]


def test_the_root_leads_to_the_book(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_url("**/book/index.html")


@pytest.mark.parametrize("key", ["title", "label"])
def test_search_shows_a_statement_to_a_reader(
    page: Page, address: str, theorems: list[dict], key: str
) -> None:
    statement = next(row for row in theorems if row["type"] == "theorem")
    visit(page, f"{address}search.html?q={quote(statement[key])}")
    hit = page.locator(f'#search-results a[href$="{statement["url"]}"]')
    expect(hit.first).to_be_visible()
    expect(page.locator("#search-results p.context").first).to_be_visible()
    assert raw_tex(page) == []


def test_search_finds_statements_by_title_and_label(
    page: Page, address: str, theorems: list[dict]
) -> None:
    """By what the page itself calls: to show results it fetches all of their pages."""
    visit(page, f"{address}search.html")
    page.wait_for_function("() => Search.hasIndex()")
    for statement in theorems:
        for query in filter(None, (statement["title"], statement["label"])):
            assert statement["url"] in page.evaluate(SEARCH, query), query


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
