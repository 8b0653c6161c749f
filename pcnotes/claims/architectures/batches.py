"""Claims about batches: sums, means, and samples that meet."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from ...rules import ZIL, Exact, FixedPrediction, Rule, Strict
from ..draw import Draw
from ..instances import Instance
from ..measuring import ROUNDING, all_states, near, norm, states
from ..networks import any_network, curved, furnished, graded_network, random_network
from ..registry import Measurement, claim, worst
from ..vertices import Readout, Values, Vertex
from .lessons import calm, largest_value, learned, off, squares

_MIXING = ("attention", "centred")


@dataclass(frozen=True)
class Scaled:
    """A loss that is a sum over samples, times a number."""

    factor: float
    loss: Readout

    def __call__(self, out: Tensor, y: Tensor) -> Tensor:
        """factor · loss."""
        return self.factor * self.loss(out, y)


def _log_cosh(out: Tensor, y: Tensor) -> Tensor:
    return (out - y).cosh().log().sum()


def _scaled(case: Instance, factor: float) -> Instance:
    outputs = {o: Scaled(factor, loss) for o, loss in case.outputs.items()}
    return dataclasses.replace(case, outputs=outputs, direct=())


def _apart(case: Instance) -> Instance:
    """In place: no vertex mixes samples. The losses become sums over samples."""
    for module in case.network.children():
        if isinstance(module, Vertex) and module.kind in _MIXING:
            module.kind = "tanh"
    outputs = {o: (squares, _log_cosh)[len(o) % 2] for o in case.outputs}
    return dataclasses.replace(case, outputs=outputs, direct=())


def _batch(draw: Draw, case: Instance, least: int = 2) -> Instance:
    """The same network on more samples."""
    size, generator = draw.integer(least, 4), draw.generator()
    shape = (2, size, case.x.shape[1])
    x, y = torch.randn(shape, generator=generator, dtype=torch.float64)
    return dataclasses.replace(case, x=x, y=y)


@claim(instances="random graphs and batches", quantity="relative error")
def batch_scaling(draw: Draw) -> Measurement:
    """Samples infer alone; a mean is a weaker nudge; an averaged energy a shorter step.

    Strict inference, fixed prediction and Z-IL on a batch against each sample alone; a
    factor of the loss against the same factor of errors and lessons; a mean at nudge β
    against the sum at β/B; descent of the averaged energy against powers of γ/B.
    """
    case = _batch(draw, _apart(_undirected(any_network(draw))))
    mixed = _batch(draw, _undirected(calm(any_network(draw))), least=1)
    graded = _batch(draw, _undirected(calm(graded_network(draw))), least=1)
    factor, beta = draw.uniform(0.2, 2.0), draw.uniform(0.1, 2.0)
    n, eta = draw.integer(1, 4), draw.uniform(0.1, 1.2)
    rules: list[tuple[Rule, Rule]] = [
        (Strict(0.02, n, beta), Strict(0.02, n, factor * beta)),
        (FixedPrediction(eta, n), FixedPrediction(eta, n)),
        (ZIL(eta), ZIL(eta)),
    ]
    linear: list[Rule] = [FixedPrediction(eta, n), ZIL(eta), Exact()]
    return worst(
        _alone(case, factor, *draw.choice(rules)),
        _linear(mixed, factor, draw.choice(linear)),
        _weaker_nudge(mixed, beta, n),
        _averaged_energy(graded, draw.uniform(0.3, 1.5)),
    )


def _undirected(case: Instance) -> Instance:
    """Outputs make the loss, nothing else: then it can be scaled as a whole."""
    return dataclasses.replace(case, direct=())


def _alone(case: Instance, factor: float, batch: Rule, sample: Rule) -> Measurement:
    """Hidden errors of each sample in the batch against those of the sample alone.

    Strict inference alone has the loss unscaled and the factor in its nudge, the other
    rules the factor in the loss.
    """
    whole = states(_scaled(case, factor), batch)
    inner = 1.0 if isinstance(sample, Strict) else factor
    measured = []
    for s in range(len(case.x)):
        one = dataclasses.replace(
            case, x=case.x[s : s + 1], y=case.y[s : s + 1], outputs=case.outputs
        )
        found = states(_scaled(one, inner), sample)
        for a, b in zip(whole, found, strict=True):
            mine = {i: e[s : s + 1] for i, e in a.items()}
            measured.append(_close(case, mine, b))
    return worst(*measured)


def _close(case: Instance, found: Values, expected: Values) -> Measurement:
    """The largest difference, relative to the batch's δ or to what was found."""
    largest = max(float(e.abs().max()) for e in expected.values())
    size = max(case.size, largest)
    difference = max(norm(found[i] - expected[i]) for i in expected)
    # A batch and a sample are multiplied by different kernels: roundings of values.
    room = (
        case.linear.cancellation * (1 + largest_value(case)) * (1 + largest / case.size)
    )
    return Measurement(difference / size, ROUNDING * room)


