"""Claims about the size of steps: small ones are harmless, unit ones too long."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from ... import theory
from ...rules import Rule, Strict
from ..draw import Draw
from ..instances import Instance
from ..measuring import ROUNDING, all_states, largest, near, norm, random_values
from ..networks import any_network, chain, curved, furnished, random_network, squared
from ..registry import Measurement, claim, worst
from ..schemes import Live
from ..vertices import LOSSES, Network, Values, Vertex
from .levelled import OF_VALUES, levelled

# ---- small steps ---------------------------------------------------------------------


# Three sizes of small steps, each half of the one before, of both signs.
_STEPS = 0.01 * np.array([1, -1, 1 / 2, -1 / 2, 1 / 4, -1 / 4])


@claim(instances="random levelled graphs", quantity="relative error of the limit")
def zil_small_steps(draw: Draw) -> Measurement:
    """After n ≥ k small steps a vertex of level k holds C(n, k)·γᵏ·δ, to first order.

    Descents by autograd on the energy: ε/(C(n, k)γᵏ), and -(v - v̂) in the place of ε,
    extrapolated to γ = 0 from steps of three sizes and both signs. The package's
    descent with the largest of them ends where autograd's does.
    """
    case, n = levelled(draw, most_depth=3), draw.integer(3, 5)
    after = _after(case, n)
    rule = Strict(float(_STEPS[0]), n + 1)
    theirs = all_states(case, rule, n + 1)[n].errors
    ours = {i: e[0] for i, e in case.errors(after).items()}
    room = 1 + largest(case.feedforward) / case.size
    return worst(
        _limit(case, after, lambda k: math.comb(n, k)),
        near(case, {i: theirs[i] for i in ours}, ours, room),
    )


def _after(case: Instance, n: int) -> Values:
    """The values after n updates, with the steps as a leading axis."""
    steps = torch.from_numpy(_STEPS)[:, None, None]
    values = {i: v.expand(len(_STEPS), *v.shape) for i, v in case.feedforward.items()}
    for _ in range(n):
        slopes = case.slope(values, 1.0)
        values = {i: v - steps * slopes[i] for i, v in values.items()}
    return values


def _limit(case: Instance, after: Values, count: Callable[[int], float]) -> Measurement:
    """The quotients at γ = 0 against δ, by Romberg's extrapolation.

    Their mean at γ and -γ is even: δ + aγ² + bγ⁴ + cγ⁶ + … From γ and γ/2 one gets
    δ - bγ⁴/4 - …; from two of these δ + cγ⁶/64 + …, which differs from the better one
    of the two by bγ⁴/64 + …. So what the last extrapolation changes is more than what
    is left, by b/cγ². That is R²/γ² where the quotient, a power series in γ, converges
    up to R; the bound holds for R well above γ = 0.01.
    """
    errors, found = case.errors(after), []
    for i, k in case.distances[1].items():
        powers = count(k) * torch.from_numpy(_STEPS**k)[:, None, None]
        for held in (errors[i], case.feedforward[i] - after[i]):
            q = (held / powers).detach().unflatten(0, (3, 2)).mean(1)
            once = (4 * q[1:] - q[:-1]) / 3
            limit = (16 * once[1] - once[0]) / 15
            found.append((norm(limit - case.delta[i]), norm(limit - once[1])))
    off, changed = (max(column) / case.size for column in zip(*found, strict=True))
    smallest = float(np.abs(_STEPS).min()) ** case.depth
    room = OF_VALUES * largest(case.feedforward) / smallest / case.size
    return Measurement(off, changed + room + ROUNDING * case.linear.cancellation)


@zil_small_steps.control
def one_step_not_counted_in(draw: Draw) -> Measurement:
    """C(n - 1, k) in place of C(n, k)."""
    case, n = curved(levelled(draw, most_depth=2)), draw.integer(4, 5)
    return _limit(case, _after(case, n), lambda k: math.comb(n - 1, k))


@zil_small_steps.control
def two_lengths(draw: Draw) -> Measurement:
    """A shortcut to the loss; the exponent counts the long way."""
    case = curved(furnished(draw, chain(2), ["v1", "v2"]))
    n = draw.integer(3, 5)
    return _limit(case, _after(case, n), lambda k: math.comb(n, k))


# ---- unit steps are too long ---------------------------------------------------------


@claim(instances="random graphs, random linear graphs", quantity="relative error")
def unit_step_unstable(draw: Draw) -> Measurement:
    """An outgoing Jacobian of norm above one puts 2/λ_max below the unit step.

    The Hessian of E at v̂ by autograd against (I - J)ᵀ(I - J) + β∇²ℓ; λ_max against one
    plus the largest eigenvalue of any vertex's own block; in linear graphs the energy
    of every state against the sum over eigenvalues, for unit and other steps.
    """
    case, beta = any_network(draw), draw.uniform(0.1, 2.0)
    straight = _affine(draw)
    return worst(
        *_spectrum(case, beta, case.feedforward),
        *(_energies(straight, gamma) for gamma in (1.0, draw.uniform(0.1, 1.5))),
    )


def _spectrum(case: Instance, beta: float, values: Values) -> list[Measurement]:
    H = case.hessian(lambda v: case.energy(v, beta), values)
    of_loss = case.hessian(case.loss, values)
    slope = np.eye(len(H)) - case.linearise(values).M.T
    size = norm(slope) ** 2 + beta * norm(of_loss)
    steepest = np.linalg.eigvalsh(H)[-1]
    asked = slope.T @ slope + beta * of_loss
    promised = max(
        float(np.linalg.eigvalsh(asked[own, own])[-1])
        for own in case.linear.rows.values()
    )
    return [
        Measurement(norm(H - asked) / size, ROUNDING),
        Measurement(max(promised - steepest, 0.0) / size, ROUNDING),
    ]


def _affine(draw: Draw) -> Instance:
    """A graph of linear vertices, with half squares for the loss."""
    case = random_network(draw)
    generator, width = draw.generator(), case.x.shape[-1]
    for name, module in list(case.network.named_children()):
        if not isinstance(module, Vertex) or module.kind != "linear":
            parents = len(case.network.wiring[name])
            case.network.add_module(name, Vertex("linear", parents, width, generator))
    return squared(case)


def _energies(
    case: Instance, gamma: float, start_at: Values | None = None
) -> Measurement:
    """E of seven states of the package's rule against the closed form."""
    count = 6
    rule: Rule = Strict(gamma, count + 1)
    if start_at is not None:
        rule = Live([gamma] * count, start_at)
    found = np.array([float(s.energy) for s in all_states(case, rule, count + 1)])
    lin = case.linear
    slope = np.eye(len(lin.g)) - lin.M.T
    H = slope.T @ slope + case.hessian(case.loss, case.feedforward)
    start = float(case.loss(case.feedforward).detach())
    expected = theory.descent_energies(H, lin.g, start, gamma, count)
    # Roundings are not orthogonal to the fastest mode, and grow with it.
    fastest = np.abs(1 - gamma * np.linalg.eigvalsh(H)).max()
    terms = np.linalg.eigvalsh(H)[-1] * (1 + largest(case.feedforward)) ** 2
    sizes = (start + terms) * np.maximum(1, fastest) ** (2 * np.arange(count + 1))
    return Measurement(float((np.abs(found - expected) / sizes).max()), ROUNDING)


