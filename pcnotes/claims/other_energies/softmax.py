"""Claims about softmax: a direction that an energy does not see, and output losses.

A vertex with the energy KL(softmax v ‖ softmax μ) does not see a constant that is added
to its value; all else is autograd on the uncut network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..draw import Draw
from ..instances import Instance
from ..measuring import ROUNDING, UNIT, all_states, norm
from ..registry import Measurement, claim, worst
from ..vertices import LOSSES, Network, Values, Vertex
from .local_energies import STEEP, Held, slopes

Energy = Callable[[Tensor, Tensor], Tensor]


def kl(mu: Tensor, v: Tensor) -> Tensor:
    """KL(softmax v ‖ softmax μ), summed over samples."""
    p, q = v.log_softmax(-1), mu.log_softmax(-1)
    return (p.exp() * (p - q)).sum()


def lk(mu: Tensor, v: Tensor) -> Tensor:
    """KL(softmax μ ‖ softmax v)."""
    return kl(v, mu)


class Reader(Vertex):
    """Reads its parent's softmax, so not the constant."""

    def forward(self, *parents: Tensor) -> Tensor:
        """Shapes (batch, width), of parents and result."""
        return super().forward(*(v.softmax(-1) for v in parents))


# ---- a gauge -------------------------------------------------------------------------


@claim(instances="random chains with a softmax vertex", quantity="relative error")
def softmax_gauge(draw: Draw) -> Measurement:
    """What a softmax vertex teaches and what pulls it sum to zero.

    At random states. Under fixed prediction the sum of its value then drifts by -η·Σδ a
    step once its child has come to rest, and stands still, with Σδ = 0, if the child
    reads its softmax; then a spring along the constant exerts no force at equilibrium.
    With a linear reader a small nudge leads to the least loss that constants can reach,
    not to the feed-forward pass: F - min ℓ and the distance from there fall with β.
    """
    generator, width = draw.generator(), draw.integer(2, 4)
    energy = draw.choice([kl, lk])
    return worst(
        _sums(energy, generator, width),
        _drift(_chain(draw, width, Vertex), energy),
        _no_drift(_chain(draw, width, Reader), energy),
        *_nudged(energy, generator, width, draw.uniform(0.5, 1.0)),
        *_sprung(energy, generator, width),
    )


def _sums(energy: Energy, generator: torch.Generator, width: int) -> Measurement:
    mu, v = torch.randn(2, 3, width, generator=generator, dtype=torch.float64)
    xi, zeta = slopes({"i": energy}, {"i": mu}, {"i": v})
    size = norm(xi["i"]) + norm(zeta["i"])
    off = max(norm(s["i"].sum(-1)) for s in (xi, zeta))
    return Measurement(off / size, ROUNDING)


def _chain(draw: Draw, width: int, reader: type[Vertex]) -> Instance:
    """x → v1 → v2 → out; v1 is the softmax vertex, v2 reads it."""
    generator, batch = draw.generator(), draw.integer(1, 3)
    wiring = {"v1": (), "v2": ("v1",), "out1": ("v2",)}
    modules = {
        "v1": Vertex("tanh", 1, width, generator),
        "v2": reader("tanh", 1, width, generator),
        "out1": Vertex("linear", 1, width, generator),
    }
    x, y = torch.randn(2, batch, width, generator=generator, dtype=torch.float64)
    return Instance(Network(wiring, modules), x, y, {"out1": LOSSES["squares"]})


def _run(case: Instance, energy: Energy) -> list[Values]:
    """Values under fixed prediction; the child has curvature between one and two."""
    seen: list[Values] = []
    energies: dict[str, Energy] = {"v1": energy, "v2": STEEP["square + log cosh"]}
    all_states(case, Held(energies, (0.65,) * 60, None, seen))
    return seen


def _drift(case: Instance, energy: Energy) -> Measurement:
    seen = _run(case, energy)
    moved = (seen[-1]["v1"] - seen[-2]["v1"]).sum(-1)
    wanted = -0.65 * case.delta["v1"].sum(-1)
    size = norm(case.delta["v1"]) + norm(case.delta["v2"])
    far = 1 + max(float(v.abs().max()) for v in seen[-1].values())
    return Measurement(norm(moved - wanted) / size, ROUNDING + 64 * UNIT * far / size)


