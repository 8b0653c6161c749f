"""Claims about identity vertices: what they mend, how many, and what they cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ... import theory
from ...rules import ZIL
from ..draw import Draw
from ..instances import Instance, own_loss
from ..measuring import (
    ROUNDING,
    all_states,
    cut_graph,
    exactly,
    gradients,
    near,
    near_gradients,
    noise,
)
from ..networks import chain, random_network, tame
from ..registry import Measurement, claim, worst
from ..schemes import Dynamics
from ..vertices import Network, Product, Vertex, Wiring
from .ages import at_their_levels, live, with_shortcut


def bounded(case: Instance) -> Instance:
    """Gates in place of products, whose values square at each step of a long run."""
    width = case.x.shape[1]
    generator = torch.Generator().manual_seed(len(case.hidden))
    modules = {
        name: Vertex("gate", len(case.network.wiring[name]), width, generator)
        if isinstance(module, Product)
        else module
        for name, module in case.network.named_children()
    }
    network = Network(case.network.wiring, modules)
    return dataclasses.replace(tame(case), network=network)


# ---- gradients -----------------------------------------------------------------------


class Identity(Product):
    """A delayed copy of its one parent."""

    def forward(self, *parents: Tensor) -> Tensor:
        """The parent's value."""
        return parents[0].clone()


def levelled_network(case: Instance, level: Mapping[str, int]) -> Instance:
    """The same network with identity vertices, so that every edge spans one level."""
    waits = theory.delays(case.edges, case.loss_parents, level)
    lines = {j: max(n for (i, _), n in waits.items() if i == j) for j in case.hidden}

    def seen(j: str, below: str) -> str:
        return _copy(j, waits[j, below])

    wiring: Wiring = {}
    for name, above in case.network.wiring.items():
        if name in level:
            wiring[name] = tuple(seen(j, name) for j in above)
        elif name in case.outputs:
            wiring[name] = tuple(seen(j, "loss") for j in above)
        else:  # a dead end, which nobody looks at
            wiring[name] = above
        for q in range(1, lines.get(name, 0) + 1):
            wiring[_copy(name, q)] = (_copy(name, q - 1),)
    # A copy that the loss alone reads would count as an output: one that reads it does.
    wiring |= {f"own {i}": (seen(i, "loss"),) for i in case.direct}
    own = dict.fromkeys((f"own {i}" for i in case.direct), own_loss)
    modules = dict(case.network.named_children())
    every = {i: modules.get(i, Identity()) for i in wiring}
    network, outputs = Network(wiring, every), {**case.outputs, **own}
    return dataclasses.replace(case, network=network, outputs=outputs, direct=())


def _copy(name: str, delay: int) -> str:
    return f"{name}+{delay}" if delay else name


def _some_levels(case: Instance, draw: Draw) -> dict[str, int]:
    """Levels at least as high as d_max."""
    levels: dict[str, int] = {}
    for i in reversed(case.hidden):
        below = [levels[c] for c in case.children[i]]
        levels[i] = max([0, *below]) + 1 + draw.integer(0, 3) // 3
    return levels


@claim(instances="random graphs and levels", quantity="relative error")
def identity_vertices(draw: Draw) -> Measurement:
    """Identity vertices change no gradient, and with them Z-IL is exact on any graph.

    The levelled network, for d_max and for random higher levels: graded with these
    levels; its δ against the first network's, and at copies against what passes there;
    every error at its instant under live unit steps. The package's own Z-IL: errors of
    vertices and copies, and parameter gradients by its dynamics.
    """
    case = bounded(random_network(draw))
    lowest = case.distances[1]
    truth = case.parameter_gradients()
    return worst(
        *_levelled(case, lowest),
        *_levelled(case, _some_levels(case, draw)),
        near_gradients(case, gradients(case, Dynamics(ZIL())), truth),
        _as_the_package_runs_it(levelled_network(case, lowest), case),
    )


