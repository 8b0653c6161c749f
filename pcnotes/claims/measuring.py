"""What the claims share: running rules on instances, and sizes of roundings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import learning
from ..evaluation import Evaluation
from ..graph import Graph, cut
from ..rules import Rule
from ..selection import At
from .draw import Draw
from .instances import Instance
from .registry import Measurement, worst
from .vertices import Values

UNIT = 2.0**-53

# Sums of up to a few dozen terms along up to 9 edges over up to 40 steps: some 4,000
# roundings, each of at most UNIT relative to the terms if nothing cancels. What does
# cancel is measured: `Linearised.cancellation`, and `growth` for steps beyond one.
ROUNDING = 1e-12


def cut_graph(case: Instance) -> Graph:
    """The instance as the package cuts it, at all its vertices."""
    return cut(case.network, case.closure, case.at)


def evaluated(
    case: Instance, values: Mapping[str, Tensor]
) -> tuple[Evaluation, Values]:
    """What the package finds at these values, and the errors μ - v there."""
    at = cut_graph(case).evaluate(values)
    return at, {i: at.predictions[i] - v for i, v in values.items()}


def all_states(
    case: Instance, rule: Rule, count: int | None = None
) -> list[learning.State]:
    """What `infer` yields, step 0 first; or the first `count` of it.

    At the last step of a descent the package may notice that E has grown, and raise.
    """
    found = learning.infer(case.network, case.closure, rule, case.at)
    return list(itertools.islice(found, count))


def states(case: Instance, rule: Rule) -> list[Values]:
    """The hidden errors after each step."""
    return [
        {i: state.errors[i] for i in case.hidden} for state in all_states(case, rule)
    ]


def gradients(case: Instance, rule: Rule, at: At = None) -> dict[str, Tensor]:
    """What the rule leaves in `.grad` of the parameters, cut everywhere or `at` these.

    at: which modules are vertices, as in `pcnotes.backward`.
    """
    case.network.zero_grad(set_to_none=True)
    learning.backward(case.network, case.closure, rule, at or case.at)
    named = case.network.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}


def near(
    case: Instance,
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    growth: float = 1.0,
) -> Measurement:
    """The largest difference of errors, relative to δ, with the roundings allowed.

    The two sides must name the same vertices.
    """
    lin = case.linear
    difference = np.abs(lin.stacked(found) - lin.stacked(expected)).max()
    same = found.keys() == expected.keys()
    error = float(difference / np.abs(lin.delta).max()) if same else math.nan
    return Measurement(error, ROUNDING * lin.cancellation * growth)


def all_near(
    case: Instance, found: Sequence[Values], expected: Sequence[Values]
) -> Measurement:
    """The worst of several states, which must be equally many."""
    if len(found) != len(expected):
        return Measurement(math.nan, ROUNDING)
    return worst(*(near(case, a, b) for a, b in zip(found, expected, strict=True)))


def near_gradients(
    case: Instance,
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    growth: float = 1.0,
) -> Measurement:
    """The same for parameter gradients, over all parameters together."""
    if found.keys() != expected.keys():
        return Measurement(math.nan, ROUNDING)
    difference = torch.cat([(found[p] - expected[p]).flatten() for p in found])
    whole = torch.cat([e.flatten() for e in expected.values()])
    error = norm(difference) / norm(whole)
    return Measurement(error, ROUNDING * case.linear.cancellation * growth)


def shares(case: Instance, weights: Sequence[float]) -> Values:
    """Σⱼ weightⱼ·δ⁽ʲ⁾, j = 1..K."""
    lin = case.linear
    return lin.named(np.array(weights) @ lin.parts)


def growth(steps: Sequence[float]) -> float:
    """Π(|1 - η| + |η|): how much larger the terms are than for steps in [0, 1]."""
    return math.prod(abs(1 - eta) + abs(eta) for eta in steps)


def differing(left: Sequence[Values], right: Sequence[Values]) -> float:
    """The share of numbers that are not the same, bit for bit."""
    if len(left) != len(right):
        return 1.0
    pairs = [(a[i], b[i]) for a, b in zip(left, right, strict=True) for i in a]
    unequal = sum(int((a != b).sum()) for a, b in pairs)
    return unequal / sum(a.numel() for a, _ in pairs)


def exactly(share: float) -> Measurement:
    """A share that must be zero, not small: any number that differs is a failure."""
    return Measurement(share, UNIT)


def random_values(case: Instance, draw: Draw, spread: float = 1.0) -> Values:
    """v̂ with noise at every hidden vertex."""
    return scattered(case.feedforward, draw, spread)


def scattered(values: Mapping[str, Tensor], draw: Draw, spread: float = 1.0) -> Values:
    """These values with noise added."""
    generator = draw.generator()
    return {
        i: v + spread * torch.randn(v.shape, generator=generator, dtype=v.dtype)
        for i, v in values.items()
    }


def random_errors(case: Instance, draw: Draw) -> Values:
    """An arbitrary start for the errors."""
    values = random_values(case, draw)
    return {i: v - case.feedforward[i] for i, v in values.items()}


def noise(draw: Draw, *shape: int) -> Tensor:
    """Independent standard normal numbers."""
    return torch.randn(shape, generator=draw.generator(), dtype=torch.float64)


def largest(values: Mapping[str, Tensor]) -> float:
    """The largest absolute value."""
    return max(float(v.detach().abs().max()) for v in values.values())


def stacked(values: Mapping[str, Tensor]) -> Tensor:
    """{vertex: tensor} as one tensor."""
    return torch.stack(list(values.values()))


def norm(tensor: Tensor | NDArray[np.floating[Any]]) -> float:
    """The Euclidean norm over everything."""
    return float(np.linalg.norm(np.asarray(tensor)))