def _no_drift(case: Instance, energy: Energy) -> Measurement:
    seen = _run(case, energy)
    moved = (seen[-1]["v1"] - seen[0]["v1"]).sum(-1)
    far = 1 + max(float(v.abs().max()) for v in seen[-1].values())
    size = norm(case.delta["v2"])
    return worst(
        Measurement(norm(moved), 60 * ROUNDING * (size + far)),
        Measurement(norm(case.delta["v1"].sum(-1)), ROUNDING * size),
    )


def _nudged(
    energy: Energy,
    generator: torch.Generator,
    width: int,
    share: float,
    fixed: bool = False,
) -> list[Measurement]:
    """One vertex, v near μ + t; ℓ = ½‖Wv - y‖². fixed: from v = μ, a control."""
    W = torch.randn(width, width, generator=generator, dtype=torch.float64)
    mu, y = torch.randn(2, width, generator=generator, dtype=torch.float64)
    one = torch.ones(width, dtype=torch.float64)
    t = (W @ one) @ (y - W @ mu) / (W @ one).square().sum()
    y = y + (1 - t) * (W @ one)  # so that the best constant is one
    ground = mu if fixed else mu + one

    def loss(v: Tensor) -> Tensor:
        return (W @ v - y).square().sum() / 2

    least, pull = float(loss(ground)), norm(W.T @ (W @ ground - y))
    pi = torch.diag(mu.softmax(0)) - torch.outer(mu.softmax(0), mu.softmax(0))
    soft = float(torch.linalg.eigvalsh(pi)[1])
    beta = 0.003 * share * soft / (norm(W) ** 2 + (1 + pull) / soft)

    def left(beta: float) -> tuple[float, float]:
        v = ground.clone()
        for _ in range(30):
            v, step = _newton(lambda u: energy(mu, u), lambda u: beta * loss(u), v)
            if step < 1e-14 * (1 + norm(v)):
                break
        value = (float(energy(mu, v)) + beta * float(loss(v))) / beta
        return abs(value - least), norm(v - ground)

    first, second = (max(pair) for pair in zip(left(beta), left(2 * beta), strict=True))
    few = left(beta / 100)
    room = 1e3 * UNIT * (1 + norm(ground) + least) / soft / (beta / 100)
    return [
        Measurement(few[0], 0.015 * first + room),
        Measurement(few[1], 0.015 * second + room * beta + 1e-9 * (1 + norm(ground))),
    ]


def _newton(
    blind: Callable[[Tensor], Tensor], seen: Callable[[Tensor], Tensor], v: Tensor
) -> tuple[Tensor, float]:
    """A step for blind + seen, where the slope of blind sums to zero.

    That sum is rounding. It is left out: along constants only `seen` has curvature, so
    little of it that dividing by it would turn rounding into distance.
    """
    first, second = (
        torch.autograd.functional.jacobian(function, v) for function in (blind, seen)
    )
    slope = first - first.mean() + second
    matrix = torch.autograd.functional.hessian(lambda u: blind(u) + seen(u), v)
    step = torch.linalg.solve(matrix, slope)
    return v - step, norm(step)


def _sprung(
    energy: Energy, generator: torch.Generator, width: int, read: bool = False
) -> list[Measurement]:
    """With ½(Σε)² added, equilibria are those without it that have Σε = 0.

    One vertex whose softmax the loss reads. read: it reads the value, a control.
    """
    W = torch.randn(width, width, generator=generator, dtype=torch.float64)
    mu, y = torch.randn(2, width, generator=generator, dtype=torch.float64)
    soft = float(mu.softmax(0).min())

    def pull(v: Tensor) -> Tensor:
        seen = v if read else v.softmax(0)
        return 0.01 * soft * (W @ seen - y).square().sum() / (1 + norm(W) ** 2)

    def spring(v: Tensor) -> Tensor:
        return (mu - v).sum().square() / 2

    v = mu.clone()
    for _ in range(30):
        slope = _slope(lambda u: energy(mu, u) + pull(u) + spring(u), v)
        matrix = torch.autograd.functional.hessian(
            lambda u: energy(mu, u) + pull(u) + spring(u), v
        )
        v = v - torch.linalg.solve(matrix, slope)
        if norm(slope) < UNIT:
            break
    left = norm(_slope(lambda u: energy(mu, u) + pull(u), v))
    # Slopes are differences of probabilities and of values.
    terms = 1 + norm(mu) + norm(v)
    return [
        Measurement(left, ROUNDING * terms),
        Measurement(float((mu - v).sum().abs()), ROUNDING * terms),
    ]


