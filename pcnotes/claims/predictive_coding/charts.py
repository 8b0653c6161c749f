"""The claim that values and shifts are two charts of one energy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...rules import ErrorOptimisation, Rule, Strict
from ..derivatives import hessian
from ..draw import Draw
from ..instances import Instance
from ..measuring import (
    ROUNDING,
    all_states,
    cut_graph,
    near,
    norm,
    random_errors,
    random_values,
    stacked,
)
from ..networks import curved, furnished, random_network
from ..registry import Measurement, claim, worst
from ..vertices import Values


@claim(instances="random graphs and shifts", quantity="relative error")
def unimodular_chart(draw: Draw) -> Measurement:
    """Values and shifts are two charts of one energy: equal volumes, critical points.

    At random shifts b: v(b) by one run of the whole network against the package, the
    determinant, E = ½‖b‖² + β·ℓ(v(b)), ∇_vE = (I - J)ᵀ∇_bE by two autograd graphs; one
    step in b from the feed-forward pass against δ; the Hessians at a critical point,
    and the one in v at the feed-forward pass.
    """
    case, scale = random_network(draw), draw.uniform(0.1, 10.0)
    shifts = random_errors(case, draw)
    gamma = draw.uniform(0.1, 1.0) / (scale * (1 + case.size))  # stays near v̂
    rule = ErrorOptimisation(step_size=gamma, steps=2, scale=scale)
    return worst(
        *_both_charts(case, scale, shifts),
        _first_step(case, rule, gamma * scale),
        _hessians(_small(draw), scale, draw, critical=True),
        _hessian_at_rest(_small(draw), scale),
    )


def _both_charts(case: Instance, scale: float, shifts: Values) -> list[Measurement]:
    leaves = {i: b.clone().requires_grad_() for i, b in shifts.items()}
    run = case.network(case.x, leaves)
    loss = case.loss_of(run)
    values = {i: run[i].detach() for i in case.hidden}
    adjoint = torch.stack(torch.autograd.grad(loss, [leaves[i] for i in case.hidden]))
    b = torch.stack([shifts[i] for i in case.hidden])
    in_shifts = b + scale * adjoint  # ∇_bE

    graph = cut_graph(case)
    at = graph.evaluate(errors={i: -e for i, e in shifts.items()})
    theirs = torch.stack([at.values[i] for i in case.hidden])
    ours = torch.stack([values[i] for i in case.hidden])
    adjoints = at.adjoints()
    found = torch.stack([adjoints[i] for i in case.hidden])

    lin = case.linearise(values)
    transposed = np.eye(len(lin.g)) - lin.M
    carried = torch.from_numpy(transposed) @ in_shifts.flatten()
    # Forming f(v) - v loses digits to the values, a product with I - Jᵀ to its size.
    larger = 1 + norm(ours) / max(norm(b), 1e-300)
    room = ROUNDING * larger * (1 + norm(lin.M))
    slope = stacked(case.slope(values, scale))
    terms = norm(in_shifts) * (1 + norm(lin.M)) + scale * norm(lin.g)
    energy = float(case.energy(values, scale).detach())
    loss = loss.detach()
    expected = float(b.square().sum() / 2 + scale * loss)
    # What cancels on the way to δ is measured with all signs taken away.
    inverse = np.linalg.inv(np.eye(len(lin.g)) - np.abs(lin.M))
    absolute = torch.from_numpy(inverse @ np.abs(lin.g))
    return [
        Measurement(norm(theirs - ours) / norm(ours), ROUNDING),
        # I - J is triangular: what LU may lose is its condition number.
        Measurement(
            abs(np.linalg.slogdet(transposed)[1]),
            ROUNDING * np.linalg.cond(transposed),
        ),
        Measurement(
            abs(energy - expected) / (norm(b) ** 2 + abs(scale * float(loss))), room
        ),
        Measurement(norm(carried - slope.flatten()) / terms, room),
        Measurement(norm(found - adjoint) / norm(absolute), ROUNDING),
    ]


def _first_step(case: Instance, rule: Rule, factor: float) -> Measurement:
    """The errors after one step from v̂ against the factor times δ."""
    errors = all_states(case, rule, 2)[1].errors
    found = {i: errors[i] / factor for i in case.hidden}
    return near(case, found, case.delta)


def _small(draw: Draw) -> Instance:
    """Curved, and small enough for Hessians: up to three vertices on two levels."""
    wiring = {"v1": (), "v2": ("v1",), "v3": ("v1", "v2")}
    return curved(furnished(draw, wiring, ["v3"]))


def _hessians(case: Instance, scale: float, draw: Draw, critical: bool) -> Measurement:
    """∇²_vE against (I - J)ᵀ∇²_bE(I - J) at random values.

    critical: a linear term is added to the loss, so that these values are a critical
    point of the energy.
    """
    values = random_values(case, draw)
    v = stacked(values)
    tilt = -stacked(case.slope(values, scale)) if critical else torch.zeros_like(v)

    def in_values(flat: Tensor) -> Tensor:
        return case.energy(case.named(flat), scale) + (flat @ tilt.flatten()).sum()

    def in_shifts(flat: Tensor) -> Tensor:
        run = case.network(case.x, case.named(flat))
        there = torch.stack([run[i] for i in case.hidden], dim=-3)
        tilted = scale * case.loss_of(run) + (tilt * there).sum()
        return flat.square().sum() / 2 + tilted

    b = -stacked(case.errors(values)).detach().flatten()
    outer = hessian(in_values, v.flatten()).numpy()
    inner = hessian(in_shifts, b).numpy()
    I_J = np.eye(len(b)) - case.linearise(values).M.T
    off = norm(outer - I_J.T @ inner @ I_J)
    room = ROUNDING * np.linalg.cond(I_J) ** 2  # v(b), and then two products
    return Measurement(off / (norm(I_J) ** 2 * norm(inner)), room)


def _hessian_at_rest(case: Instance, scale: float) -> Measurement:
    """∇²_vE = (I - J)ᵀ(I - J) + β·∇²ℓ at the feed-forward pass."""
    v = stacked(case.feedforward)
    whole = case.hessian(lambda u: case.energy(u, scale), case.feedforward)
    label = case.hessian(case.loss, case.feedforward)
    I_J = np.eye(len(whole)) - case.linear.M.T
    # ε = 0 up to the rounding of values, which multiplies the curvature of f.
    size = norm(I_J) ** 2 + scale * norm(label) + norm(v)
    off = norm(whole - I_J.T @ I_J - scale * label)
    return Measurement(off / size, ROUNDING)


@unimodular_chart.control
def first_step_in_values(draw: Draw) -> Measurement:
    """The first gradient step is taken in the values."""
    case = random_network(draw, least_depth=2)
    rule = Strict(step_size=0.01, steps=2)
    return _first_step(case, rule, 0.01)


@unimodular_chart.control
def not_a_critical_point(draw: Draw) -> Measurement:
    """The Hessians at values where the energy is not critical."""
    return _hessians(_small(draw), draw.uniform(0.1, 10.0), draw, critical=False)
