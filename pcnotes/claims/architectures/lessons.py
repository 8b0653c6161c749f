"""What rules teach by their own steps, and by how much two lessons differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from ... import learning
from ...rules import Rule
from ..instances import Instance
from ..measuring import ROUNDING, norm
from ..registry import Measurement
from ..schemes import Dynamics

Gradients = Mapping[str, Tensor]


def learned(case: Instance, rule: Rule) -> dict[str, Tensor]:
    """What a rule's own steps leave in `.grad`."""
    case.network.zero_grad(set_to_none=True)
    learning.backward(case.network, case.closure, Dynamics(rule), case.at)
    named = case.network.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}


def calm(case: Instance) -> Instance:
    """Squares for every loss: a few strict steps are safe."""
    outputs = dict.fromkeys(case.outputs, squares)
    return dataclasses.replace(case, outputs=outputs)


def squares(out: Tensor, y: Tensor) -> Tensor:
    return (out - y).square().sum() / 2


def off(found: Tensor, expected: Tensor, size: float, room: float) -> Measurement:
    """‖found - expected‖ relative to a size, with the roundings allowed."""
    return Measurement(norm(found - expected) / size, ROUNDING * room)


def largest_value(case: Instance) -> float:
    """How much larger values are than errors: ε is a difference of such."""
    largest = max(float(v.abs().max()) for v in case.feedforward.values())
    return 1 + largest / case.size