@unit_step_unstable.control
def hessian_elsewhere(draw: Draw) -> Measurement:
    """Away from the feed-forward pass, where errors meet second derivatives."""
    case = curved(random_network(draw, least_depth=2))
    return worst(*_spectrum(case, 1.0, random_values(case, draw)))


@unit_step_unstable.control
def a_start_elsewhere(draw: Draw) -> Measurement:
    """The closed form for a run that does not begin at the feed-forward pass."""
    case = _affine(draw)
    return _energies(case, 1.0, random_values(case, draw))


# ---- orthogonal chains ---------------------------------------------------------------


@claim(instances="random chains with orthogonal weights", quantity="relative error")
def zil_orthogonal_chain(draw: Draw) -> Measurement:
    """In a linear chain with orthogonal weights E(t) depends on L, ‖r‖ and t alone.

    Every state of the package's rule with unit steps against the closed form.
    """
    return _chain_energies(draw, scale=1.0)


def _chain_energies(draw: Draw, scale: float) -> Measurement:
    layers, width, batch = draw.integer(2, 8), draw.integer(1, 3), draw.integer(1, 3)
    generator = draw.generator()
    wiring = chain(layers - 1)
    names = list(wiring)
    wiring["out1"] = (names[-1],)
    modules = {i: Vertex("linear", 1, width, generator) for i in wiring}
    for name in [*names[1:], "out1"]:
        square = modules[name].weights.data[0]
        square.copy_(scale * torch.linalg.qr(square)[0])
    x, y = torch.randn(2, batch, width, generator=generator, dtype=torch.float64)
    case = Instance(Network(wiring, modules), x, y, {"out1": LOSSES["squares"]})
    count = 2 * layers
    run = all_states(case, Strict(1.0, count + 1), count + 1)
    found = [float(state.energy) for state in run]
    squared = 2 * float(case.closure().detach())
    expected = [
        theory.orthogonal_chain_energy(t, layers, squared) for t in range(count + 1)
    ]
    size = [max(squared, e, largest(case.feedforward) ** 2) for e in expected]
    off = [abs(a - b) / c for a, b, c in zip(found, expected, size, strict=True)]
    # Roundings of the size of v̂ excite the fastest mode, which grows threefold a step.
    return Measurement(max(off), ROUNDING * 3.0 ** (count / 2))


@zil_orthogonal_chain.control
def weights_too_large(draw: Draw) -> Measurement:
    """Orthogonal weights times 1.1."""
    return _chain_energies(draw, scale=1.1)
