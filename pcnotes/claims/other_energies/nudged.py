"""Claims about nudging under other energies.

Equilibria are found in shifts, with the network run as a whole; the package comes in
where it computes the force on the values and the lesson.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...graph import cut
from ...objective import Objective
from ...theory import Array
from ..draw import Draw
from ..equilibria import named, shifted, values
from ..instances import Instance
from ..measuring import ROUNDING, UNIT, norm
from ..networks import curved, random_network
from ..registry import Measurement, claim, worst
from .local_energies import (
    ANY,
    CURVED,
    Energies,
    entries,
    in_shifts,
    slopes,
    some,
    stacked,
)

# What is left over at a nudge and at a tenth of it, as in `nudging`.


# What is left over at a nudge and at a tenth of it, as in `nudging`.
FACTOR = 10.0
SPARE = 1.5


@dataclass(frozen=True)
class Balance:
    """An equilibrium under local energies: its shifts, ξ/β, and what rounding left."""

    b: Array
    taught: Array
    pulled: Array
    room: float


def settle(case: Instance, energies: Energies, beta: float) -> Balance:
    """The equilibrium on the branch from the feed-forward pass, by Newton's method.

    beta may be negative. Starts at b = -βΠ⁻¹δ.
    """
    landscape = in_shifts(case, energies, beta)
    pi = entries(case, energies, "precision")
    b = -beta * stacked(case, case.delta) / pi
    least, best, matrix = math.inf, b, np.eye(len(b))
    for _ in range(8):
        slope, matrix = landscape.both(b)
        residual = norm(slope)
        done = not residual < least / 2
        if residual < least:
            best, least = b, residual
        if done or residual == 0:
            break
        b = b - np.linalg.solve(matrix, slope)
    at = values(case, best)
    predicted = {i: at[i] - s for i, s in named(case, best).items()}
    xi, zeta = slopes(energies, predicted, at)
    largest = 1 + max(float(v.abs().max()) for v in at.values())
    steep = float(pi.max()) * float(np.linalg.norm(np.linalg.inv(matrix), 2))
    carried = (1 + norm(case.linear.M)) * (1 + float(case.linear.sizes.sum(0).max()))
    # Slopes are differences of numbers of the size of the values.
    room = (least + 64 * UNIT * largest * float(pi.max()) * carried) * (1 + steep)
    taught, pulled = (stacked(case, s) / beta for s in (xi, zeta))
    return Balance(best, taught, pulled, room / abs(beta))


def _small(case: Instance, energies: Energies, draw: Draw) -> float:
    """A nudge a hundred times below where first-order terms are as large as δ.

    In units of 1/β: how much larger than the values shifts u = Π⁻¹δ are, how fast the
    slopes bend at such errors, the curvature of the loss and what it changes by.
    """
    pi, third = (entries(case, energies, w) for w in ("precision", "third"))
    delta, curvature = shifted(case).both(np.zeros(len(pi)))
    u = delta / pi
    back = float(np.linalg.norm(np.linalg.inv(np.eye(len(u)) - case.linear.M), 2))
    weighed = float(np.linalg.norm(curvature / pi, 2))
    step = 0.1 / max(norm(u), weighed)
    change = (shifted(case).curvature(-step * u) - curvature) / pi
    scales = (
        norm(u) * back,
        float(np.abs(third * u / pi).max()) * back,
        weighed,
        math.sqrt(float(np.linalg.norm(change, 2)) / step),
    )
    return draw.uniform(0.005, 0.01) / max(scales)


def _first_order(case: Instance, energies: Energies) -> Array:
    """(I - M)⁻¹[½∇Π[u, u] - Q(I - J)⁻¹u] with u = Π⁻¹δ; ℋ(0) by autograd."""
    pi, third = (entries(case, energies, w) for w in ("precision", "third"))
    u = stacked(case, case.delta) / pi
    back = np.eye(len(u)) - case.linear.M
    moving = np.linalg.solve(back, third * u**2 / 2)
    found: Array = moving - shifted(case).curvature(np.zeros(len(u))) @ u
    return found


def _to_first_order(
    case: Instance, energies: Energies, beta: float, share: float = 1.0
) -> Measurement:
    """ξ/β - δ falls with β; after its first-order term with β²."""
    delta, term = stacked(case, case.delta), share * _first_order(case, energies)

    def left(beta: float) -> list[float]:
        found = settle(case, energies, beta)
        rest = [norm(s - delta) for s in (found.taught, found.pulled)]
        return [*rest, norm(found.taught - delta - beta * term), found.room]

    pairs = zip(left(beta), left(2 * beta), strict=True)
    taught, pulled, second, _ = (max(pair) for pair in pairs)
    few_taught, few_pulled, few_second, room = left(beta / FACTOR)
    return worst(
        Measurement(few_taught, SPARE / FACTOR * taught + room),
        Measurement(few_pulled, SPARE / FACTOR * pulled + room),
        Measurement(few_second, SPARE / FACTOR**2 * second + room),
    )


@claim(instances="random graphs and energies", quantity="what is left over")
def nudge_any_divergence(draw: Draw) -> Measurement:
    """Under any regular energy ξ/β tends to δ, with the first-order term of the book.

    The equilibrium by Newton's method on the energy in shifts, at β and at β/10; the
    force that the package computes there is zero.
    """
    case = random_network(draw)
    energies = some(case, draw, ANY)
    beta = _small(case, energies, draw)
    return worst(_to_first_order(case, energies, beta), _rests(case, energies, beta))


def _rests(case: Instance, energies: Energies, beta: float) -> Measurement:
    found = settle(case, energies, beta)
    graph = cut(case.network, case.closure, case.at)
    at = graph.evaluate(values(case, found.b))
    objective = Objective(beta, energy={i: energies[i] for i in graph.hidden})
    both = objective.slopes(at, at.zeros())
    force = norm(stacked(case, objective.force(at, both))) / beta
    return Measurement(force, found.room * (1 + norm(case.linear.M)) * 4)


@nudge_any_divergence.control
def metric_held(draw: Draw) -> Measurement:
    """Poisson vertices, without the term that the moving precision adds."""
    case = curved(random_network(draw))
    energies = some(case, draw, {k: e for k, e in CURVED.items() if "Poiss" in k})
    beta = _small(case, energies, draw)
    pi, third = (entries(case, energies, w) for w in ("precision", "third"))
    u = stacked(case, case.delta) / pi
    back = np.eye(len(u)) - case.linear.M
    moving = np.linalg.solve(back, third * u**2 / 2)
    whole = _first_order(case, energies)
    found = settle(case, energies, beta / FACTOR)
    rest = norm(
        found.taught - stacked(case, case.delta) - beta / FACTOR * (whole - moving)
    )
    large = settle(case, energies, beta)
    kept = norm(large.taught - stacked(case, case.delta) - beta * whole)
    return Measurement(rest, SPARE / FACTOR**2 * kept + found.room)


@nudge_any_divergence.control
def error_not_weighted(draw: Draw) -> Measurement:
    """ε/β in place of ξ/β, where precisions are not one."""
    case = random_network(draw)
    energies = some(case, draw, {k: e for k, e in CURVED.items() if "Bern" in k})
    beta = _small(case, energies, draw)
    delta = stacked(case, case.delta)
    small, large = (settle(case, energies, b) for b in (beta / FACTOR, beta))
    rest = norm(-small.b / (beta / FACTOR) - delta)
    return Measurement(rest, SPARE / FACTOR * norm(large.taught - delta) + small.room)


@dataclass(frozen=True)
class Power:
    """‖ε‖ᵖ/p, of all entries of a vertex together; its slope is ‖ε‖ᵖ⁻²ε."""

    p: float

    def __call__(self, mu: Tensor, v: Tensor) -> Tensor:
        return torch.linalg.vector_norm(mu - v) ** self.p / self.p

    def error(self, xi: Tensor) -> Tensor:
        """The ε whose slope is ξ."""
        q = self.p / (self.p - 1)
        return torch.linalg.vector_norm(xi) ** (q - 2) * xi


@claim(instances="random graphs, powers of the error", quantity="relative error")
def nudge_flat_energies(draw: Draw) -> Measurement:
    """With e = ‖ε‖ᵖ/p, ξ/β is the shifted network's adjoint; ε falls like β^(1/(p-1)).

    The equilibrium by Newton's method on λ = ∇ℓ̄(-ε(βλ)); the adjoint by autograd, the
    force on the values by the package, and both bounds of the book, with the curvature
    along the segment.
    """
    case = random_network(draw)
    power = Power(draw.choice((2.0, 1.5, 3.0, 4.0)))
    found = _flat(case, power, draw)
    return worst(_still(case, power, found), *_bounds(case, power, found))


def _flat(case: Instance, power: Power, draw: Draw) -> tuple[float, Array, Array]:
    """(β, λ, ε) with λ = ∇ℓ̄(-ε), ε = ε(βλ), β small enough for Newton's method."""
    landscape = shifted(case)
    zero = np.zeros(landscape.size)
    scaled, curvature = landscape.both(zero)
    beta = draw.uniform(0.5, 1.0)
    while True:
        error, slope = _error(case, power, beta * scaled)
        strength = np.linalg.norm(curvature @ slope, 2) * beta
        if strength < 0.1 and norm(error) < 0.1:
            break
        beta /= 4
    least, best = math.inf, scaled
    for _ in range(40):
        error, slope = _error(case, power, beta * scaled)
        gradient, curvature = landscape.both(-error)
        off = scaled - gradient
        if not norm(off) < least:
            break
        best, least = scaled, norm(off)
        matrix = np.eye(len(off)) + beta * curvature @ slope
        scaled = scaled - np.linalg.solve(matrix, off)
    return beta, best, _error(case, power, beta * best)[0]


