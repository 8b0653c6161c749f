"""Claims about what architectures have in common: shared parameters, time, batches.

Rules go their own steps here, without the short cuts that a theorem allows; the other
side is autograd on a network whose parameters are untied, whose samples are apart, or
whose states are detached.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import learning, theory
from ..evaluation import Errors
from ..graph import Graph
from ..rules import ZIL, Exact, FixedPrediction, Rule, Strict
from .draw import Draw
from .measuring import ROUNDING, all_states, growth, near, norm, states
from .networks import (
    Instance,
    Readout,
    Values,
    Vertex,
    any_network,
    curved,
    furnished,
    graded_network,
    random_network,
)
from .registry import Measurement, claim, worst

Gradients = Mapping[str, Tensor]


@dataclass(frozen=True)
class OwnSteps:
    """A rule without its short cut: what its steps teach, not what a theorem says."""

    rule: Rule

    def run(self, graph: Graph) -> Iterator[Errors]:
        """The rule's own steps."""
        return self.rule.run(graph)


def learned(case: Instance, rule: Rule) -> dict[str, Tensor]:
    """What a rule's own steps leave in `.grad`."""
    case.network.zero_grad(set_to_none=True)
    learning.backward(case.network, case.closure, OwnSteps(rule), case.at)
    named = case.network.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}


def calm(case: Instance) -> Instance:
    """Squares for every loss: a few strict steps are safe."""
    outputs = dict.fromkeys(case.outputs, _squares)
    return dataclasses.replace(case, outputs=outputs)


def _squares(out: Tensor, y: Tensor) -> Tensor:
    return (out - y).square().sum() / 2


def off(found: Tensor, expected: Tensor, size: float, room: float) -> Measurement:
    """‖found - expected‖ relative to a size, with the roundings allowed."""
    return Measurement(norm(found - expected) / size, ROUNDING * room)


# ---- shared parameters ---------------------------------------------------------------


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
        (ZIL(draw.uniform(0.3, 1.5)), _values(net.case)),
        (Strict(0.02, n, draw.uniform(0.1, 2.0)), _values(net.case)),
    ]
    return worst(
        _ties(net, *draw.choice(rules)),
        _by_delta(net),
        _by_level(tied(draw, calm(graded_network(draw))), draw.uniform(0.3, 1.5)),
    )


def _values(case: Instance) -> float:
    """How much larger values are than errors: ε is a difference of such."""
    largest = max(float(v.abs().max()) for v in case.feedforward.values())
    return 1 + largest / case.size


def _ties(
    net: Tied, rule: Rule, room: float, readers: Sequence[str] | None = None
) -> Measurement:
    """The shared bias against the sum over the copies, the states bit for bit."""
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
    room = net.case.linear.cancellation * _values(net.case)
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


# ---- time ----------------------------------------------------------------------------


