"""The claim about outputs: free ones against outputs that are part of the loss."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ...objective import Objective
from ...theory import distances
from ..draw import Draw
from ..instances import Instance
from ..measuring import (
    ROUNDING,
    cut_graph,
    evaluated,
    exactly,
    norm,
    random_values,
    scattered,
)
from ..networks import random_network, squared
from ..registry import Measurement, claim, worst
from ..vertices import LOSSES, Network, Product, Values


@claim(instances="random graphs and states", quantity="relative error")
def output_treatments(draw: Draw) -> Measurement:
    """A free output with the squared loss is an eliminated one with β/(1 + β).

    Both graphs cut and evaluated by the package, at random values of hidden vertices
    and outputs: E of one is E of the other plus ½(1 + β)‖distance‖²; at the best
    outputs the forces on hidden values and autograd's parameter gradients agree, the
    outputs feel none; every distance to the loss grows by one.
    """
    case, beta = squared(random_network(draw)), draw.uniform(0.05, 20.0)
    return worst(*_treatments(case, beta, beta / (1 + beta), draw))


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
    moved = scattered(best, draw)
    away = sum(norm(moved[o] - best[o]) ** 2 for o in best)
    with_free = _energy(free, beta, {**values, **moved})
    without = _energy(case, reduced, values)
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


def _energy(case: Instance, beta: float, values: Values) -> float:
    return float(Objective(beta).value(*evaluated(case, values)))


def _force(case: Instance, scale: float, values: Values) -> Mapping[str, Tensor]:
    at, errors = evaluated(case, values)
    return {i: e - errors[i] for i, e in at.pull(errors, loss=scale).items()}


def _one_farther(case: Instance, free: Instance) -> bool:
    """Distances as the package and as the wiring say, and those of the outputs."""
    near_ends = distances(free.edges, free.loss_parents)
    grown = [
        {i: d + 1 for i, d in ends.items()} | dict.fromkeys(case.outputs, 1)
        for ends in case.distances
    ]
    levels = {i: d for i, d in cut_graph(free).levels.items() if i in free.hidden}
    return list(near_ends) == grown and levels == grown[1]


@output_treatments.control
def same_nudge(draw: Draw) -> Measurement:
    """β itself in place of β/(1 + β)."""
    case, beta = squared(random_network(draw)), draw.uniform(0.05, 20.0)
    return worst(*_treatments(case, beta, beta, draw))


@output_treatments.control
def another_loss(draw: Draw) -> Measurement:
    """A loss that is not quadratic."""
    case, beta = random_network(draw), draw.uniform(0.5, 20.0)
    losses = dict.fromkeys(case.outputs, LOSSES["log cosh"])
    case = dataclasses.replace(case, outputs=losses, direct=())
    return worst(*_treatments(case, beta, beta / (1 + beta), draw))
