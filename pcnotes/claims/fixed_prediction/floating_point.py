"""Claims about rounding: what the value form loses and the error form keeps."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ... import theory
from ...learning import infer
from ...rules import FixedPrediction
from ..draw import Draw
from ..measuring import exactly
from ..registry import Measurement, claim, worst

Float32 = NDArray[np.float32]

UNIT32 = 2.0**-24


@claim(instances="random float32 graphs", quantity="error at the plateau")
def value_form_cancellation(draw: Draw) -> Measurement:
    """Float values stop up to ulp(v)/2η short of δ; errors that are integrated do not.

    An increment below half the gap is absorbed; the float32 iteration of the values,
    run until it stops or cycles, against δ in float64, entry by entry, and at a loss so
    small that it never starts; and the float32 rule of this package, which integrates
    ε, on chains: within a few roundings of the closed form, and scaled bit for bit when
    the loss is multiplied by a power of two.
    """
    return worst(
        exactly(_moved_by_less_than_half_a_gap(draw)),
        _plateau(draw, draw.uniform(0.05, 0.5), 10.0 ** draw.integer(-4, 0)),
        _error_form(draw, draw.uniform(0.1, 1.0)),
        _error_form(draw, 1.0),
        exactly(_started_nevertheless(draw)),
        exactly(_bits_changed_by_scale(draw)),
    )


def _moved_by_less_than_half_a_gap(draw: Draw) -> float:
    """The share of sums v + a ≠ v, |a| < half the gap, v at powers of two too."""
    generator = draw.generator()
    size = 2.0 ** torch.randint(-20, 20, (64,), generator=generator).double()
    mantissa = torch.rand(64, generator=generator).round(decimals=1) + 1
    v = (size * mantissa).numpy().astype(np.float32)
    below = torch.rand(64, generator=generator).numpy().astype(np.float32)
    a = np.nextafter(theory.half_gap(v), np.float32(0)) * (2 * below - 1)
    return float(np.mean(v + a != v))


def _plateau(
    draw: Draw, eta: float, loss_scale: float, promised: float = 1.0
) -> Measurement:
    """|ε - δ| where the value form ends, against the bound times `promised`."""
    generator, n = draw.generator(), draw.integer(1, 6)
    M = np.triu(_normal(generator, n, n), 1) / np.float32(n**0.5)
    g = _normal(generator, n) * np.float32(loss_scale)
    v_hat = np.sign(_normal(generator, n)) * (1 + _normal(generator, n) ** 2)
    ends = np.array(value_form(M, g, v_hat, np.float32(eta)))
    M64, g64 = M.astype(float), g.astype(float)
    errors = v_hat.astype(float) - ends.astype(float)
    off = np.abs(errors - theory.path_parts(M64, g64).sum(0))
    bound = promised * theory.plateau(M64, g64, ends, errors, float(np.float32(eta)))
    nearest = np.unravel_index(np.argmax(off / bound), off.shape)
    return Measurement(float(off[nearest]), float(bound[nearest[1]]))


def value_form(
    M: Float32, g: Float32, v_hat: Float32, eta: np.float32
) -> list[Float32]:
    """v ← v + η(ε - Mε - g), ε = v̂ - v, until a state comes back: the states from then.

    One state if the iteration stops, more if it ends in a cycle.

    >>> one = np.ones(1, np.float32)
    >>> [v] = value_form(np.zeros((1, 1), np.float32), one / 1000, one, one[0] / 10)
    >>> float(abs(one[0] - v[0] - 0.001)) > 2e-7  # of seven digits three are left
    True
    """
    path, seen = [v_hat], {v_hat.tobytes(): 0}
    while True:
        errors = v_hat - path[-1]
        moved = path[-1] + eta * (errors - M @ errors - g)
        if (first := seen.get(moved.tobytes())) is not None:
            return path[first:]
        seen[moved.tobytes()] = len(path)
        path.append(moved)


def _normal(generator: torch.Generator, *shape: int) -> Float32:
    numbers: Float32 = torch.randn(shape, generator=generator).numpy()
    return numbers


def _started_nevertheless(draw: Draw) -> float:
    """How many values moved although every first increment is below half the gap."""
    generator, n, eta = draw.generator(), draw.integer(1, 6), np.float32(0.5)
    M = np.triu(_normal(generator, n, n), 1)
    v_hat = np.sign(_normal(generator, n)) * (1 + _normal(generator, n) ** 2)
    share = torch.rand(n, generator=generator).numpy() - np.float32(0.5)
    ends = value_form(M, theory.half_gap(v_hat) * share / eta, v_hat, eta)
    return float(np.sum(ends[-1] != v_hat))


def _bits_changed_by_scale(draw: Draw) -> float:
    """How many errors are not multiplied by exactly 2ᵏ when the loss is."""
    generator, factor = draw.generator(), 2.0 ** draw.integer(-30, 30)
    net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(draw.integer(2, 5))))
    x, y = (
        torch.randn(2, 3, generator=generator),
        torch.randn(2, 3, generator=generator),
    )
    for parameter in net.parameters():
        nn.init.normal_(parameter, generator=generator)
    rule = FixedPrediction(draw.uniform(0.1, 1.0), 8)
    *_, once = infer(net, lambda: (y * net(x).tanh()).sum(), rule)
    *_, scaled = infer(net, lambda: (factor * y * net(x).tanh()).sum(), rule)
    return float(
        sum(
            int((scaled.errors[i] != factor * once.errors[i]).sum())
            for i in once.values
        )
    )


def _error_form(draw: Draw, eta: float) -> Measurement:
    """The rule on a float32 chain of single numbers against P[Bin(n, η) ≥ d]·δ."""
    depth = draw.integer(1, 6)
    n = depth if eta == 1 else draw.integer(depth, depth + 20)
    weights = _normal(draw.generator(), depth + 2).clip(-2, 2)
    weights += np.sign(weights) / 4
    chain = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(depth + 1)))
    for parameter, weight in zip(chain.parameters(), weights, strict=False):
        nn.init.constant_(parameter, float(weight))
    *_, last = infer(
        chain,
        lambda: (chain(torch.ones(1, 1)) * float(weights[-1])).sum(),
        FixedPrediction(eta, n),
    )
    delta, measured = float(weights[-1]), []
    for d in range(1, depth + 1):
        delta *= float(weights[depth + 1 - d])
        expected = theory.binomial_tail(n, eta, d) * delta
        error = abs(float(last.errors[str(depth - d)]) / expected - 1)
        # Unit steps: one product per edge. Others: at most four roundings per step, all
        # terms of one sign.
        roundings = d if eta == 1 else 4 * n + 1
        measured.append(Measurement(error, theory.gamma(roundings, UNIT32)))
    return worst(*measured)


@value_form_cancellation.control
def small_steps_cost_nothing(draw: Draw) -> Measurement:
    """The bound without its factor 1/η."""
    eta = draw.uniform(0.02, 0.04)
    return _plateau(draw, eta, loss_scale=0.1, promised=eta)