class Cell(nn.Module):
    """One step of a recurrent net: tanh of its state and of an input."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        shape = (2, width, width)
        weights = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.weights = nn.Parameter(weights / width**0.5)

    def forward(self, state: Tensor, seen: Tensor) -> Tensor:
        """Shapes (batch, width)."""
        return torch.tanh(state @ self.weights[0] + seen @ self.weights[1])


@dataclass
class Unrolled:
    """A recurrent net with inputs, and a loss at some of its times 0..T-1.

    cell: used at every time. say: the readout, which makes the last state a hidden
    vertex. x, y: (T, batch, width). told: the times with a loss.
    """

    cell: Cell
    say: nn.Module
    x: Tensor
    y: Tensor
    told: Sequence[int]

    def states(self, cells: Sequence[Cell], cut_before: Collection[int] = ()) -> Values:
        """The states, by one cell per time; detached before the named times."""
        state, found = torch.zeros_like(self.x[0]), {}
        for t, (cell, seen) in enumerate(zip(cells, self.x, strict=True)):
            state = cell(state.detach() if t in cut_before else state, seen)
            found[str(t)] = state
        return found

    def loss_at(self, t: int, state: Tensor) -> Tensor:
        """ℓ_t."""
        out: Tensor = self.say(state)
        return (out - self.y[t]).square().sum() / 2

    def loss(self, cells: Sequence[Cell], cut_before: Collection[int] = ()) -> Tensor:
        """The sum over the times with a loss."""
        found = self.states(cells, cut_before)
        return torch.stack([self.loss_at(t, found[str(t)]) for t in self.told]).sum()

    def closure(self) -> Tensor:
        """The loss with one cell for all times: what a user would write."""
        return self.loss([self.cell] * len(self.x))

    def learned(self, rule: Rule) -> Tensor:
        """What a rule's own steps leave in the cell's weights."""
        self.cell.zero_grad(set_to_none=True)
        models = [self.cell, self.say]
        learning.backward(models, self.closure, OwnSteps(rule), [Cell, nn.Linear])
        assert self.cell.weights.grad is not None
        return self.cell.weights.grad

    def parts(self) -> Tensor:
        """[t, i]: ∂ℓ_t/∂θ by way of the cell at time i, by plain autograd."""
        length = len(self.x)
        cells = [copy.deepcopy(self.cell) for _ in range(length)]
        weights = [cell.weights for cell in cells]
        found = torch.zeros(length, length, *weights[0].shape, dtype=torch.float64)
        values = self.states(cells)
        for t in self.told:
            loss = self.loss_at(t, values[str(t)])
            grads = torch.autograd.grad(
                loss, weights, allow_unused=True, retain_graph=True
            )
            for i, g in enumerate(grads):
                if g is not None:
                    found[t, i] = g
        return found

    def windows(self, n: int) -> Tensor:
        """Truncated backpropagation through time, as one writes it with detach."""
        total = torch.zeros_like(self.cell.weights)
        cells = [self.cell] * len(self.x)
        for t in self.told:
            values = self.states(cells, {t - n + 1})
            loss = self.loss_at(t, values[str(t)])
            total = total + torch.autograd.grad(loss, self.cell.weights)[0]
        return total

    def chunks(self, n: int) -> Tensor:
        """The other truncation: the sequence is cut into pieces of n steps."""
        cells = [self.cell] * len(self.x)
        loss = self.loss(cells, range(0, len(self.x), n))
        return torch.autograd.grad(loss, self.cell.weights)[0]


def some_sequence(draw: Draw, least: int = 1, told: str = "some") -> Unrolled:
    """A random one; told: "some", "all" or "last" times have a loss."""
    length, batch, width = draw.integer(least, 7), draw.integer(1, 2), 2
    every = range(length)
    times = {
        "all": list(every),
        "last": [length - 1],
        "some": [t for t in every if t == length - 1 or draw.integer(0, 1)],
    }
    generator = draw.generator()
    cell = Cell(width, generator)
    shape = (2, length, batch, width)
    x, y = torch.randn(shape, generator=generator, dtype=torch.float64)
    say = nn.utils.skip_init(nn.Linear, width, width, dtype=torch.float64)
    say.weight.data.normal_(generator=generator)
    say.bias.data.zero_()
    return Unrolled(cell, say, x, y, times[told])


@claim(instances="random recurrent nets and steps", quantity="relative error")
def truncated_bptt(draw: Draw) -> Measurement:
    """n unit steps of fixed prediction are truncated backpropagation through time.

    Against windows of n states, written with detach; other steps weigh the part of lag
    j - 1 by the share that has arrived along j edges; Z-IL with steps γ weighs the
    state at time i by γ to the number of steps from i to the end of the sequence.
    """
    net, n = some_sequence(draw), draw.integer(1, 8)
    steps = [draw.uniform(0.1, 1.2) for _ in range(draw.integer(1, 6))]
    gamma = draw.uniform(0.3, 1.3)
    length = len(net.x)
    shares = {d: theory.arrived(steps, d) for d in range(1, length + 1)}
    by_lag = _weighted(net, lambda t, i: shares[t - i + 1])
    by_end = _weighted(net, lambda t, i: gamma ** (length - i))
    return worst(
        _agree(net, net.learned(FixedPrediction(1.0, n)), net.windows(n)),
        _agree(net, net.learned(FixedPrediction(steps)), by_lag),
        _agree(net, net.learned(ZIL(gamma)), by_end),
    )


def _weighted(net: Unrolled, weight) -> Tensor:  # type: ignore[no-untyped-def]
    parts, length = net.parts(), len(net.x)
    pairs = [(t, i) for t in net.told for i in range(length) if i <= t]
    return torch.stack([weight(t, i) * parts[t, i] for t, i in pairs]).sum(0)


def _agree(net: Unrolled, found: Tensor, expected: Tensor) -> Measurement:
    """Relative to the sizes of the parts, which may cancel, and of the values."""
    size = float(net.parts().abs().sum((0, 1)).max())
    # States are at most one; Z-IL's errors are differences of values.
    return off(found, expected, size, 1 + 1 / size)


@truncated_bptt.control
def cut_into_chunks(draw: Draw) -> Measurement:
    """Truncation by pieces of n steps, where a loss sees what its piece has left."""
    net = some_sequence(draw, least=3, told="all")
    return _agree(net, net.learned(FixedPrediction(1.0, 2)), net.chunks(2))


@truncated_bptt.control
def discounted_from_the_loss(draw: Draw) -> Measurement:
    """Z-IL weighed by γ to the distance from the loss, where every time has one."""
    net, gamma = some_sequence(draw, least=2, told="all"), draw.uniform(0.3, 0.8)
    by_lag = _weighted(net, lambda t, i: gamma ** (t - i + 1))
    return _agree(net, net.learned(ZIL(gamma)), by_lag)


# ---- batches -------------------------------------------------------------------------

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
    outputs = {o: (_squares, _log_cosh)[len(o) % 2] for o in case.outputs}
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
    room = case.linear.cancellation * (1 + _values(case)) * (1 + largest / case.size)
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
    return worst(lessons, near(case, at_level, want, _values(case) / smallest))


def _room(case: Instance) -> float:
    sizes = max(float(p.detach().abs().max()) for p in case.network.parameters())
    return case.linear.cancellation * (1 + _values(case)) * (1 + sizes)


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
            room = case.linear.cancellation * (1 + _values(case) / share)
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
