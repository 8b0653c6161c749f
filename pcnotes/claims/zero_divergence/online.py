"""The claim about learning at once: when a parameter may change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..draw import Draw
from ..instances import Instance
from ..measuring import largest, near_gradients
from ..networks import curved, furnished
from ..registry import Measurement, claim, worst
from ..vertices import Values
from .levelled import first_steps, levelled, products, with_first


@claim(instances="random levelled graphs", quantity="relative error")
def z_il_online_order(draw: Draw) -> Measurement:
    """A parameter may change once all its readers have learned and the values moved on.

    Parameters are changed at random after the update that follows the last instant of
    their readers; the lessons still are backpropagation's at the old parameters, with
    unit steps, and with any others once they are divided by the products of the steps.
    """
    case = levelled(draw)
    first = first_steps(case, draw)
    steps = with_first(case, first, draw, more=1)
    return worst(_online(case, draw), _online(case, draw, steps, products(first)))


def _online(
    case: Instance,
    draw: Draw,
    steps: Sequence[Mapping[str, float]] = (),
    products: Sequence[float] = (),
    values_first: bool = True,
    last: bool = True,
) -> Measurement:
    """Steps by autograd on the energy, lessons on the way, parameters changing.

    steps, products: unit steps if not given. values_first: whether a change comes after
    the values' update of that instant. last: whether a parameter waits for the last of
    its readers' instants, not the first.
    """
    steps = steps or [dict.fromkeys(case.hidden, 1.0)] * (case.depth + 1)
    products = products or [1.0] * (case.depth + 1)
    truth, levels = case.parameter_gradients(), case.distances[1]
    named = dict(case.network.named_parameters())
    before = {name: p.detach().clone() for name, p in named.items()}
    changes = _readings(case, levels, last)
    generator = draw.generator()
    values, found = dict(case.feedforward), dict.fromkeys(truth, torch.zeros(()))
    for t, step in enumerate(steps):
        for name, lesson in _lesson(case, values, levels, t).items():
            found[name] = found[name] + lesson / products[t]
        moved = _moved(case, values, step) if values_first else {}
        for name in changes.get(t, ()):
            noise = torch.randn(named[name].shape, generator=generator)
            named[name].data += noise.to(torch.float64)
        values = moved or _moved(case, values, step)
    for name, p in named.items():
        p.data.copy_(before[name])
    # Errors are differences of values here, and are divided by the products.
    smallest = min(abs(c) for c in products) * case.size
    return near_gradients(case, found, truth, 1 + largest(case.feedforward) / smallest)


def _readings(
    case: Instance, levels: Mapping[str, int], last: bool
) -> dict[int, list[str]]:
    """{instant: parameters that change then}, the last of their readers', or first."""
    instants: dict[str, list[int]] = {}
    owner = {p: name for name, p in case.network.named_parameters()}
    for i in [*case.hidden, *case.outputs]:
        for p in case.network.get_submodule(i).parameters():
            instants.setdefault(owner[p], []).append(levels.get(i, 0))
    when: dict[int, list[str]] = {}
    for name, read in instants.items():
        when.setdefault(max(read) if last else min(read), []).append(name)
    return when


def _lesson(
    case: Instance, values: Values, levels: Mapping[str, int], t: int
) -> dict[str, Tensor]:
    """What the vertices of level t learn at these values; the outputs if t = 0."""
    if t == 0:
        return case.gradients_of(case.loss(values))
    work = []
    for i in (i for i, k in levels.items() if k == t):
        mu = case.network.predict(i, values, case.x)
        work.append((mu * (mu - values[i]).detach()).sum())
    total = torch.stack(work).sum()
    return case.gradients_of(total) if total.requires_grad else {}


def _moved(case: Instance, values: Values, step: Mapping[str, float]) -> Values:
    slopes = case.slope(values, 1.0)
    return {i: v - step[i] * slopes[i] for i, v in values.items()}


@z_il_online_order.control
def parameters_first(draw: Draw) -> Measurement:
    """The values' update of that instant already sees the new parameters."""
    case = curved(levelled(draw, least_depth=2))
    return _online(case, draw, values_first=False)


@z_il_online_order.control
def shared_across_levels(draw: Draw) -> Measurement:
    """A bias that two levels share changes after the first of them has learned."""
    case = curved(furnished(draw, {"v1": (), "v2": ("v1",)}, ["v2"]))
    first, second = (case.network.get_submodule(i) for i in ("v1", "v2"))
    second.bias = first.bias
    return _online(case, draw, last=False)
