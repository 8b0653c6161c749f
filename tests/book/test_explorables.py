"""The explorables, in a real browser: their numbers are those of the package."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from looking import fresh_page, visit
from playwright.sync_api import Browser, Locator, expect

import pcnotes as pc
from pcnotes import theory
from pcnotes.claims.equilibria import Landscape, equilibrium

CHAPTERS = {
    "error-wave": "equivalence/fixed-prediction",
    "nudge-dial": "equivalence/nudging",
    "cone-play": "equivalence/any-graph",
}


@pytest.fixture(scope="module")
def figure(
    request: pytest.FixtureRequest, browser: Browser, address: str
) -> Iterator[Locator]:
    """An explorable in its chapter, loaded once for all of its tests."""
    with fresh_page(browser) as page:
        visit(page, f"{address}book/{CHAPTERS[request.param]}.html")
        found = page.locator(f"#{request.param}")
        expect(found.locator(".explorable-says")).not_to_be_empty()
        yield found


def of(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("figure", [name], indirect=True)


def put(figure: Locator, values: dict[str, float]) -> None:
    """Set controls, found by their labels."""
    for label, value in values.items():
        control = figure.get_by_label(label, exact=True)
        if isinstance(value, bool):
            control.set_checked(value)
        else:
            control.fill(str(value))


def marks(figure: Locator, selector: str) -> list[dict[str, str]]:
    """What the picture knows about its parts."""
    parts = figure.locator("svg").locator(selector)
    return parts.evaluate_all("parts => parts.map(part => ({...part.dataset}))")


def press(figure: Locator, label: str, key: str) -> None:
    figure.get_by_label(label, exact=True).press(key)


@of("error-wave")
@pytest.mark.parametrize(("eta", "n"), [(0.5, 8), (1.0, 10), (1.5, 12), (1.95, 60)])
def test_error_wave_shows_the_numbers_of_the_package(
    figure: Locator, eta: float, n: int
) -> None:
    put(figure, {"step size η": eta, "steps n": n})
    bars = marks(figure, "rect")
    assert len(bars) == 10
    for bar in bars:
        share = theory.binomial_tail(n, eta, int(bar["distance"]))
        near = pytest.approx(share, rel=1e-6, abs=1e-9)
        assert float(bar["share"]) == near
        assert float(bar["law"]) == near


@of("error-wave")
def test_error_wave_answers_to_the_keyboard(figure: Locator) -> None:
    put(figure, {"step size η": 0.5, "steps n": 8})
    press(figure, "steps n", "ArrowRight")
    expect(figure.locator("#error-wave-n-value")).to_have_text("9")
    expect(figure.locator(".explorable-says")).to_contain_text("Layer 1 has 0.0000")


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


@of("cone-play")
@pytest.mark.parametrize(
    ("gamma", "n", "copies"),
    [(1.0, 1, False), (0.5, 3, False), (1.0, 4, True), (0.4, 2, True), (1.3, 3, True)],
)
def test_light_cone_shows_the_numbers_of_the_package(
    figure: Locator, gamma: float, n: int, copies: bool
) -> None:
    put(figure, {"identity vertices": copies, "step size γ": gamma, "steps n": n})
    lamps = {lamp["vertex"]: lamp for lamp in marks(figure, "circle[data-vertex]")}
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


@of("cone-play")
def test_light_cone_answers_to_the_keyboard(figure: Locator) -> None:
    put(figure, {"identity vertices": False, "step size γ": 1.0, "steps n": 1})
    press(figure, "identity vertices", "Space")
    expect(figure.locator("#cone-play-level-value")).to_have_text("three")
    press(figure, "steps n", "ArrowRight")
    expect(figure.locator(".explorable-says")).to_contain_text(
        "Exact after 2 steps: vertex 3, copy 2"
    )


def two_vertices(b: torch.Tensor) -> torch.Tensor:
    """v₁ = 0.3 + b₁, v₂ = 2 tanh v₁ + b₂, half the square of 1.5 v₂ - 3."""
    output = 1.5 * (2 * torch.tanh(0.3 + b[..., 0]) + b[..., 1])
    return (output - 3).square().sum() / 2


@of("nudge-dial")
@pytest.mark.parametrize("exponent", [-2, -1, 0, 1])
def test_nudge_dial_shows_the_numbers_of_the_package(
    figure: Locator, exponent: float
) -> None:
    put(figure, {"nudge β": exponent})
    [shown] = marks(figure, "[data-beta]")
    landscape, beta = Landscape(two_vertices, 2), 10.0**exponent
    expected = {
        "pc": equilibrium(landscape, beta).shift,
        "bp": -beta * landscape.adjoint(np.zeros(2)),
    }
    assert float(shown["beta"]) == pytest.approx(beta)
    for name, point in expected.items():
        assert [float(t) for t in shown[name].split()] == pytest.approx(list(point))


@of("nudge-dial")
def test_nudge_dial_answers_to_the_keyboard(figure: Locator) -> None:
    put(figure, {"nudge β": -1})
    press(figure, "nudge β", "End")
    expect(figure.locator("#nudge-dial-beta-value")).to_have_text("10.00")
    expect(figure.locator(".explorable-says")).to_contain_text("leaves")
