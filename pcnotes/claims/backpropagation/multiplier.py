"""The claim that δ is the multiplier of the constraint v = f(v)."""

from __future__ import annotations

import numpy as np
import torch

from ..draw import Draw
from ..instances import Instance
from ..measuring import (
    ROUNDING,
    cut_graph,
    near,
    near_gradients,
    norm,
    random_errors,
    random_values,
)
from ..networks import curved, random_network
from ..registry import Measurement, claim, worst
from ..vertices import Values


@claim(instances="random graphs", quantity="relative error")
def adjoint_is_multiplier(draw: Draw) -> Measurement:
    """ℓ(v) + λᵀ(f(v) - v) is stationary at v̂ and δ alone; there ∂_θ of it is dℓ/dθ.

    δ and dℓ/dθ from autograd on the uncut network, derivatives of the Lagrangian from
    autograd on its formula. At v̂ and a random λ the gradient in v is (I - M)(δ - λ); at
    random values the first error that is not zero is v̂ - v; near the stationary point
    the Lagrangian rises and falls.
    """
    case = random_network(draw)
    other, somewhere = random_errors(case, draw), random_values(case, draw)
    return worst(
        _stationary(case, case.delta),
        _parameters(case, case.feedforward),
        _force_off_the_price(case, other),
        _first_error(case, somewhere, draw.integer(0, len(case.hidden) - 1)),
        *(_slope_of_saddle(case, draw, sign) for sign in (1.0, -1.0)),
    )


def _in_values(case: Instance, lam: Values) -> Values:
    """∂𝓛/∂v at the feed-forward values."""
    leaves = {i: v.clone().requires_grad_() for i, v in case.feedforward.items()}
    whole = case.lagrangian(leaves, lam)
    return dict(
        zip(leaves, torch.autograd.grad(whole, list(leaves.values())), strict=True)
    )


def _stationary(case: Instance, lam: Values) -> Measurement:
    zeros = {i: torch.zeros_like(d) for i, d in lam.items()}
    return near(case, _in_values(case, lam), zeros)


def _parameters(case: Instance, values: Values) -> Measurement:
    found = case.gradients_of(case.lagrangian(values, case.delta))
    return near_gradients(case, found, case.parameter_gradients())


def _force_off_the_price(case: Instance, lam: Values) -> Measurement:
    lin = case.linear
    found, price = lin.stacked(_in_values(case, lam)), lin.stacked(lam)
    gap = lin.stacked(case.delta) - price
    terms = np.abs(price) + np.abs(lin.M) @ np.abs(price) + lin.sizes.sum(0)
    graph = cut_graph(case)
    pulled = lin.stacked(graph.pull(lam)) - price
    expected = gap - lin.M @ gap
    off = max(np.abs(found - expected).max(), np.abs(pulled - expected).max())
    return Measurement(float(off / terms.max()), ROUNDING)


def _first_error(case: Instance, moved: Values, first: int) -> Measurement:
    """Values that differ from v̂ from this vertex on: its constraint is broken."""
    kept = case.hidden[:first]
    values = {i: case.feedforward[i] if i in kept else v for i, v in moved.items()}
    i = case.hidden[first]
    with torch.no_grad():
        error = case.network.predict(i, values, case.x) - values[i]
    gap = case.feedforward[i] - values[i]
    return Measurement(norm(error - gap) / (norm(gap) + norm(values[i])), ROUNDING)


def _slope_of_saddle(case: Instance, draw: Draw, sign: float) -> Measurement:
    """𝓛(v̂ + h, δ + au) - 𝓛(v̂, δ) is a‖(J - I)h‖ up to o(h), of the sign of a.

    A bound of one: beyond it the sign would be wrong. The remainder is of order h.
    """
    lin, size = case.linear, case.size
    h = 1e-7 * lin.stacked(random_errors(case, draw))
    pushed = lin.M.T @ h - h
    a = sign * size
    moved = lin.named(a * pushed / norm(pushed))
    there = {i: case.feedforward[i] + d for i, d in lin.named(h).items()}
    price = {i: d + moved[i] for i, d in case.delta.items()}
    with torch.no_grad():
        rise = case.lagrangian(there, price)
        rise -= case.lagrangian(case.feedforward, case.delta)
    expected = a * norm(pushed)
    return Measurement(abs(float(rise) / expected - 1), 1.0)


@adjoint_is_multiplier.control
def direct_prices(draw: Draw) -> Measurement:
    """λ = g: what the loss itself pays, without what the children pay."""
    case = random_network(draw, least_depth=2)
    return _stationary(case, case.linear.named(case.linear.g))


@adjoint_is_multiplier.control
def the_other_sign(draw: Draw) -> Measurement:
    """λ = -δ, the multiplier of v - f(v)."""
    case = random_network(draw)
    return _stationary(case, {i: -d for i, d in case.delta.items()})


@adjoint_is_multiplier.control
def constraint_broken(draw: Draw) -> Measurement:
    """The gradient in the parameters at values that are not the feed-forward ones."""
    case = curved(random_network(draw, least_depth=2))
    return _parameters(case, random_values(case, draw))
