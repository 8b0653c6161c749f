"""Random small networks: wiring, modules, losses and data, all from one `Draw`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .draw import Draw
from .instances import Instance
from .vertices import KINDS, LOSSES, Network, Product, Vertex, Wiring


def random_network(
    draw: Draw, least_depth: int = 1, skip: bool = False, least_width: int = 1
) -> Instance:
    """A random graph: skips, several parents, products, dead ends, several losses.

    least_depth: K is at least this. skip: the first vertex feeds the loss directly too.
    """
    backbone = draw.integer(least_depth, least_depth + 3)
    names = [f"v{k}" for k in range(1, backbone + draw.integer(0, 2) + 1)]
    wiring: Wiring = {}
    for k, name in enumerate(names):
        # The backbone is a chain, which sets the depth; every other edge is free.
        above = {names[k - 1]} if 0 < k < backbone else set()
        above |= {j for j in names[:k] if draw.integer(0, 2) == 2}
        wiring[name] = tuple(j for j in names[:k] if j in above)
    childless = {i for i in names if not any(i in p for p in wiring.values())}
    seen = {*childless, draw.choice(names), *(names[:1] if skip else ())}
    direct = [draw.choice(names)] if draw.integer(0, 1) else []
    parents = [i for i in names if i in seen]
    return furnished(draw, wiring, parents, direct, least_width)


def graded_network(
    draw: Draw, least_depth: int = 1, most_depth: int = 4, least_width: int = 1
) -> Instance:
    """A random graph in levels: a vertex's paths to the loss are equally long."""
    depth = draw.integer(least_depth, most_depth)
    wiring: Wiring = {}
    above: list[str] = []
    for level in range(depth, 0, -1):
        names = [f"v{level}{side}" for side in "ab"[: draw.integer(1, 2)]]
        for name in names:
            wiring[name] = tuple(above[: draw.integer(1, 2)])
        childless = [j for j in above if not any(j in wiring[i] for i in names)]
        wiring[names[0]] += tuple(childless)
        above = names
    direct = [draw.choice(above)] if draw.integer(0, 1) else []
    return furnished(draw, wiring, above, direct, least_width)


def any_network(draw: Draw) -> Instance:
    """In levels or not."""
    return random_network(draw) if draw.integer(0, 1) else graded_network(draw)


def furnished(
    draw: Draw,
    wiring: Wiring,
    loss_parents: Sequence[str],
    direct: Sequence[str] = (),
    least_width: int = 1,
) -> Instance:
    """Outputs, dead ends, modules, losses and data for these hidden vertices."""
    batch, width = draw.integer(1, 3), draw.integer(least_width, 3)
    whole, hidden = dict(wiring), list(wiring)
    for k in range(1, draw.integer(0, 2) + 1):  # a chain that leads nowhere
        above = f"dead{k - 1}" if k > 1 else draw.choice(hidden)
        whole[f"dead{k}"] = (above, draw.choice(hidden))
    whole["out1"] = tuple(loss_parents)
    if draw.integer(0, 1):
        whole["out2"] = tuple(loss_parents[-1:])
    outputs = {o: LOSSES[draw.choice(list(LOSSES))] for o in whole if "out" in o}

    generator = draw.generator()
    modules = {i: _module(draw, i, len(whole[i]), width, generator) for i in whole}
    with_bias = [m for m in modules.values() if isinstance(m, Vertex)]
    if draw.integer(0, 1):  # two vertices that share a parameter
        with_bias[-1].bias = with_bias[0].bias
    x, y = torch.randn(2, batch, width, generator=generator, dtype=torch.float64)
    return Instance(Network(whole, modules), x, y, outputs, direct)


def curved(case: Instance) -> Instance:
    """Squares for every output's loss, and tanh (set in place) for every vertex."""
    for name, module in case.network.named_children():
        if isinstance(module, Vertex) and name not in case.outputs:
            module.kind = "tanh"
    return dataclasses.replace(squared(case), direct=case.direct)


def squared(case: Instance) -> Instance:
    """Squares for every output's loss, and no other loss."""
    squares = dict.fromkeys(case.outputs, LOSSES["squares"])
    return dataclasses.replace(case, outputs=squares, direct=())


def with_loss(
    case: Instance, vertex: str, loss: Callable[[Tensor], Tensor]
) -> Instance:
    """The same network, in whose loss a function of one hidden vertex is added.

    An output of its own reads the vertex.
    """
    name = f"read {vertex}"
    modules = {**dict(case.network.named_children()), name: Product()}
    network = Network({**case.network.wiring, name: (vertex,)}, modules)
    outputs = {**case.outputs, name: lambda out, y: loss(out)}
    return dataclasses.replace(case, network=network, outputs=outputs)


def tame(case: Instance) -> Instance:
    """Squares in place of log cosh, which overflows where dynamics may run away."""
    outputs = {
        o: LOSSES["squares"] if loss is LOSSES["log cosh"] else loss
        for o, loss in case.outputs.items()
    }
    return dataclasses.replace(case, outputs=outputs)


def chain(length: int) -> Wiring:
    """v1, v2, …, each the only parent of the next.

    >>> chain(3)
    {'v1': (), 'v2': ('v1',), 'v3': ('v2',)}
    """
    return {f"v{k}": (f"v{k - 1}",) if k > 1 else () for k in range(1, length + 1)}


def _module(
    draw: Draw, name: str, parents: int, width: int, generator: torch.Generator
) -> nn.Module:
    if "out" in name:
        return Vertex("linear", parents, width, generator)
    kind = draw.choice([*KINDS, "product"])
    if kind == "product" and parents > 1:
        return Product()
    return Vertex("tanh" if kind == "product" else kind, parents, width, generator)
