"""Claims about fixed prediction under other energies.

The dynamics run on the package's graphs; what they are held against comes from autograd
on the uncut network.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ...rules import FixedPrediction
from ...theory import Array
from ..draw import Draw
from ..instances import Instance
from ..measuring import (
    ROUNDING,
    UNIT,
    all_near,
    all_states,
    gradients,
    near,
    near_gradients,
    norm,
    random_values,
)
from ..networks import curved, random_network
from ..registry import Measurement, claim, worst
from ..vertices import Readout, Values
from .local_energies import (
    ANY,
    CURVED,
    INVARIANT,
    STEEP,
    Energies,
    Held,
    Local,
    entries,
    slopes,
    some,
    stacked,
)

SPARE = 1.5
FACTOR = 10.0

# ---- fixed prediction, translation-invariant energies --------------------------------

# Where the factors of a step are at most r, n of them leave Σ_j C(n, j) r^(n-j)
# (3‖M‖)^j of the error at most, j < K ≤ 6. Curvature between one and two
# and steps of 0.65 have r = 0.35; eighty of them leave 1e-26 times powers of ‖M‖.
_STEPS = 80


@claim(instances="random graphs and energies", quantity="relative error")
def fp_translation_invariant(draw: Draw) -> Measurement:
    """If e depends on μ - v alone, fixed prediction comes to rest at ξ = δ.

    Energies with curvature between one and two: eighty steps, errors and lessons
    against autograd; for others the state that solves ∇ρ(ε) = δ, which a step leaves
    where it is. The spectrum of a step at rest is that of its diagonal blocks.
    """
    case = random_network(draw)
    energies = some(case, draw, STEEP)
    rule = Held(energies, (0.65,) * _STEPS)
    (*_, last) = all_states(case, rule)
    xi = {i: last.errors[i] for i in case.hidden}
    return worst(
        near(case, xi, case.delta),
        near_gradients(case, gradients(case, rule), case.parameter_gradients()),
        _stays(case, some(case, draw, {"cosh": INVARIANT["cosh"], **STEEP})),
        _spectrum_at_rest(case, energies),
    )


def _inverse(energy: Local, xi: Tensor) -> Tensor:
    """The ε whose slope is ξ, by bisection and Newton's method."""
    zero = torch.zeros_like(xi)

    def slope(error: Tensor) -> Tensor:
        return slopes({"i": energy}, {"i": error}, {"i": zero})[0]["i"]

    low, high = -1 - 3 * xi.abs(), 1 + 3 * xi.abs()
    for _ in range(20):
        middle = (low + high) / 2
        above = slope(middle) > xi
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    error = (low + high) / 2
    for _ in range(4):
        h = 1e-5
        curvature = (slope(error + h) - slope(error - h)) / (2 * h)
        error = error - (slope(error) - xi) / curvature
    return error


def _stays(case: Instance, energies: Energies) -> Measurement:
    """The state with ∇ρ(ε) = δ, before and after a step."""
    error = {i: _inverse(e, case.delta[i]) for i, e in energies.items()}
    start = {i: case.feedforward[i] - e for i, e in error.items()}
    seen: list[Values] = []
    all_states(case, Held(energies, (1.0,), start, seen))
    moved = stacked(case, seen[1]) - stacked(case, seen[0])
    size = np.abs(stacked(case, case.delta)).max()
    steep = 1 + max(float(torch.cosh(e).max()) for e in error.values())
    largest = 1 + max(float(v.abs().max()) for v in start.values())
    room = ROUNDING * case.linear.cancellation + 1e3 * UNIT * largest * steep / size
    return Measurement(np.abs(moved).max() / size, room * (1 + norm(case.linear.M)))


