"""Linear networks of whole numbers, on which every step of a run is exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..draw import Draw
from ..instances import Instance
from ..networks import chain
from ..vertices import LOSSES, Network, Vertex, Wiring

# {(parent, child): weight}; the loss is a child of the name "loss".
Weights = Mapping[tuple[str, str], float]


def linear_network(wiring: Wiring, ends: Sequence[str], weights: Weights) -> Instance:
    """Scalar vertices that add up their weighted parents, and a loss that does too."""
    whole = {**wiring, "out": tuple(ends)}
    modules = {}
    for name, above in whole.items():
        vertex = Vertex("linear", len(above), 1, torch.Generator().manual_seed(0))
        child = "loss" if name == "out" else name
        for slot, j in zip(vertex.weights.data, above, strict=False):
            slot.fill_(weights[j, child])
        vertex.weights.data[len(above) :] = 0
        vertex.bias.data.fill_(1)
        modules[name] = vertex
    one = torch.ones(1, 1, dtype=torch.float64)
    return Instance(Network(whole, modules), one, one, {"out": LOSSES["weighted sum"]})


def of_one_sign(draw: Draw, wiring: Wiring, ends: Sequence[str]) -> Weights:
    """-1 or -2 on every edge, 1 or 2 on those to the loss: no two terms cancel.

    Six vertices with such weights stay below 121⁷ < 2⁵³ in seven steps, and the larger,
    sparse graphs of these claims far below.
    """
    inner = {(j, c): -draw.integer(1, 2) for c, above in wiring.items() for j in above}
    return {**inner, **{(j, "loss"): draw.integer(1, 2) for j in ends}}


def sideways(draw: Draw) -> tuple[Wiring, list[str]]:
    """A chain, a parent of the loss that joins it, and a branch from just above.

    The news reaches the vertex above both sideways, faster than along any edge, and so
    spoils the branch, which the parent of the loss does not touch. Random graphs rarely
    have that.
    """
    length = draw.integer(3, 5)
    meet = draw.integer(2, length - 1)
    branch = [f"w{k}" for k in range(meet, length + 1)]
    wiring: Wiring = {"side": (), **chain(length)}
    wiring[f"v{meet}"] += ("side",)
    wiring |= dict(
        zip(branch, [(f"v{meet - 1}",), *((w,) for w in branch[:-1])], strict=True)
    )
    return wiring, ["side", f"v{length}", branch[-1]]
