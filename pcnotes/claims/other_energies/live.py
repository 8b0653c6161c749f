"""Claims about Z-IL under other energies, and about other losses on all roads.

The dynamics run on the package's graphs; what they are held against comes from autograd
on the uncut network.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ...evaluation import Errors
from ...graph import Graph
from ...learning import infer
from ...rules import ZIL, FixedPrediction, Strict
from ...theory import Array
from ..draw import Draw
from ..equilibria import branch, shifted
from ..instances import Instance
from ..measuring import (
    ROUNDING,
    UNIT,
    all_near,
    all_states,
    gradients,
    near,
    near_gradients,
    norm,
)
from ..networks import any_network, curved, furnished, graded_network, random_network
from ..registry import Measurement, claim, worst
from ..vertices import LOSSES, Readout, Values
from .local_energies import (
    ANY,
    CURVED,
    STEEP,
    Energies,
    Held,
    entries,
    slopes,
    some,
)

# ---- Z-IL under any energy -----------------------------------------------------------


@claim(instances="random levelled graphs and energies", quantity="relative error")
def zil_any_energy(draw: Draw) -> Measurement:
    """On the leading edge ξ is a reply: ∂e/∂μ at v̂ - γw, where w is what is asked.

    The package's descent, each vertex read at its level, against the recursion with
    autograd's Jacobians at the feed-forward pass.
    """
    case = _tame(graded_network(draw))
    return _replies(case, some(case, draw, _TAME), draw.uniform(0.3, 1.2))


# Behind the edge inference may run away: energies that do not overflow at once.
_TAME = {k: e for k, e in ANY.items() if k != "cosh" and "Poisson" not in k}


def _tame(case: Instance) -> Instance:
    outputs = {
        o: LOSSES["squares"] if loss is LOSSES["log cosh"] else loss
        for o, loss in case.outputs.items()
    }
    return dataclasses.replace(case, outputs=outputs)


def _replies(
    case: Instance,
    energies: Energies,
    gamma: float,
    late: int = 0,
    plain: bool = False,
    of: Instance | None = None,
) -> Measurement:
    """late: read so many steps later. plain: the reply is what was asked.

    of: the instance that is run, if it is another one than what it is held against.
    """
    levels, lin = case.distances[1], case.linear
    rule = Strict(gamma, case.depth + 2 + late, energy=dict(energies))
    run_on = case if of is None else of
    states = infer(run_on.network, run_on.closure, rule, run_on.at)
    run = list(itertools.islice(states, case.depth + 1 + late))
    found: Values = {}
    wanted: Values = {}
    sizes = [norm(lin.g)]
    for level in range(1, case.depth + 1):
        xi = lin.stacked(
            {i: wanted.get(i, torch.zeros_like(case.x)) for i in case.hidden}
        )
        asked = lin.named(lin.M @ xi + lin.g)
        for i in (i for i, k in levels.items() if k == level):
            mu, values = case.feedforward[i], run[level + late].values[i]
            one = {i: energies[i]}
            predicted = run[level + late].errors[i] + values
            found[i] = slopes(one, {i: predicted}, {i: values})[0][i]
            reply = slopes(one, {i: mu}, {i: mu - gamma * asked[i]})[0][i]
            wanted[i] = asked[i] if plain else reply
            sizes += [norm(asked[i]), norm(reply)]
    off = np.abs(lin.stacked(found) - lin.stacked(wanted)).max()
    pi = float(entries(case, energies, "precision").max())
    steep = 1 + pi + max(sizes)
    largest = 1 + max(float(v.abs().max()) for v in case.feedforward.values())
    terms = max(sizes) * (1 + norm(np.abs(lin.M))) ** case.depth * steep**case.depth
    return Measurement(float(off), ROUNDING * terms + 64 * UNIT * largest * steep)


@zil_any_energy.control
def reply_is_what_was_asked(draw: Draw) -> Measurement:
    """As if the energy were ½‖ε‖² and the step one."""
    case = curved(graded_network(draw))
    energies = some(case, draw, {k: e for k, e in CURVED.items() if "Bern" in k})
    return _replies(case, energies, 0.5, plain=True)


@zil_any_energy.control
def one_step_late(draw: Draw) -> Measurement:
    """Each vertex read one step after its level."""
    case = curved(graded_network(draw))
    energies = some(case, draw, {k: e for k, e in CURVED.items() if "Bern" in k})
    return _replies(case, energies, 0.3, late=1)


# ---- any loss ------------------------------------------------------------------------


@claim(instances="random graphs, pairs of losses", quantity="relative error")
def fp_any_output_loss(draw: Draw) -> Measurement:
    """Losses with one gradient at v̂ are one loss to fixed prediction and to Z-IL.

    Each output's loss is replaced by its slope and a random quadratic: the same errors
    and lessons under fixed prediction, and under Z-IL on a graded graph; the same ξ
    under other energies. Equilibria differ by β(I - M)⁻¹(∇²ℓ - ∇²ℓ′)(I - J)⁻¹δ, to
    first order.
    """
    case = any_network(draw)
    other = _impostor(case, draw)
    sizes = tuple(draw.uniform(0.2, 1.2) for _ in range(draw.integer(1, 5)))
    runs = [
        [{i: s.errors[i] for i in case.hidden} for s in all_states(c, rule)]
        for c in (case, other)
        for rule in (FixedPrediction(sizes),)
    ]
    flat = _tame(graded_network(draw))
    twin = _impostor(flat, draw)
    held = some(case, draw, STEEP)
    under = [
        [
            {i: s.errors[i] for i in case.hidden}
            for s in all_states(c, Held(held, sizes))
        ]
        for c in (case, other)
    ]
    return worst(
        all_near(case, *runs),
        all_near(case, *under),
        # What is read of the twin, against replies of the original's Jacobians and g.
        _replies(flat, some(flat, draw, _TAME), draw.uniform(0.3, 1.2), of=twin),
        _same(case, other, FixedPrediction()),
        _same(flat, twin, ZIL()),
        _equilibria(case, other),
    )


def _same(case: Instance, other: Instance, rule: FixedPrediction | ZIL) -> Measurement:
    found = gradients(other, _Stepped(rule))
    return near_gradients(case, found, case.parameter_gradients())


@dataclasses.dataclass(frozen=True)
class _Stepped:
    """A rule without its short cuts."""

    rule: FixedPrediction | ZIL

    def run(self, graph: Graph) -> Iterator[Errors]:
        return self.rule.run(graph)


def _impostor(case: Instance, draw: Draw, slope: float = 1.0) -> Instance:
    """The same network; each output's loss is its slope there, and a quadratic."""
    with torch.no_grad():
        reached = case.network(case.x)
    outputs: dict[str, Readout] = {}
    for o, loss in case.outputs.items():
        at = reached[o].clone().requires_grad_()
        (g,) = torch.autograd.grad(loss(at, case.y), at)
        bend = draw.uniform(-1, 1)
        outputs[o] = _quadratic_loss(reached[o], slope * g, bend)
    return dataclasses.replace(case, outputs=outputs)