@softmax_gauge.control
def spring_pulls(draw: Draw) -> Measurement:
    """A loss that reads the constant: the spring is stretched at its equilibrium."""
    return worst(*_sprung(kl, draw.generator(), draw.integer(2, 4), read=True))


@softmax_gauge.control
def reads_the_constant(draw: Draw) -> Measurement:
    """A child that reads the value itself: the sum does not stand still."""
    return _no_drift(_chain(draw, draw.integer(2, 4), Vertex), kl)


@softmax_gauge.control
def as_if_near_the_start(draw: Draw) -> Measurement:
    """The distance from the feed-forward pass, which does not fall with β."""
    generator, width = draw.generator(), draw.integer(2, 4)
    return _nudged(kl, generator, width, draw.uniform(0.5, 1.0), fixed=True)[1]


# ---- cross-entropy and one-hot clamping ----------------------------------------------


@claim(instances="random logits and labels", quantity="relative error")
def softmax_ce(draw: Draw) -> Measurement:
    """Cross-entropy teaches the logits p - y; clamped probabilities teach S(p - y).

    Both by autograd; KL of a clamped label is the first. The second never points away
    from the first, is at most half as long, and vanishes as the output gets confident,
    right or wrong; two classes, and equal probabilities, are proportional.
    """
    generator, classes = draw.generator(), draw.integer(2, 10)
    size = draw.uniform(0.0, 6.0)
    o = size * torch.randn(classes, generator=generator, dtype=torch.float64)
    y = torch.rand(classes, generator=generator, dtype=torch.float64)
    y = y / y.sum()
    if draw.integer(0, 1):
        y = torch.eye(classes, dtype=torch.float64)[draw.integer(0, classes - 1)]
    return worst(*_formulas(o, y), *_inequalities(o, y), *_proportional(o, y))


def _slope(function: Callable[[Tensor], Tensor], o: Tensor) -> Tensor:
    leaf = o.clone().requires_grad_()
    (found,) = torch.autograd.grad(function(leaf), leaf)
    return found


def _clamped(o: Tensor, y: Tensor) -> Tensor:
    return _slope(lambda s: (s.softmax(0) - y).square().sum() / 2, o)


def _formulas(o: Tensor, y: Tensor, jacobian: bool = True) -> list[Measurement]:
    p = o.softmax(0)
    r = p - y
    S = torch.diag(p) - torch.outer(p, p) if jacobian else torch.eye(len(p))
    known = torch.xlogy(y, y).sum()
    divergence = _slope(lambda s: known - (y * s.log_softmax(0)).sum(), o)
    return [
        Measurement(norm(_slope(lambda s: cross_entropy(s, y), o) - r), ROUNDING),
        Measurement(norm(divergence - r), ROUNDING),
        Measurement(norm(_clamped(o, y) - S.double() @ r), ROUNDING),
    ]


def _inequalities(o: Tensor, y: Tensor) -> list[Measurement]:
    p, r, second = o.softmax(0), o.softmax(0) - y, _clamped(o, y)
    most, inner = float(p.max()), float(r @ second)
    room = ROUNDING * norm(r)
    return [
        Measurement(max(-inner, 0.0), room),
        Measurement(norm(second), norm(r) / 2 + room),
        Measurement(norm(second), 2 * (1 - most) * norm(r) + room),
    ]


def _proportional(o: Tensor, y: Tensor) -> list[Measurement]:
    o, y = o[:2], torch.stack([y[0], 1 - y[0]])
    p, even = o.softmax(0), torch.zeros(len(y), dtype=torch.float64)
    two = _clamped(o, y) - 2 * p[0] * p[1] * (p - y)
    flat = _clamped(even, y) - (even.softmax(0) - y) / len(y)
    return [Measurement(norm(two), ROUNDING), Measurement(norm(flat), ROUNDING)]


@softmax_ce.control
def jacobian_forgotten(draw: Draw) -> Measurement:
    """p - y for clamped probabilities, too."""
    generator, classes = draw.generator(), draw.integer(2, 10)
    o = torch.randn(classes, generator=generator, dtype=torch.float64)
    y = torch.eye(classes, dtype=torch.float64)[0]
    return worst(*_formulas(o, y, jacobian=False))
