"""Claims about parameters that several vertices share."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...rules import ZIL, Exact, FixedPrediction, Rule, Strict
from ..draw import Draw
from ..instances import Instance
from ..measuring import growth, norm
from ..networks import any_network, curved, furnished, graded_network
from ..registry import Measurement, claim, worst
from ..vertices import Vertex
from .lessons import Gradients, calm, largest_value, learned, off


@dataclass(frozen=True)
class Tied:
    """A network in which some vertices read one bias, and the same with one for each.

    readers: hidden vertices that read it. spoken: outputs that do.
    """

    case: Instance
    untied: Instance
    readers: Sequence[str]
    spoken: Sequence[str]

    def sum_of(self, gradients: Gradients, readers: Collection[str]) -> Tensor:
        """The sum of what the copies of these readers got."""
        return torch.stack([gradients[f"{i}.bias"] for i in readers]).sum(0)

    def shared(self, gradients: Gradients) -> Tensor:
        """What the shared bias got; it is named after its first reader."""
        names = [f"{i}.bias" for i in self.case.network.wiring]
        return gradients[next(n for n in names if n in gradients and self._is(n))]

    def _is(self, name: str) -> bool:
        readers = (*self.readers, *self.spoken)
        return name.removesuffix(".bias") in readers


def tied(draw: Draw, case: Instance, least: int = 1) -> Tied:
    """Tie the biases of some vertices, of as many hidden ones at least."""
    modules = dict(case.network.named_children())
    for module in modules.values():  # what was tied while drawing is untied first
        if isinstance(module, Vertex):
            module.bias = nn.Parameter(module.bias.detach().clone())
    own = [i for i in case.hidden if isinstance(modules[i], Vertex)]
    outs = [i for i in case.outputs if draw.integer(0, 1)]
    chosen = [i for k, i in enumerate(own) if k < least or draw.integer(0, 1)]
    first = modules[(chosen or list(case.outputs))[0]]
    spoken = outs if chosen else list(case.outputs)
    for i in (*chosen, *spoken):
        modules[i].bias = first.bias
    network = copy.deepcopy(case.network)
    for i in (*chosen, *spoken):
        vertex = network.get_submodule(i)
        vertex.bias = nn.Parameter(first.bias.detach().clone())  # type: ignore
    untied = dataclasses.replace(case, network=network)
    return Tied(case, untied, chosen, spoken)


@claim(instances="random graphs, readers and rules", quantity="relative error")
def sharing_sum(draw: Draw) -> Measurement:
    """A shared parameter gets the sum of what its readers' own copies would get.

    Under a rule's own steps, one of four; each summand from the errors of one vertex
    alone; the sum of δ's is autograd's; steps γ weigh the parts of level k by γᵏ.
    """
    net = tied(draw, calm(any_network(draw)))
    n, eta = draw.integer(1, 5), draw.uniform(0.1, 1.5)
    rules: list[tuple[Rule, float]] = [
        (Exact(), 1.0),
        (FixedPrediction(eta, n), growth([eta] * n)),
        (ZIL(draw.uniform(0.3, 1.5)), largest_value(net.case)),
        (Strict(0.02, n, draw.uniform(0.1, 2.0)), largest_value(net.case)),
    ]
    return worst(
        _ties(net, *draw.choice(rules)),
        _by_delta(net),
        _by_level(tied(draw, calm(graded_network(draw))), draw.uniform(0.3, 1.5)),
    )


def _ties(
    net: Tied, rule: Rule, room: float, readers: Sequence[str] | None = None
) -> Measurement:
    """The shared bias against the sum over the copies."""
    apart = learned(net.untied, rule)
    whole = net.shared(learned(net.case, rule))
    every = [*net.readers, *net.spoken] if readers is None else readers
    size = max(norm(apart[f"{i}.bias"]) for i in (*net.readers, *net.spoken))
    expected = net.sum_of(apart, every)
    room = room * net.case.linear.cancellation
    return off(whole, expected, max(size, 1e-3 * net.case.size), room)


def _by_delta(net: Tied) -> Measurement:
    """∂ℓ/∂pᵢ of the untied network, and (∂f/∂p)ᵀδ of each vertex, and their sum."""
    truth = net.untied.parameter_gradients()
    total = net.shared(net.case.parameter_gradients())
    room = net.case.linear.cancellation
    measured = [
        off(_summand(net, i), truth[f"{i}.bias"], net.case.size, room)
        for i in net.readers
    ]
    expected = net.sum_of(truth, [*net.readers, *net.spoken])
    return worst(*measured, off(total, expected, net.case.size, room))


def _summand(net: Tied, i: str) -> Tensor:
    """(∂fᵢ/∂p)ᵀδᵢ from the values of the parents of i, δᵢ and p alone."""
    case = net.untied
    mu = case.network.predict(i, case.feedforward, case.x)
    return case.gradients_of((mu * case.delta[i]).sum())[f"{i}.bias"]


def _by_level(net: Tied, gamma: float, last: bool = False) -> Measurement:
    """Z-IL with steps γ against Σ γᵏ times the part of level k.

    last: whether all parts are given the power of the highest level instead.
    """
    level = net.case.distances[1]
    powers = {i: level[i] for i in net.readers} | dict.fromkeys(net.spoken, 0)
    highest = max(powers.values())
    truth = net.untied.parameter_gradients()
    expected = torch.stack(
        [
            gamma ** (highest if last else k) * truth[f"{i}.bias"]
            for i, k in powers.items()
        ]
    ).sum(0)
    found = net.shared(learned(net.case, ZIL(gamma)))
    room = net.case.linear.cancellation * largest_value(net.case)
    return off(found, expected, net.case.size, room)


@sharing_sum.control
def one_reader_forgotten(draw: Draw) -> Measurement:
    """The sum over all readers but one."""
    net = tied(draw, _two_levels(draw), least=2)
    return _ties(net, FixedPrediction(), 1.0, [*net.readers[1:], *net.spoken])


@sharing_sum.control
def one_power_for_all(draw: Draw) -> Measurement:
    """The readers are on two levels, and all parts get the power of the higher one."""
    net = tied(draw, _two_levels(draw), least=2)
    return _by_level(net, draw.uniform(0.3, 0.8), last=True)


def _two_levels(draw: Draw) -> Instance:
    return curved(furnished(draw, {"v1": (), "v2": ("v1",)}, ["v2"]))