def _error(case: Instance, power: Power, xi: Array) -> tuple[Array, Array]:
    """ε of all vertices at ξ, and its Jacobian in ξ."""
    q = power.p / (power.p - 1)
    size = case.x.numel()
    error, slope = np.zeros_like(xi), np.zeros((len(xi), len(xi)))
    for k in range(0, len(xi), size):
        part, here = xi[k : k + size], slice(k, k + size)
        length = max(norm(part), 1e-300)
        error[here] = length ** (q - 2) * part
        turn = np.outer(part, part) / length**2
        slope[here, here] = length ** (q - 2) * (np.eye(size) + (q - 2) * turn)
    return error, slope


def _still(
    case: Instance, power: Power, found: tuple[float, Array, Array]
) -> Measurement:
    """The package's force at these values, relative to β times the adjoint."""
    beta, scaled, error = found
    graph = cut(case.network, case.closure, case.at)
    v = values(case, -error)
    at = graph.evaluate(v)
    objective = Objective(beta, energy=power)
    both = objective.slopes(at, at.zeros())
    force = norm(stacked(case, objective.force(at, both)))
    lin = case.linearise(v)
    size = case.x.numel()
    lengths = [norm(error[k : k + size]) for k in range(0, len(error), size)]
    # ε is a difference of values; its roundings are as large as theirs.
    largest = 1 + max(float(t.abs().max()) for t in v.values())
    lost = 64 * UNIT * largest * power.p * sum(e ** (power.p - 2) for e in lengths)
    terms = beta * (norm(scaled) * (1 + norm(lin.M)) + norm(lin.g))
    return Measurement(force, ROUNDING * terms + lost * (1 + norm(lin.M)))


