"""Claims about the two slopes of a local energy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...graph import cut
from ...objective import Objective
from ..draw import Draw
from ..instances import Instance
from ..measuring import ROUNDING, UNIT, norm, random_values
from ..networks import curved, random_network
from ..registry import Measurement, claim, worst
from ..vertices import Values
from .local_energies import (
    ANY,
    CURVED,
    Energies,
    Local,
    slopes,
    some,
    stacked,
    total,
)

# What is left over at a nudge and at a tenth of it, as in `nudging`.


@claim(instances="random graphs, energies and states", quantity="relative error")
def energy_two_slopes(draw: Draw) -> Measurement:
    """A vertex teaches by ∂e/∂μ and is pulled by -∂e/∂v; near zero error both are Πε.

    The package's force and lesson against autograd on the whole energy; the Hessian of
    e on the diagonal against Π and -Π; the gap ξ - ζ, zero if e depends on μ - v alone,
    against ½∇Π[ε, ε] in the limit of small errors.
    """
    case, beta = random_network(draw), draw.uniform(0.1, 3.0)
    energies = some(case, draw, ANY)
    name = draw.choice(list(ANY))
    return worst(
        *_forces(case, energies, random_values(case, draw), beta),
        _diagonal(ANY[name], draw),
        _gap(ANY[name], draw),
    )


def _forces(
    case: Instance, energies: Energies, v: Values, beta: float, taught: bool = True
) -> list[Measurement]:
    """taught: whether parents get ξ and the value ζ; else ζ twice, a control."""
    graph = cut(case.network, case.closure, case.at)
    objective = Objective(beta, energy={i: energies[i] for i in graph.hidden})
    at = graph.evaluate(v)
    errors = {i: at.predictions[i] - v[i] for i in v}
    both = objective.slopes(at, errors)
    if not taught:
        both = both._replace(taught=both.pulled)
    force = objective.force(at, both)
    leaves = {i: v[i].detach().clone().requires_grad_() for i in v}
    energy = total(case, energies, leaves, beta)
    found = torch.autograd.grad(energy, list(leaves.values()))
    lin = case.linearise(v)
    sizes = [norm(stacked(case, s)) for s in (both.taught, both.pulled)]
    terms = sum(sizes) * (1 + norm(lin.M)) + beta * norm(lin.g)
    wanted = stacked(case, dict(zip(leaves, found, strict=True)))
    off = norm(stacked(case, force) + wanted)

    names = {id(p): name for name, p in case.network.named_parameters()}
    ours: dict[str, Tensor] = {}
    for leaf, gradient in at.gradients(objective.lesson(both)):
        ours[names[id(leaf)]] = ours.get(names[id(leaf)], 0) + gradient
    truth = case.gradients_of(total(case, energies, v, beta) / beta)
    if ours.keys() != truth.keys():
        return [Measurement(math.nan, ROUNDING)]
    taught_terms = max(norm(g) for g in truth.values()) + norm(lin.g) + terms / beta
    late = max(norm(ours[n] - g) for n, g in truth.items())
    reads = 1 + max(float(v[i].abs().max()) for i in v) + float(case.x.abs().max())
    return [
        Measurement(off / terms, ROUNDING),
        Measurement(late / (taught_terms * reads), ROUNDING),
    ]


def _diagonal(energy: Local, draw: Draw) -> Measurement:
    """∂²e at v = μ: Π, -Π, -Π, Π."""
    mu = torch.tensor(draw.uniform(-2, 2), dtype=torch.float64)
    found = torch.autograd.functional.hessian(energy, (mu, mu.clone()))
    pi = energy.precision(mu)
    signs = ((1, -1), (-1, 1))
    off = max(
        float((found[a][b] - signs[a][b] * pi).abs()) for a in (0, 1) for b in (0, 1)
    )
    return Measurement(off / float(pi), ROUNDING)


def _gap(energy: Local, draw: Draw) -> Measurement:
    """(ξ - ζ)/ε² → ½Π′, from both sides and at ε and ε/2, extrapolated to zero."""
    mu = torch.tensor([draw.uniform(-2, 2)], dtype=torch.float64)
    size = 0.02

    def even(h: float) -> float:
        found = []
        for e in (h, -h):
            at, v = {"i": mu + e / 2}, {"i": mu - e / 2}
            xi, zeta = slopes({"i": energy}, at, v)
            found.append(float(xi["i"] - zeta["i"]) / h**2)
        return sum(found) / 2

    pi = float(energy.precision(mu))
    if energy.invariant:
        return Measurement(abs(even(size)) * size**2 / pi, ROUNDING)
    rough, fine = even(size), even(size / 2)
    limit = (4 * fine - rough) / 3
    room = abs(limit - rough) + 64 * UNIT * (1 + pi) / size**2
    return Measurement(abs(limit - float(energy.third(mu)) / 2), room)


@energy_two_slopes.control
def pulled_for_taught(draw: Draw) -> Measurement:
    """Children teach by what pulls their values, under a divergence."""
    case = curved(random_network(draw, least_depth=2))
    energies = some(case, draw, CURVED)
    return worst(*_forces(case, energies, random_values(case, draw), 1.0, False))
