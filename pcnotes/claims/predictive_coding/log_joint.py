"""The claim that the energy is minus the logarithm of a joint density."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, MultivariateNormal, Normal

from ...objective import Objective
from ..draw import Draw
from ..instances import Instance
from ..measuring import ROUNDING, evaluated, noise, random_values
from ..networks import random_network
from ..registry import Measurement, claim, worst
from ..vertices import LOSSES, Readout, Values


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
        objective, unit = Objective(1 / model.noise, precision), 1.0
    else:
        objective, unit = Objective(model.shared / model.noise), model.shared
    energy = float(objective.value(*evaluated(case, values))) / unit
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
    return _Triangle(noise(draw, 3))


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
