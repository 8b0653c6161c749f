"""The claim about linear networks, in closed form at every nudge."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from ... import learning, theory
from ...rules import ErrorOptimisation
from ...theory import Array
from ..draw import Draw
from ..equilibria import Landscape, equilibrium
from ..instances import Instance
from ..measuring import ROUNDING, norm
from ..networks import random_network
from ..registry import Measurement, claim, worst
from ..vertices import Network, Vertex
from .nudges import steep
from .ratio import labelled, with_residual


@claim(instances="random linear graphs, any β", quantity="relative error")
def linear_exact(draw: Draw) -> Measurement:
    """In a linear network ε*/β = AᵀS⁻¹r: backpropagation of the residual S⁻¹r.

    Equilibrium, energy, output and weight gradients against the closed form with
    autograd's A; and error optimisation by the package on a chain of matrices.
    """
    case = _linear(random_network(draw), draw)
    A, u = labelled(case, draw)
    r = draw.uniform(0.1, 3.0) * u
    landscape = with_residual(case, r)
    beta = draw.uniform(0.05, 5.0)
    chain = _chain_of_matrices(draw, min(beta, 0.2))
    return worst(*_linear_law(landscape, A, r, beta), *chain)


def _linear(case: Instance, draw: Draw) -> Instance:
    """The same wiring with linear vertices only."""
    wiring, width = case.network.wiring, case.x.shape[1]
    modules: dict[str, nn.Module] = {
        i: Vertex("linear", len(p), width, draw.generator()) for i, p in wiring.items()
    }
    network = Network(wiring, modules)
    return dataclasses.replace(case, network=network, direct=())


def _linear_law(
    landscape: Landscape, A: Array, r: Array, beta: float
) -> list[Measurement]:
    """λ and φ in closed form against Newton's method."""
    found = equilibrium(landscape, beta)
    scaled, value = theory.linear_equilibrium(A, r, beta)
    size = norm(A) ** 2 * (1 + beta)
    room = ROUNDING * (1 + norm(A)) * norm(r) * (1 + size) + found.residual
    return [
        Measurement(norm(found.scaled - scaled), room),
        Measurement(abs(found.value - value), room * (1 + norm(r)) * (1 + norm(A))),
    ]


def _chain_of_matrices(
    draw: Draw, beta: float, moved: bool = True
) -> list[Measurement]:
    """The package on W₃W₂W₁x: errors, and both factors of each weight's gradient.

    moved: whether the second factor is the value at equilibrium, or else at v̂.
    """
    generator = draw.generator()
    layers = [nn.Linear(3, 3, bias=False, dtype=torch.float64) for _ in range(3)]
    net = nn.Sequential(*layers)
    for layer in layers:
        with torch.no_grad():
            layer.weight.normal_(0, 3**-0.5, generator=generator)
    x, y = torch.randn(2, 3, generator=generator, dtype=torch.float64)

    def closure() -> Tensor:
        return (net(x) - y).square().sum() / 2

    W = [layer.weight.detach().numpy() for layer in layers]
    A = np.hstack([W[2] @ W[1], W[2]])
    r = W[2] @ W[1] @ W[0] @ x.numpy() - y.numpy()
    # Error optimisation descends a quadratic with eigenvalues from one to this.
    steepest = 1 + beta * float(np.linalg.norm(A, 2)) ** 2
    rule = ErrorOptimisation(
        step_size=2 / (1 + steepest), steps=4000, scale=beta, tolerance=1e-13
    )
    for p in net.parameters():
        p.grad = None
    learning.backward(net, closure, rule)
    scaled, _ = theory.linear_equilibrium(A, r, beta)
    residual = theory.linear_residual(A, r, beta)
    values = [x.numpy()]
    for k in range(2):
        error = beta * scaled[3 * k : 3 * k + 3] if moved else 0.0
        values.append(W[k] @ values[-1] - error)
    lessons = [*np.split(scaled, 2), residual]
    size = 1 + max(norm(e) for e in lessons) * max(norm(v) for v in values)
    room = ROUNDING * size * steepest * (1 + norm(A))
    return [
        Measurement(norm(layer.weight.grad - torch.from_numpy(np.outer(e, v))), room)
        for layer, e, v in zip(layers, lessons, values, strict=True)
        if layer.weight.grad is not None
    ]


@linear_exact.control
def values_of_the_feedforward_pass(draw: Draw) -> Measurement:
    """The right errors with v̂ in the weights' gradient."""
    return worst(*_chain_of_matrices(draw, draw.uniform(0.2, 0.5), moved=False))


@linear_exact.control
def a_curved_network(draw: Draw) -> Measurement:
    """The closed form, with A at v̂, for tanh vertices."""
    case = steep(draw)
    A, u = labelled(case, draw, unit=True)
    r = 2.0 * u
    return worst(*_linear_law(with_residual(case, r), A, r, draw.uniform(0.5, 2.0)))