def _levelled(case: Instance, level: Mapping[str, int]) -> list[Measurement]:
    fine = levelled_network(case, level)
    copies = {
        _copy(j, q): level[j] - q
        for j in case.hidden
        for q in range(len(fine.hidden))
        if _copy(j, q) in fine.edges
    }
    d_min, d_max = fine.distances
    off = abs(float((fine.closure() - case.closure()).detach()))
    off = off / (1 + abs(float(case.closure().detach())))
    return [
        exactly(float(d_min != d_max) + float(d_max != copies)),
        Measurement(off, ROUNDING),  # the terms of the loss in another order
        near(case, {i: fine.delta[i] for i in case.hidden}, case.delta),
        near(fine, _passing(case, level, list(fine.hidden)), fine.delta),
        near_gradients(case, fine.parameter_gradients(), case.parameter_gradients()),
        at_their_levels(fine, live),
    ]


def _passing(
    case: Instance, level: Mapping[str, int], names: Sequence[str]
) -> dict[str, Tensor]:
    """Of δ_j, what comes from children that read the q-th copy or a later one."""
    lin = case.linear
    delta = lin.stacked(case.delta)
    waits = theory.delays(case.edges, case.loss_parents, level)
    found = {}
    for name in names:
        j, _, delay = name.partition("+")
        total = np.zeros(case.x.numel())
        for (i, c), wait in waits.items():
            if i == j and wait >= int(delay or 0):
                loss = c == "loss"
                part = lin.block(j, c) @ delta[lin.rows[c]] if not loss else 0
                total += lin.g[lin.rows[j]] if loss else part
        found[name] = torch.from_numpy(total).reshape(lin.shape)
    return found


def _as_the_package_runs_it(fine: Instance, case: Instance) -> Measurement:
    """Errors of `ZIL` on the network without copies, copies' too, at their instants."""
    found, (_, level) = all_states(case, ZIL()), fine.distances
    return near(fine, {i: found[level[i]].errors[i] for i in level}, fine.delta)


@identity_vertices.control
def no_identity_vertices(draw: Draw) -> Measurement:
    """The network with a shortcut as it is, each vertex read at its level."""
    return at_their_levels(with_shortcut(draw), live)


@identity_vertices.control
def copies_without_errors(draw: Draw) -> Measurement:
    """Errors of identity vertices taken to be zero."""
    case = random_network(draw, least_depth=2, skip=True)
    fine = levelled_network(case, case.distances[1])
    copies = [i for i in fine.hidden if "+" in i]
    zero = {i: torch.zeros_like(d) for i, d in fine.delta.items()}
    return near(fine, {**fine.delta, **{i: zero[i] for i in copies}}, fine.delta)


# ---- how many ------------------------------------------------------------------------


@claim(instances="random graphs and levels", quantity="violations")
def identity_count(draw: Draw) -> Measurement:
    """At most N(N - 1)/2 identity vertices, attained; no levels are below d_max.

    The package's number against the sum of the longest delays; the bounds, for shared
    lines and for one line per edge, here and on the graphs that attain them.
    """
    case = random_network(draw)
    _, lowest = case.distances
    package = cut_graph(case).identity_vertices
    shared, apart = _counts(case.edges, case.loss_parents, lowest)
    count = len(case.hidden)
    size = draw.integer(1, 9)
    names = list(chain(size))
    dense: Wiring = {v: tuple(names[:k]) for k, v in enumerate(names)}
    raised = _some_levels(case, draw)
    violations = [
        sum(package.values()) != shared,
        shared > math.comb(count, 2),
        apart > math.comb(count + 1, 3),
        _most(chain(size))[0] != math.comb(size, 2),
        _most(dense) != (math.comb(size, 2), math.comb(size + 1, 3)),
        any(raised[i] < lowest[i] for i in lowest),
    ]
    return exactly(float(sum(violations)))


def _counts(
    edges: Wiring, loss_parents: Sequence[str], level: Mapping[str, int]
) -> tuple[int, int]:
    """Identity vertices with one line per vertex, and with one line per edge."""
    waits = theory.delays(edges, loss_parents, level)
    longest = {j: max(n for (i, _), n in waits.items() if i == j) for j, _ in waits}
    return sum(longest.values()), sum(waits.values())


def _most(edges: Wiring) -> tuple[int, int]:
    """The counts where every vertex is a parent of the loss."""
    return _counts(edges, list(edges), theory.distances(edges, list(edges))[1])