def _bounds(
    case: Instance, power: Power, found: tuple[float, Array, Array], own: float = 0.0
) -> list[Measurement]:
    """‖ε‖ ≤ (β‖λ‖/c)^(1/(p-1)) and ‖λ - δ‖ ≤ Λ‖ε‖. own: another p, a control."""
    beta, scaled, error = found
    p = own or power.p
    c = min(1.0, len(case.hidden) ** (1 - power.p / 2))
    lin, landscape = case.linear, shifted(case)
    steepest = max(
        float(np.linalg.norm(landscape.curvature(-s * error), 2))
        for s in np.linspace(0, 1, 9)
    )
    room = ROUNDING * (lin.cancellation * norm(scaled) + steepest)
    reach = (beta * norm(scaled) / c) ** (1 / (p - 1))
    # Nine points of the segment stand for its largest curvature.
    return [
        Measurement(norm(error), reach * (1 + ROUNDING)),
        Measurement(norm(scaled - lin.delta), 1.1 * steepest * reach + room),
    ]


@nudge_flat_energies.control
def as_if_quadratic(draw: Draw) -> Measurement:
    """The quartic's errors held against the quadratic's bound, at a small nudge."""
    case, power = random_network(draw), Power(4.0)
    beta, scaled, error = _flat(case, power, draw)
    tiny = beta
    while norm(error) < 100 * tiny * norm(scaled) * len(case.hidden):
        tiny /= 8
        scaled = case.linear.delta
        error = _error(case, power, tiny * scaled)[0]
    return _bounds(case, power, (tiny, scaled, error), own=2.0)[0]


@nudge_flat_energies.control
def error_for_slope(draw: Draw) -> Measurement:
    """ε/β in place of ξ/β under the quartic."""
    case, power = random_network(draw), Power(4.0)
    beta, scaled, error = _flat(case, power, draw)
    return Measurement(norm(error / beta - scaled), ROUNDING * norm(scaled))
