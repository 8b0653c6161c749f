"""Claims about the energy of predictive coding: where it comes from, what it sees."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MultivariateNormal, Normal

from .. import learning
from ..graph import Graph, cut
from ..objective import Objective
from ..rules import ErrorOptimisation, Rule, Strict
from ..theory import Array, distances
from .draw import Draw
from .measuring import (
    ROUNDING,
    exactly,
    near,
    norm,
    random_errors,
    random_values,
)
from .networks import (
    LOSSES,
    Instance,
    Network,
    Product,
    Readout,
    Values,
    Vertex,
    curved,
    furnished,
    random_network,
)
from .registry import Measurement, claim, worst

# ---- the energy and its model --------------------------------------------------------


@claim(instances="random graphs and variances", quantity="relative error")
def energy_is_log_joint(draw: Draw) -> Measurement:
    """Minus the log of the joint density is the energy plus a constant without θ.

    The package's energy against log-densities from `torch.distributions`, at two
    states of two networks that differ in θ, with the constant in closed form, for
    variances that are shared (E_β/σ², β = σ²/κ) or not; the quadratic form with full
    covariances; the integral of exp(-E₀) over all values of three random vertices.
    """
    model = _random_model(draw)
    return worst(
        _against_densities(model, draw),
        _against_densities(_other_parameters(model, draw), draw),
        _full_covariances(model.case, draw),
        _integral(_random_triangle(draw)),
    )


class _Model(NamedTuple):
    """variance: of each hidden vertex, by entry; noise: of a Gaussian output, κ.

    shared: σ², if all variances are this one.
    """

    case: Instance
    variance: Values
    noise: float
    labels: Tensor | None  # classes, if the output is categorical
    shared: float | None


def _random_model(draw: Draw) -> _Model:
    case = random_network(draw)
    generator = draw.generator()
    shape = case.x.shape
    variance = {
        i: torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1
        for i in case.hidden
    }
    labels = None
    if draw.integer(0, 1):
        labels = torch.randint(shape[1], shape[:1], generator=generator)
    noise = draw.uniform(0.1, 10.0) if labels is None else 1.0
    shared = draw.uniform(0.1, 10.0) if draw.integer(0, 1) else None
    if shared is not None:
        variance = {i: torch.full_like(v, shared) for i, v in variance.items()}
    return _Model(_with_likelihood(case, labels), variance, noise, labels, shared)


def _with_likelihood(case: Instance, labels: Tensor | None) -> Instance:
    loss = LOSSES["squares"] if labels is None else _class_loss(labels)
    return dataclasses.replace(
        case, outputs=dict.fromkeys(case.outputs, loss), direct=()
    )


def _class_loss(labels: Tensor) -> Readout:
    return lambda out, y: torch.nn.functional.cross_entropy(
        out, labels, reduction="sum"
    )


def _other_parameters(model: _Model, draw: Draw) -> _Model:
    network = copy.deepcopy(model.case.network)
    generator = draw.generator()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / 2)
    case = dataclasses.replace(model.case, network=network)
    return model._replace(case=case)


def _against_densities(model: _Model, draw: Draw) -> Measurement:
    """-log p(v, y | x) - E against the constant, relative to the terms."""
    case, values = model.case, random_values(model.case, draw)
    if model.shared is None:
        precision = {i: 1 / variance for i, variance in model.variance.items()}
        energy = float(
            _energy(_cut(case), Objective(1 / model.noise, precision), values)
        )
    else:
        objective = Objective(model.shared / model.noise)
        energy = float(_energy(_cut(case), objective, values)) / model.shared
    joint, constant, size = 0.0, 0.0, abs(energy)
    for i, variance in model.variance.items():
        mu = case.network.predict(i, values, case.x).detach()
        terms = Normal(mu, variance.sqrt()).log_prob(values[i])
        joint -= float(terms.sum())
        constant += float((2 * math.pi * variance).log().sum()) / 2
    for o in case.outputs:
        out = case.network.predict(o, values, case.x).detach()
        if model.labels is None:
            joint -= float(Normal(out, model.noise**0.5).log_prob(case.y).sum())
            constant += out.numel() * math.log(2 * math.pi * model.noise) / 2
        else:
            joint -= float(Categorical(logits=out).log_prob(model.labels).sum())
    size += abs(joint) + abs(constant)
    return Measurement(abs(joint - energy - constant) / size, ROUNDING)


def _full_covariances(case: Instance, draw: Draw) -> Measurement:
    """-log p(v | x) = ½ΣεᵀΠε + log Z_v, with correlated entries in every vertex."""
    values, generator = random_values(case, draw), draw.generator()
    joint = formula = size = 0.0
    for i in case.hidden:
        root = torch.randn(2 * [case.x.numel()], generator=generator).double()
        covariance = torch.eye(len(root)).double() + root @ root.T
        mu = case.network.predict(i, values, case.x).detach()
        model = MultivariateNormal(mu.flatten(), covariance)
        joint -= float(model.log_prob(values[i].flatten()))
        error = (mu - values[i]).flatten().numpy()
        squares = float(error @ np.linalg.solve(covariance.numpy(), error)) / 2
        volume = float(np.linalg.slogdet(2 * math.pi * covariance.numpy())[1]) / 2
        formula += squares + volume
        # Solving loses what the condition number says; log-determinants add up.
        size += abs(volume) + squares * float(torch.linalg.cond(covariance))
    return Measurement(abs(joint - formula) / size, ROUNDING)


def _cut(case: Instance) -> Graph:
    return cut(case.network, case.closure, case.at)


def _energy(graph: Graph, objective: Objective, values: Values) -> Tensor:
    at = graph.evaluate(values)
    errors = {i: at.predictions[i] - v for i, v in values.items()}
    return objective.value(at, errors)


# The trapezoidal rule with step h integrates a Gaussian of width one up to
# 2exp(-2π²/h²), wherever its mean is, and ten widths beyond the mean nothing is left.
_GRID = np.arange(-12.0, 12.25, 0.5)


class _Triangle(NamedTuple):
    """Three scalar vertices: each prediction is a bounded function of earlier ones.

    loop: how strongly vertex 1 is predicted from vertex 2, which closes a cycle.
    swing: how much the precision of vertex 2 varies with vertex 1.
    """

    weights: Tensor
    loop: float = 0.0
    swing: float = 0.0


def _random_triangle(draw: Draw) -> _Triangle:
    return _Triangle(torch.randn(3, generator=draw.generator(), dtype=torch.float64))


def _integral(triangle: _Triangle) -> Measurement:
    """∫exp(-E₀) against (2π)^(3/2), which no weight enters."""
    a, b, c = triangle.weights.tolist()
    v1, v2, v3 = np.meshgrid(_GRID, _GRID, _GRID, indexing="ij", sparse=True)
    precision = np.exp(triangle.swing * np.tanh(v1))
    first = (v1 - triangle.loop * np.sin(v2)) ** 2
    # At loop = 0 this is a graph; v2 is linear in v1 only where it closes a cycle.
    mu2 = 2 * np.sin(a * v1) if not triangle.loop else triangle.loop * v1
    squares = first + precision * (v2 - mu2) ** 2
    squares = squares + (v3 - np.sin(b * v1) - np.tanh(c * v2)) ** 2
    total = float(np.exp(-squares / 2).sum() * 0.5**3)
    return Measurement(abs(total / (2 * math.pi) ** 1.5 - 1), ROUNDING)


@energy_is_log_joint.control
def vertices_in_a_cycle(draw: Draw) -> Measurement:
    """Two vertices predict each other, so the normaliser depends on the weights."""
    return _integral(_random_triangle(draw)._replace(loop=draw.uniform(0.2, 0.8)))


@energy_is_log_joint.control
def precision_moves(draw: Draw) -> Measurement:
    """A precision depends on a value, and its log-determinant is left out."""
    return _integral(_random_triangle(draw)._replace(swing=draw.uniform(0.5, 2.0)))


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
    at = _cut(case).evaluate(values)
    errors = {i: sign * (at.predictions[i] - v) for i, v in values.items()}
    asked = at.pull(errors, loss=scale)
    ours = torch.stack([asked[i] - errors[i] for i in case.hidden])
    found = _slope(case, scale, values)
    lin = case.linearise(values)
    terms = norm(lin.stacked(errors)) * (1 + norm(lin.M)) + scale * norm(lin.g)
    return Measurement(norm(ours - found) / terms, ROUNDING)


def _slope(case: Instance, scale: float, values: Values) -> Tensor:
    """∇_vE by autograd, stacked."""
    leaves = {i: v.detach().requires_grad_() for i, v in values.items()}
    energy = case.energy(leaves, scale)
    return torch.stack(torch.autograd.grad(energy, [leaves[i] for i in case.hidden]))


def _lessons(case: Instance, scale: float, values: Values) -> Measurement:
    """∇_θE/β: what the package would put into `.grad`, against autograd on E."""
    at = _cut(case).evaluate(values)
    errors = {i: (at.predictions[i] - v) / scale for i, v in values.items()}
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
    row = case.hidden.index(i)
    there = _mixed(values, others, kept)
    before, after = (_slope(case, 1.0, state)[row] for state in (values, there))
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
    own, one, other, error = torch.randn(
        4, 2, 3, generator=draw.generator(), dtype=torch.float64
    )
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
    graph = cut(case.network, case.closure, case.at)
    at = graph.evaluate(values)
    errors = {i: at.predictions[i] - v for i, v in values.items()}
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
    at = cut(case.network, case.closure, case.at).evaluate(values)
    errors = {i: at.predictions[i] - v for i, v in values.items()}
    pulled = at.pull(errors, loss=0.0)
    ours = torch.stack([pulled[i] - errors[i] for i in case.hidden])
    leaves = {i: v.detach().requires_grad_() for i, v in values.items()}
    found = torch.autograd.grad(case.energy(leaves), list(leaves.values()))
    gradient = norm(torch.stack(found))
    A = case.linearise(values).M.T
    least = np.linalg.svd(np.eye(len(A)) - A, compute_uv=False)[-1]
    excess = least * norm(torch.stack(list(errors.values()))) / gradient - 1
    allowed = ROUNDING * (1 + norm(A)) / least  # what forming A and ε may lose
    return worst(
        Measurement(norm(ours - torch.stack(found)) / gradient, allowed),
        Measurement(max(excess, 0.0), allowed),
    )


# ---- the unimodular chart ------------------------------------------------------------


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

    graph = _cut(case)
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
    slope = _slope(case, scale, values)
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
    states = learning.infer(case.network, case.closure, rule, case.at)
    errors = next(itertools.islice(states, 1, None)).errors  # the next may diverge
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
    names, shape = case.hidden, tuple(case.x.shape)
    v = torch.stack([values[i] for i in names])
    tilt = -_slope(case, scale, values) if critical else torch.zeros_like(v)

    def in_values(flat: Tensor) -> Tensor:
        state = dict(zip(names, flat.view(-1, *shape), strict=True))
        return case.energy(state, scale) + (tilt.flatten() * flat).sum()

    def in_shifts(flat: Tensor) -> Tensor:
        shifts = dict(zip(names, flat.view(-1, *shape), strict=True))
        run = case.network(case.x, shifts)
        there = torch.stack([run[i] for i in names])
        tilted = scale * case.loss_of(run) + (tilt * there).sum()
        return flat.square().sum() / 2 + tilted

    predictions = [case.network.predict(i, values, case.x) for i in names]
    b = (v - torch.stack(predictions)).detach().flatten()
    hessian = torch.autograd.functional.hessian
    outer: Array = hessian(in_values, v.flatten(), vectorize=True).numpy()
    inner: Array = hessian(in_shifts, b, vectorize=True).numpy()
    I_J = np.eye(len(b)) - case.linearise(values).M.T
    off = norm(outer - I_J.T @ inner @ I_J)
    room = ROUNDING * np.linalg.cond(I_J) ** 2  # v(b), and then two products
    return Measurement(off / (norm(I_J) ** 2 * norm(inner)), room)


def _hessian_at_rest(case: Instance, scale: float) -> Measurement:
    """∇²_vE = (I - J)ᵀ(I - J) + β·∇²ℓ at the feed-forward pass."""
    names, shape = case.hidden, tuple(case.x.shape)
    v = torch.stack([case.feedforward[i] for i in names]).flatten()

    def named(flat: Tensor) -> Values:
        return dict(zip(names, flat.view(-1, *shape), strict=True))

    hessian = torch.autograd.functional.hessian
    whole: Array = hessian(
        lambda u: case.energy(named(u), scale), v, vectorize=True
    ).numpy()
    label: Array = hessian(lambda u: case.loss(named(u)), v, vectorize=True).numpy()
    I_J = np.eye(len(v)) - case.linear.M.T
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


# ---- output treatments ---------------------------------------------------------------


@claim(instances="random graphs and states", quantity="relative error")
def output_treatments(draw: Draw) -> Measurement:
    """A free output with the squared loss is an eliminated one with β/(1 + β).

    Both graphs cut and evaluated by the package, at random values of hidden vertices
    and outputs: E of one is E of the other plus ½(1 + β)‖distance‖²; at the best
    outputs the forces on hidden values and autograd's parameter gradients agree, the
    outputs feel none; every distance to the loss grows by one.
    """
    case, beta = _squared(random_network(draw)), draw.uniform(0.05, 20.0)
    return worst(*_treatments(case, beta, beta / (1 + beta), draw))


def _squared(case: Instance) -> Instance:
    squares = dict.fromkeys(case.outputs, LOSSES["squares"])
    return dataclasses.replace(case, outputs=squares, direct=())


def _freed(case: Instance) -> Instance:
    """Treatment (B): the loss reads the value of each output, by an identity."""
    readers = {f"read_{o}": (o,) for o in case.outputs}
    modules = dict(case.network.named_children())
    modules |= {name: Product() for name in readers}
    network = Network({**case.network.wiring, **readers}, modules)
    outputs = dict(zip(readers, case.outputs.values(), strict=True))
    return dataclasses.replace(case, network=network, outputs=outputs)


def _treatments(
    case: Instance, beta: float, reduced: float, draw: Draw
) -> list[Measurement]:
    free, values = _freed(case), random_values(case, draw)
    predicted = {
        o: case.network.predict(o, values, case.x).detach() for o in case.outputs
    }
    best = {o: (p + beta * case.y) / (1 + beta) for o, p in predicted.items()}
    generator = draw.generator()
    moved = {
        o: b + torch.randn(b.shape, generator=generator, dtype=b.dtype)
        for o, b in best.items()
    }
    away = sum(norm(moved[o] - best[o]) ** 2 for o in best)
    graph = _cut(free)
    with_free = float(_energy(graph, Objective(beta), {**values, **moved}))
    without = float(_energy(_cut(case), Objective(reduced), values))
    identity = with_free - without - (1 + beta) / 2 * away
    size = with_free + without

    ours = _force(free, beta, {**values, **best})
    theirs = _force(case, reduced, values)
    lin = free.linearise({**values, **best})
    errors = [*predicted.values(), *values.values()]
    terms = (1 + norm(lin.M)) * norm(torch.stack(errors)) + beta * norm(lin.g)
    terms += beta * norm(case.y)
    off = max(norm(ours[i] - theirs.get(i, torch.zeros(()))) for i in free.hidden)

    taught = free.gradients_of(free.energy({**values, **best}, beta))
    expected = case.gradients_of(case.energy(values, reduced))
    same = taught.keys() == expected.keys()
    apart = max(norm(taught[n] - g) for n, g in expected.items()) if same else math.nan
    whole = max(norm(g) for g in expected.values())
    return [
        Measurement(abs(identity) / size, ROUNDING),
        Measurement(off / terms, ROUNDING),
        Measurement(apart / max(whole, terms), ROUNDING),
        exactly(float(not _one_farther(case, free))),
    ]


def _force(case: Instance, scale: float, values: Values) -> Mapping[str, Tensor]:
    at = _cut(case).evaluate(values)
    errors = {i: at.predictions[i] - v for i, v in values.items()}
    return {i: e - errors[i] for i, e in at.pull(errors, loss=scale).items()}


def _one_farther(case: Instance, free: Instance) -> bool:
    """Distances as the package and as the wiring say, and those of the outputs."""
    near_ends = distances(free.edges, free.loss_parents)
    grown = [
        {i: d + 1 for i, d in ends.items()} | dict.fromkeys(case.outputs, 1)
        for ends in case.distances
    ]
    levels = {i: d for i, d in _cut(free).levels.items() if i in free.hidden}
    return list(near_ends) == grown and levels == grown[1]


@output_treatments.control
def same_nudge(draw: Draw) -> Measurement:
    """β itself in place of β/(1 + β)."""
    case, beta = _squared(random_network(draw)), draw.uniform(0.05, 20.0)
    return worst(*_treatments(case, beta, beta, draw))


@output_treatments.control
def another_loss(draw: Draw) -> Measurement:
    """A loss that is not quadratic."""
    case, beta = random_network(draw), draw.uniform(0.5, 20.0)
    losses = dict.fromkeys(case.outputs, LOSSES["log cosh"])
    case = dataclasses.replace(case, outputs=losses, direct=())
    return worst(*_treatments(case, beta, beta / (1 + beta), draw))