def _spectrum_at_rest(case: Instance, energies: Energies) -> Measurement:
    """det(zI - R) = Π(z - 1 + ηλ) for R = I - η(I - M)P, at a few z."""
    error = {i: _inverse(e, case.delta[i]) for i, e in energies.items()}
    curvature = []
    for i, e in energies.items():
        leaf = error[i].flatten().clone().requires_grad_()
        zero = torch.zeros_like(leaf)
        (first,) = torch.autograd.grad(e(leaf, zero), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), leaf)
        curvature.append(second.numpy())
    P = np.concatenate(curvature)
    eye = np.eye(len(P))
    step = eye - 0.65 * (eye - case.linear.M) * P
    off = []
    for z in (2.0, -1.5):
        sign, log = np.linalg.slogdet(z * eye - step)
        wanted = z - 1 + 0.65 * P
        off.append(abs(sign - np.sign(wanted).prod()))
        off.append(abs(log - np.log(np.abs(wanted)).sum()))
    M = case.linear.M
    condition = float(np.linalg.norm(np.linalg.inv(eye - M))) * (1 + norm(M))
    return Measurement(max(off), ROUNDING * condition * len(P) * 10)


@fp_translation_invariant.control
def precision_that_moves(draw: Draw) -> Measurement:
    """KL energies: the point of rest has another ξ."""
    case = curved(random_network(draw))
    energies = some(case, draw, {k: e for k, e in CURVED.items() if "Poiss" in k})
    size = _scale(case, energies, draw) * 10
    v = _at_rest(case, energies, size)
    xi, _ = slopes(energies, case.feedforward, v)
    return near(case, {i: x / size for i, x in xi.items()}, case.delta)


@fp_translation_invariant.control
def error_for_slope(draw: Draw) -> Measurement:
    """ε in place of ξ."""
    case = random_network(draw)
    energies = some(case, draw, STEEP)
    error = {i: _inverse(e, case.delta[i]) for i, e in energies.items()}
    return near(case, error, case.delta)


# ---- fixed prediction, precisions ----------------------------------------------------


@claim(instances="random graphs and precisions", quantity="relative error")
def fp_any_precision(draw: Draw) -> Measurement:
    """Whatever the precisions, fixed prediction comes to rest at Πε = δ.

    Random matrices: scalar steps until rest, from any start; steps aΠ⁻¹, every state of
    which is that of the plain rule with step a; the spectrum of a step, 1 - ηλ.
    """
    case = random_network(draw)
    metric = _matrices(case, draw)
    energies = {i: _quadratic(m) for i, m in metric.items()}
    start = random_values(case, draw)
    # Eigenvalues are between one and two: with steps of 2/3 the factor is at most 1/3.
    rest = Held(energies, (2 / 3,) * _STEPS, start)
    (*_, last) = all_states(case, rest)
    xi = {i: last.errors[i] for i in case.hidden}
    sizes = [draw.uniform(0.2, 1.0) for _ in range(3)] + [1.0] * case.depth
    inverse = {i: torch.linalg.inv(m) for i, m in metric.items()}
    steps = tuple({i: a * m for i, m in inverse.items()} for a in sizes)
    run = [
        {i: s.errors[i] for i in case.hidden}
        for s in all_states(case, Held(energies, steps))
    ]
    plain = [
        {i: s.errors[i] for i in case.hidden}
        for s in all_states(case, FixedPrediction(tuple(sizes)))
    ]
    lessons = gradients(case, rest)
    # ε is a difference of values, and Π at most doubles its roundings.
    largest = max(
        float(v.abs().max()) for v in (*last.values.values(), *start.values())
    )
    held = 2 * (1 + largest / case.size)
    return worst(
        near(case, xi, case.delta, held),
        near_gradients(case, lessons, case.parameter_gradients(), held),
        all_near(case, run, plain) if len(run) == len(plain) else _NEVER,
        _spectrum(case, metric, draw.uniform(0.2, 2.0)),
    )


_NEVER = Measurement(math.inf, 1.0)