def _linear(case: Instance, factor: float, rule: Rule) -> Measurement:
    """Errors and lessons of factor·ℓ against factor times those of ℓ."""
    scaled = _scaled(case, factor)
    ours, theirs = learned(scaled, rule), learned(case, rule)
    lessons = worst(
        *(
            off(ours[p], factor * theirs[p], case.size, _room(case))
            for p in theirs
            if p in ours
        )
    )
    if not isinstance(rule, ZIL):
        last, same = states(scaled, rule)[-1], states(case, rule)[-1]
        expected = {i: factor * e for i, e in same.items()}
        return worst(lessons, _close(case, last, expected))
    found, want, level = all_states(scaled, rule), case.delta, case.distances[1]
    at_level = {
        i: found[k].errors[i] / (factor * rule.step_size**k) for i, k in level.items()
    }
    smallest = min(1.0, rule.step_size ** max(level.values())) * factor
    return worst(lessons, near(case, at_level, want, largest_value(case) / smallest))


def _room(case: Instance) -> float:
    sizes = max(float(p.detach().abs().max()) for p in case.network.parameters())
    return case.linear.cancellation * (1 + largest_value(case)) * (1 + sizes)


def _weaker_nudge(case: Instance, beta: float, n: int) -> Measurement:
    """Strict inference with the mean loss at β, and with the sum at β/B."""
    count = len(case.x)
    mean = states(_scaled(case, 1 / count), Strict(0.02, n, beta))
    total = states(case, Strict(0.02, n, beta / count))
    return worst(*(_close(case, a, b) for a, b in zip(mean, total, strict=True)))


def _averaged_energy(case: Instance, gamma: float, power: int = 1) -> Measurement:
    """Descent of E/B by autograd with steps γ, read at the levels, against (γ/B)ᵏδ.

    power: what the batch size is raised to; 0 forgets it.
    """
    count, level = len(case.x), case.distances[1]
    values, measured = dict(case.feedforward), []
    for t in range(1, case.depth + 1):
        leaves = {i: v.detach().requires_grad_() for i, v in values.items()}
        energy = case.energy(leaves, 1.0) / count
        slopes = torch.autograd.grad(energy, list(leaves.values()))
        values = {i: values[i] - gamma * g for i, g in zip(leaves, slopes, strict=True)}
        share = (gamma / count**power) ** t
        for i in (i for i, k in level.items() if k == t):
            error = case.network.predict(i, values, case.x).detach() - values[i]
            room = case.linear.cancellation * (1 + largest_value(case) / share)
            measured.append(off(error / share, case.delta[i], case.size, room))
    return worst(*measured)


@batch_scaling.control
def samples_mixed(draw: Draw) -> Measurement:
    """A vertex in the middle takes the mean of the batch off, as batch norm does."""
    wiring = {"v1": (), "v2": ("v1",), "v3": ("v2",)}
    case = _batch(draw, _apart(_undirected(curved(furnished(draw, wiring, ["v3"])))))
    middle = case.network.get_submodule("v2")
    assert isinstance(middle, Vertex)
    middle.kind = "centred"
    return _alone(case, 1.0, FixedPrediction(), FixedPrediction())


@batch_scaling.control
def mean_without_its_nudge(draw: Draw) -> Measurement:
    """Strict inference with the mean loss against 1/B times that with the sum."""
    case = _batch(draw, _undirected(curved(random_network(draw, least_depth=2))))
    count = len(case.x)
    mean = states(_scaled(case, 1 / count), Strict(0.3, 2))[-1]
    total = states(case, Strict(0.3, 2))[-1]
    return _close(case, mean, {i: e / count for i, e in total.items()})


@batch_scaling.control
def batch_size_forgotten(draw: Draw) -> Measurement:
    """The averaged energy's errors against powers of γ in place of γ/B."""
    case = _batch(draw, _undirected(calm(graded_network(draw))))
    return _averaged_energy(case, draw.uniform(0.3, 1.5), power=0)