def _quadratic_loss(at: Tensor, g: Tensor, bend: float) -> Readout:
    return lambda out, y: (g * out).sum() + bend * (out - at).square().sum()


def _equilibria(case: Instance, other: Instance) -> Measurement:
    """(λ - λ′)/β, extrapolated to zero from both sides, against its limit."""
    size = case.x.numel() * len(case.hidden)
    zero = np.zeros(size)
    curvatures, deltas = [], []
    for c in (case, other):
        delta, curvature = shifted(c).both(zero)
        deltas.append(delta)
        curvatures.append(curvature)
    limit = -(curvatures[0] - curvatures[1]) @ deltas[0]
    step = 0.1 / max(norm(deltas[0]), *(norm(c) for c in curvatures))
    change = max(
        norm(shifted(c).curvature(-step * deltas[0]) - k) / step
        for c, k in zip((case, other), curvatures, strict=True)
    )
    largest = max(norm(deltas[0]), *(norm(c) for c in curvatures), math.sqrt(change))
    beta = 0.01 / largest

    def even(beta: float) -> Array:
        up, down = (
            one.scaled - two.scaled
            for one, two in zip(
                branch(shifted(case), (beta, -beta)),
                branch(shifted(other), (beta, -beta)),
                strict=True,
            )
        )
        slope: Array = (up - down) / (2 * beta)
        return slope

    rough, fine = even(beta), even(beta / 2)
    best = (4 * fine - rough) / 3
    terms = float(case.linear.sizes.sum(0).max()) * len(zero)
    room = ROUNDING * (terms + norm(limit) + max(map(norm, curvatures)))
    room = room / beta + norm(best - rough)
    return Measurement(norm(best - limit), room)


@fp_any_output_loss.control
def another_slope(draw: Draw) -> Measurement:
    """Losses whose gradients differ by a tenth."""
    case = dataclasses.replace(random_network(draw), direct=())
    other = _impostor(case, draw, slope=1.1)
    return _same(case, other, FixedPrediction())


@fp_any_output_loss.control
def read_too_late(draw: Draw) -> Measurement:
    """Live predictions, all read at the last step: the loss's curvature is felt."""
    case = curved(furnished(draw, {"v1": (), "v2": ("v1",)}, ["v2"]))
    squares = dict.fromkeys(case.outputs, LOSSES["squares"])
    case = dataclasses.replace(case, outputs=squares)
    other = _impostor(case, draw)
    found = []
    for c in (case, other):
        states = infer(c.network, c.closure, Strict(0.1, 4), c.at)
        *_, last = itertools.islice(states, 4)  # at its last step it may raise
        found.append({i: last.errors[i] for i in case.hidden})
    return near(case, found[0], found[1])