def _spectrum(case: Instance, metric: Values, eta: float) -> Measurement:
    """det(zI - R) = Π(z - 1 + ηλ) for R = I - η(I - M)Π, at a few z; λ of the Πᵢ."""
    samples, M = np.eye(len(case.x)), case.linear.M
    P = np.zeros_like(M)
    for k, i in enumerate(case.linear.names):
        here = slice(k * case.x.numel(), (k + 1) * case.x.numel())
        P[here, here] = np.kron(samples, metric[i].numpy())
    eye = np.eye(len(P))
    step = eye - eta * (eye - M) @ P
    rates = np.linalg.eigvalsh(P)
    measured = []
    for z in (2.0, -5.0):  # 1 - ηλ is between -3 and one
        sign, log = np.linalg.slogdet(z * eye - step)
        wanted = z - 1 + eta * rates
        off = max(
            abs(sign - np.sign(wanted).prod()),
            abs(log - np.log(np.abs(wanted)).sum()),
        )
        # What log det moves by is at most tr(A⁻¹ΔA), A = zI - R.
        condition = float(np.linalg.cond(z * eye - step))
        measured.append(Measurement(float(off), ROUNDING * condition * len(P)))
    return worst(*measured)


def _matrices(case: Instance, draw: Draw) -> Values:
    """Symmetric matrices with eigenvalues between one and two, one for each vertex."""
    width, generator = case.x.shape[-1], draw.generator()
    found = {}
    for i in case.hidden:
        noise = torch.randn(width, width, generator=generator, dtype=torch.float64)
        turn, _ = torch.linalg.qr(noise)
        size = 1 + torch.rand(width, generator=generator, dtype=torch.float64)
        found[i] = turn @ torch.diag(size) @ turn.T
    return found


