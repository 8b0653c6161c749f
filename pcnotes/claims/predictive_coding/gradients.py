"""Claims about the energy's gradients: who is seen by whom, and where they vanish."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from ..draw import Draw
from ..instances import Instance
from ..measuring import (
    ROUNDING,
    evaluated,
    exactly,
    noise,
    norm,
    random_errors,
    random_values,
    stacked,
)
from ..networks import furnished, random_network
from ..registry import Measurement, claim, worst
from ..vertices import Product, Values, Vertex

# ---- gradients and locality ----------------------------------------------------------


@claim(instances="random graphs and states", quantity="relative error")
def energy_gradients(draw: Draw) -> Measurement:
    """The energy's gradients are made of a vertex's own error and its children's.

    The force on every value and the gradient in every parameter against autograd on
    the energy, with β ≠ 1. By autograd alone and bit for bit: a vertex's force depends
    on nothing but itself, parents, children and co-parents, its lesson on itself and
    parents; the message from a child that adds does not depend on the co-parent.
    """
    case, scale = random_network(draw), draw.uniform(0.1, 10.0)
    values = random_values(case, draw)
    others, i = _elsewhere(case, values, draw), draw.choice(case.hidden)
    return worst(
        _forces(case, scale, values, sign=1.0),
        _lessons(case, scale, values),
        exactly(_force_changes(case, i, values, others, _blanket(case, i))),
        exactly(_lesson_changes(case, i, values, others)),
        exactly(_message_changes(_adding(draw), draw)),
    )


def _forces(case: Instance, scale: float, values: Values, sign: float) -> Measurement:
    """∇_vE = -ε + Jᵀε + β·∂ℓ/∂v against autograd on E."""
    at, errors = evaluated(case, values)
    errors = {i: sign * e for i, e in errors.items()}
    asked = at.pull(errors, loss=scale)
    ours = torch.stack([asked[i] - errors[i] for i in case.hidden])
    found = stacked(case.slope(values, scale))
    lin = case.linearise(values)
    terms = norm(lin.stacked(errors)) * (1 + norm(lin.M)) + scale * norm(lin.g)
    return Measurement(norm(ours - found) / terms, ROUNDING)


def _lessons(case: Instance, scale: float, values: Values) -> Measurement:
    """∇_θE/β: what the package would put into `.grad`, against autograd on E."""
    at, errors = evaluated(case, values)
    errors = {i: e / scale for i, e in errors.items()}
    names = {id(p): name for name, p in case.network.named_parameters()}
    ours: dict[str, Tensor] = {}
    for leaf, gradient in at.gradients(errors):
        name = names[id(leaf)]
        ours[name] = ours[name] + gradient if name in ours else gradient
    found = case.gradients_of(case.energy(values, scale) / scale)
    if ours.keys() != found.keys():
        return Measurement(math.nan, ROUNDING)
    off = max(norm(ours[n] - found[n]) for n in found)
    separate = [
        case.gradients_of((case.network.predict(i, values, case.x) * errors[i]).sum())
        for i in case.hidden
        if list(case.network.get_submodule(i).parameters())
    ]
    separate.append(case.gradients_of(case.loss(values)))
    terms = sum(norm(g) for each in separate for g in each.values())
    return Measurement(off / terms, ROUNDING)


def _blanket(case: Instance, i: str) -> set[str]:
    """i, its parents, its children and their other parents; the loss is a child."""
    families = [{c, *above} for c, above in case.edges.items() if i in above]
    if i in case.loss_parents:
        families.append(set(case.loss_parents))
    return {i, *case.edges[i]}.union(*families)


def _elsewhere(case: Instance, values: Values, draw: Draw) -> Values:
    """Other values, every entry of which is different."""
    return {i: values[i] + 1 + e.square() for i, e in random_errors(case, draw).items()}


def _mixed(values: Values, others: Values, kept: Iterable[str]) -> Values:
    kept = set(kept)
    return {i: v if i in kept else others[i] for i, v in values.items()}


def _force_changes(
    case: Instance, i: str, values: Values, others: Values, kept: Iterable[str]
) -> float:
    """How many numbers of ∇E in v_i change when all values but `kept` do."""
    there = _mixed(values, others, kept)
    before, after = (case.slope(state, 1.0)[i] for state in (values, there))
    return float((before != after).sum())


def _lesson_changes(case: Instance, i: str, values: Values, others: Values) -> float:
    """The same for ∇E in the weights of i, which no other vertex shares."""
    name, there = f"{i}.weights", _mixed(values, others, {i, *case.edges[i]})
    before, after = (
        case.gradients_of(case.energy(state, 1.0)) for state in (values, there)
    )
    if name not in before:  # a product has no parameters
        return 0.0
    return float((before[name] != after[name]).sum())


def _adding(draw: Draw) -> nn.Module:
    """Adds a linear function of each of two parents."""
    return Vertex("linear", parents=2, width=3, generator=draw.generator())


def _message_changes(child: nn.Module, draw: Draw) -> float:
    """How many numbers of J_ciᵀε_c change with the other parent, for a fixed ε_c."""
    own, one, other, error = noise(draw, 4, 2, 3)
    messages = []
    for coparent in (one, other):
        leaf = own.clone().requires_grad_()
        prediction = child(torch.tanh(leaf), torch.tanh(coparent))
        messages += torch.autograd.grad((prediction * error).sum(), leaf)
    return float((messages[0] != messages[1]).sum())


@energy_gradients.control
def error_with_the_other_sign(draw: Draw) -> Measurement:
    """Value minus prediction in the same formula."""
    case = random_network(draw)
    return _forces(case, draw.uniform(0.1, 10.0), random_values(case, draw), sign=-1.0)


@energy_gradients.control
def coparent_moves(draw: Draw) -> Measurement:
    """The other parent of a child is not counted as seen."""
    wiring = {"v1": (), "v2": (), "v3": ("v1", "v2")}
    case = furnished(draw, wiring, ["v3"])
    values = random_values(case, draw)
    others = _elsewhere(case, values, draw)
    kept = _blanket(case, "v1") - {"v2"}
    return exactly(_force_changes(case, "v1", values, others, kept))


@energy_gradients.control
def child_multiplies(draw: Draw) -> Measurement:
    """The child is a product of its two parents."""
    return exactly(_message_changes(Product(), draw))


# ---- the feed-forward pass -----------------------------------------------------------


@claim(instances="random graphs", quantity="relative error")
def feedforward_is_minimum(draw: Draw) -> Measurement:
    """The feed-forward pass is the only critical point of E₀; only loss parents feel ℓ.

    At v̂: errors exactly zero, force β·g, exactly zero away from the loss. At random
    values: the gradient against autograd on E, and ‖∇E₀‖ ≥ σ_min(I - A)·‖ε‖.
    """
    case = random_network(draw)
    return worst(
        _force_of_the_loss(case, draw.uniform(0.1, 10.0), case.feedforward),
        _gradient_bounds_errors(case, random_values(case, draw)),
    )


@feedforward_is_minimum.control
def moved_away(draw: Draw) -> Measurement:
    """The values are not the feed-forward ones."""
    case = random_network(draw, least_depth=2)
    return _force_of_the_loss(case, draw.uniform(0.1, 10.0), random_values(case, draw))


def _force_of_the_loss(case: Instance, scale: float, values: Values) -> Measurement:
    at, errors = evaluated(case, values)
    force = at.pull(errors, loss=scale)
    g = case.linear.named(case.linear.g)
    far = [force[i] for i in case.hidden if i not in case.loss_parents]
    size = max(norm(x) for x in g.values())
    off = max(norm(force[i] - errors[i] - scale * g[i]) for i in case.hidden)
    silent = [int((e != 0).sum()) for e in [*errors.values(), *far]]
    return worst(
        exactly(float(sum(silent))), Measurement(off / (scale * size), ROUNDING)
    )


def _gradient_bounds_errors(case: Instance, values: Values) -> Measurement:
    at, errors = evaluated(case, values)
    pulled = at.pull(errors, loss=0.0)
    ours = torch.stack([pulled[i] - errors[i] for i in case.hidden])
    found = stacked(case.slope(values))
    gradient = norm(found)
    A = case.linearise(values).M.T
    least = np.linalg.svd(np.eye(len(A)) - A, compute_uv=False)[-1]
    excess = least * norm(stacked(errors)) / gradient - 1
    allowed = ROUNDING * (1 + norm(A)) / least  # what forming A and ε may lose
    return worst(
        Measurement(norm(ours - found) / gradient, allowed),
        Measurement(max(excess, 0.0), allowed),
    )