@identity_count.control
def lowest_levels_are_cheapest(draw: Draw) -> Measurement:
    """That d_max needs the fewest copies: far parents of a shallow child say no."""
    length, far = draw.integer(3, 6), draw.integer(2, 4)
    names = [f"v{k}" for k in range(length - 1)]
    tops = [f"top{k}" for k in range(far)]
    edges: Wiring = dict.fromkeys(tops, ())
    edges |= {v: tuple(names[k - 1 : k] or tops) for k, v in enumerate(names)}
    edges["shallow"] = tuple(tops)
    ends = [names[-1], "shallow"]
    lowest = theory.distances(edges, ends)[1]
    raised = {**lowest, "shallow": length - 1}
    saved = _counts(edges, ends, lowest)[0] - _counts(edges, ends, raised)[0]
    return exactly(float(max(saved, 0)))


@identity_count.control
def one_copy_fewer(draw: Draw) -> Measurement:
    """A bound smaller by one, on the chain whose vertices all feed the loss."""
    size = draw.integer(2, 9)
    return exactly(float(_most(chain(size))[0] > math.comb(size, 2) - 1))


# ---- equilibria ----------------------------------------------------------------------


@claim(instances="random sizes, copies and nudges", quantity="relative error")
def identity_equilibrium(draw: Draw) -> Measurement:
    """q identity vertices before the loss turn r/(1 + β) into r/(1 + (q + 1)β).

    The equilibrium of the energy by autograd and one Newton step (the energy is
    quadratic) against the closed form; and a delay line's least energy between two held
    values against that of one copy of precision 1/q.
    """
    q, scale = draw.integer(0, 6), draw.uniform(0.01, 10.0)
    return worst(
        _equilibrium(draw, q, scale, 1 / (1 + (q + 1) * scale)),
        _held_line(draw, draw.integer(1, 6)),
    )


def _equilibrium(draw: Draw, q: int, scale: float, share: float) -> Measurement:
    """ε*/β of the vertex and of all copies against share·r."""
    width = draw.integer(1, 3)
    x, y = noise(draw, 2, width)

    def energy(flat: Tensor) -> Tensor:
        v = flat.reshape(q + 1, width)
        errors = torch.cat([x[None], v[:-1]]) - v
        return errors.square().sum() / 2 + scale * (v[-1] - y).square().sum() / 2

    v, condition = _minimise(energy, (q + 1) * width)
    v = v.reshape(q + 1, width)
    found = (torch.cat([x[None], v[:-1]]) - v) / scale
    size = float((x - y).abs().max()) * share
    larger = float(v.abs().max()) / (scale * size)  # ε is a difference of values
    error = float((found - share * (x - y)).abs().max()) / size
    return Measurement(error, ROUNDING * (1 + larger) * condition)


def _held_line(draw: Draw, q: int) -> Measurement:
    """Minimum over the copies between u and w of ½Σ‖steps‖² against ‖u - w‖²/2q."""
    u, w = noise(draw, 2, 2)

    def energy(flat: Tensor) -> Tensor:
        line = torch.cat([u[None], flat.reshape(q - 1, 2), w[None]])
        return line.diff(dim=0).square().sum() / 2

    inner, condition = _minimise(energy, 2 * (q - 1))
    expected = float((u - w).square().sum()) / (2 * q)
    size = float(u.square().sum() + w.square().sum())
    error = abs(float(energy(inner)) - expected) / size
    return Measurement(error, ROUNDING * condition)


def _minimise(energy: Callable[[Tensor], Tensor], count: int) -> tuple[Tensor, float]:
    """The minimiser of a quadratic function, and its Hessian's condition."""
    zero = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    if not count:
        return zero.detach(), 1.0
    (slope,) = torch.autograd.grad(energy(zero), zero, create_graph=True)
    rows = [torch.autograd.grad(s, zero, retain_graph=True)[0] for s in slope]
    hessian = torch.stack(rows).detach()
    return -torch.linalg.solve(hessian, slope.detach()), float(np.linalg.cond(hessian))


@identity_equilibrium.control
def copies_change_nothing(draw: Draw) -> Measurement:
    """The equilibrium without identity vertices, r/(1 + β), for a net that has some."""
    scale = draw.uniform(0.01, 10.0)
    return _equilibrium(draw, draw.integer(1, 6), scale, 1 / (1 + scale))