def _quadratic(matrix: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda mu, v: ((mu - v) @ matrix * (mu - v)).sum() / 2


@fp_any_precision.control
def unit_steps_only(draw: Draw) -> Measurement:
    """K unit steps, which are enough without precisions."""
    case = random_network(draw)
    metric = {i: 1.2 * m for i, m in _matrices(case, draw).items()}
    energies = {i: _quadratic(m) for i, m in metric.items()}
    (*_, last) = all_states(case, Held(energies, (1.0,) * case.depth))
    return near(case, {i: last.errors[i] for i in case.hidden}, case.delta)


@fp_any_precision.control
def bare_error(draw: Draw) -> Measurement:
    """ε in place of Πε."""
    case = random_network(draw)
    metric = _matrices(case, draw)
    bare = {i: case.delta[i] @ torch.linalg.inv(1.2 * m) for i, m in metric.items()}
    return near(case, bare, case.delta)


# ---- fixed prediction, any divergence ------------------------------------------------


@claim(instances="random graphs, KL energies", quantity="what is left over")
def fp_general_divergence_first_order(draw: Draw) -> Measurement:
    """With a loss of scale s, ξ/s = δ + s·(I - M)⁻¹½∇Π[u, u] + o(s) at rest, u = Π⁻¹δ.

    The point of rest by Newton's method, children first; a step of the rule leaves it
    where it is; what is left over falls with s, and after the term with s².
    """
    case = random_network(draw)
    energies = some(case, draw, ANY)
    size = _scale(case, energies, draw)
    return worst(_resting(case, energies, size), *_to_first_order(case, energies, size))


def _scale(case: Instance, energies: Energies, draw: Draw) -> float:
    """A hundredth of where errors are as large as what the slopes bend by."""
    pi, third = (entries(case, energies, w) for w in ("precision", "third"))
    u = stacked(case, case.delta) / pi
    back = float(np.linalg.norm(np.linalg.inv(np.eye(len(u)) - case.linear.M), 2))
    scales = (norm(u) * back, float(np.abs(third * u / pi).max()) * back)
    return draw.uniform(0.005, 0.01) / max(scales)


def _at_rest(case: Instance, energies: Energies, size: float) -> Values:
    """v with ζ = Mξ + s·g: one vertex after the other, children first."""
    lin = case.linear
    M = lin.M.reshape(len(lin.names), -1, len(lin.names), case.x.numel())
    g = dict(zip(lin.names, lin.g.reshape(len(lin.names), -1), strict=True))
    xi: dict[str, Array] = {}
    found: Values = {}
    for a in range(len(lin.names))[::-1]:
        i = lin.names[a]
        asked = size * g[i]
        for b in range(a + 1, len(lin.names)):
            asked = asked + M[a, :, b] @ xi[lin.names[b]]
        mu = case.feedforward[i]
        w = torch.from_numpy(asked).reshape(mu.shape)
        v = mu - w / energies[i].precision(mu)
        for _ in range(30):
            v, off = _towards(energies[i], mu, v, w)
            if off == 0:
                break
        found[i] = v
        xi[i] = slopes({i: energies[i]}, {i: mu}, {i: v})[0][i].flatten().numpy()
    return found


def _towards(energy: Local, mu: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor, float]:
    """A Newton step for -∂e/∂v = w, entry by entry, unless it is below rounding."""
    leaf = v.clone().requires_grad_()
    (first,) = torch.autograd.grad(energy(mu, leaf), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    move = (first.detach() + w) / second
    small = float(move.abs().max()) <= 4 * UNIT * (1 + float(v.abs().max()))
    return (v, 0.0) if small else (v - move, 1.0)


def _lost(case: Instance, energies: Energies) -> float:
    """Roundings of slopes, which are differences of numbers as large as the values."""
    pi = entries(case, energies, "precision")
    largest = 1 + max(float(v.abs().max()) for v in case.feedforward.values())
    back = float(np.linalg.norm(np.linalg.inv(np.eye(len(pi)) - case.linear.M)))
    return 64 * UNIT * largest * float(pi.max()) * back


def _resting(case: Instance, energies: Energies, size: float) -> Measurement:
    scaled = dataclasses.replace(case, outputs=_times(case.outputs, size), direct=())
    if case.direct:  # their loss has no factor of its own
        size, scaled = 1.0, case
        if not all(e.invariant for e in energies.values()):
            return Measurement(0.0, 1.0)
        energies = dict.fromkeys(energies, STEEP["square"])
    start = _at_rest(case, energies, size)
    seen: list[Values] = []
    all_states(scaled, Held(energies, (1.0,), start, seen))
    moved = np.abs(stacked(case, seen[1]) - stacked(case, seen[0])).max()
    asked = size * (1 + norm(case.linear.M)) * norm(case.linear.delta)
    return Measurement(moved, ROUNDING * asked + _lost(case, energies))


def _times(outputs: Mapping[str, Readout], size: float) -> dict[str, Readout]:
    return {o: _scaled(loss, size) for o, loss in outputs.items()}


def _scaled(loss: Readout, size: float) -> Readout:
    return lambda out, y: size * loss(out, y)


def _to_first_order(
    case: Instance, energies: Energies, size: float, share: float = 1.0
) -> list[Measurement]:
    pi, third = (entries(case, energies, w) for w in ("precision", "third"))
    delta = stacked(case, case.delta)
    back = np.eye(len(delta)) - case.linear.M
    term = np.linalg.solve(back, third * (delta / pi) ** 2 / 2)

    def left(s: float) -> tuple[float, float]:
        v = _at_rest(case, energies, s)
        xi, _ = slopes(energies, case.feedforward, v)
        rest = stacked(case, xi) / s - delta
        return norm(rest), norm(rest - share * s * term)

    pairs = zip(left(size), left(2 * size), strict=True)
    first, second = (max(pair) for pair in pairs)
    few_first, few_second = left(size / FACTOR)
    room = _lost(case, energies) / (size / FACTOR)
    room += ROUNDING * case.linear.cancellation * norm(delta)
    return [
        Measurement(few_first, SPARE / FACTOR * first + room),
        Measurement(few_second, SPARE / FACTOR**2 * second + room),
    ]


@fp_general_divergence_first_order.control
def as_if_exact(draw: Draw) -> Measurement:
    """Poisson vertices, without the first-order term."""
    case = curved(random_network(draw))
    energies = some(case, draw, {k: e for k, e in CURVED.items() if "Poiss" in k})
    size = _scale(case, energies, draw)
    right = _to_first_order(case, energies, size)[1].bound
    wrong = _to_first_order(case, energies, size, share=0.0)[1].error
    return Measurement(wrong, right)
