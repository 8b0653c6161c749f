"""Claims about which pieces a network is cut into: kinks, levels, coarser cuts."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from .. import learning
from ..graph import cut as cut_graph
from ..rules import ZIL, Exact, FixedPrediction, Rule, Strict
from .any_graph import bounded
from .architectures import OwnSteps, calm
from .cutting import LOSS, Cut
from .draw import Draw
from .measuring import (
    ROUNDING,
    UNIT,
    all_states,
    exactly,
    near,
    near_gradients,
    states,
)
from .networks import (
    Instance,
    Network,
    Values,
    Vertex,
    Wiring,
    any_network,
    furnished,
    graded_network,
    random_network,
)
from .registry import Measurement, claim, worst
from .schemes import Live

# ---- kinks ---------------------------------------------------------------------------

# From what distance on a twin is another function: far more than roundings of values,
# far less than what values move.
GERM = 1e-6


class Twin(nn.Module):
    """f near the values of the feed-forward pass, and something else beyond.

    Every parent is read as v + s·relu(|v - v̂| - GERM): the same function, with the same
    derivatives, as long as no parent has moved.
    """

    def __init__(self, inner: nn.Module, start: Sequence[Tensor], bent: float) -> None:
        super().__init__()
        self.inner, self.start, self.bent = inner, start, bent

    def forward(self, *parents: Tensor) -> Tensor:
        """As the inner module."""
        if not self.start:  # it reads the input, which does not move
            read: Sequence[Tensor] = parents
        else:
            read = [
                v + self.bent * torch.relu((v - s).abs() - GERM)
                for v, s in zip(parents, self.start, strict=True)
            ]
        out: Tensor = self.inner(*read)
        return out


class Folded(nn.Module):
    """A vertex with kinks behind it: relu, |·|, a leaky or a two-way maximum."""

    def __init__(self, inner: nn.Module, kind: int) -> None:
        super().__init__()
        self.inner, self.kind = inner, kind

    def forward(self, *parents: Tensor) -> Tensor:
        """As the inner module."""
        a: Tensor = self.inner(*parents)
        return FOLDS[self.kind](a)


FOLDS = (
    torch.abs,
    lambda a: nn.functional.leaky_relu(a, 0.2),
    lambda a: torch.maximum(a, -0.3 * a.flip(-1)),
    lambda a: torch.relu(a) + 0.5 * a,
)


def _vertices(case: Instance) -> Instance:
    """Whose vertices are all modules directly inside, whatever they are."""
    top = set(case.network.children())
    return _At(**vars(case), top=top)


@dataclass
class _At(Instance):
    """An instance whose vertices are chosen by identity, not by type."""

    top: set[nn.Module] = field(default_factory=set)

    def at(self, name: str, module: nn.Module) -> bool:  # type: ignore[override]
        """Which modules are vertices."""
        return module in self.top


def _with_modules(case: Instance, modules: Mapping[str, nn.Module]) -> Instance:
    plain = {f.name: getattr(case, f.name) for f in dataclasses.fields(Instance)}
    plain["network"] = Network(case.network.wiring, modules)
    return _vertices(Instance(**plain))


def folded(draw: Draw, case: Instance) -> Instance:
    """The same network with kinks behind its hidden vertices."""
    modules = dict(case.network.named_children())
    kinds = {i: draw.integer(0, len(FOLDS) - 1) for i in case.hidden}
    folds = {i: Folded(modules[i], kind) for i, kind in kinds.items()}
    return _with_modules(calm(case), modules | folds)


def twin(case: Instance, bent: float) -> Instance:
    """Another network with the same feed-forward pass and derivatives there."""
    modules = dict(case.network.named_children())
    with torch.no_grad():
        start = case.network(case.x)
    wiring = case.network.wiring
    twins = {
        i: Twin(m, [start[j] for j in wiring[i]], bent) for i, m in modules.items()
    }
    return _with_modules(case, twins)


@claim(instances="random graphs with kinks", quantity="relative error")
def kinks_off_the_feed_forward_pass(draw: Draw) -> Measurement:
    """The three exact rules see the branch at v̂ alone; strict inference does, nearby.

    Errors and lessons of a network with kinks against those of a twin that has other
    branches, and against autograd; strict inference of relu networks against the closed
    form of their affine piece, for nudges that do not reach the next kink.
    """
    case = folded(draw, bounded(any_network(draw)))
    other = twin(case, draw.choice((1.0, -1.0, 3.0)))
    n, eta = draw.integer(1, 4), draw.uniform(0.1, 1.2)
    rules: list[Rule] = [Exact(), FixedPrediction(eta, n), FixedPrediction(), ZIL(eta)]
    rule = draw.choice(rules)
    return worst(
        _same_lessons(case, other, rule),
        _same_at_levels(case, other),
        _affine_piece(relu_chain(draw), draw.uniform(0.1, 0.9), draw.integer(1, 30)),
    )


def _lessons(case: Instance, rule: Rule) -> dict[str, Tensor]:
    case.network.zero_grad(set_to_none=True)
    learning.backward(case.network, case.closure, OwnSteps(rule), case.at)
    named = case.network.named_parameters()
    return {
        name.replace("inner.", ""): p.grad for name, p in named if p.grad is not None
    }


def _same_lessons(case: Instance, other: Instance, rule: Rule) -> Measurement:
    """Z-IL's lessons are small with a small step; its errors are differences."""
    ours, theirs = _lessons(case, rule), _lessons(other, rule)
    shrinking = rule.step_size**case.depth if isinstance(rule, ZIL) else 1.0
    largest = max(float(v.abs().max()) for v in case.feedforward.values())
    growth = 1 + largest / (case.size * min(shrinking, 1.0))
    return near_gradients(case, ours, theirs, growth)


def _same_at_levels(case: Instance, other: Instance) -> Measurement:
    """Z-IL on the twin, each vertex at its instant, against autograd on the network."""
    found, (_, level) = all_states(other, ZIL()), case.distances
    at_level = {i: found[level[i]].errors[i] for i in case.hidden}
    largest = max(float(v.abs().max()) for v in case.feedforward.values())
    return near(case, at_level, case.delta, 1 + largest / case.size)


@dataclass(frozen=True)
class Piece:
    """A relu chain, with the affine piece of its feed-forward pass.

    J, g, D: Jacobian, loss gradient and loss Hessian there. free: (I - J)ᵀ(I - J).
    room: how far all values together may move before a unit switches.
    """

    case: Instance
    J: np.ndarray
    g: np.ndarray
    D: np.ndarray
    room: float

    @property
    def free(self) -> np.ndarray:
        """The Hessian of the energy without its loss."""
        slope = np.eye(len(self.J)) - self.J
        return slope.T @ slope

    @property
    def least(self) -> float:
        """The smallest eigenvalue of H0."""
        return float(np.linalg.eigvalsh(self.free)[0])


class Rectified(nn.Module):
    """relu of a linear map: the pre-activation says where the kink is."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        weight = torch.randn(width, width, generator=generator, dtype=torch.float64)
        self.weight = nn.Parameter(weight / width**0.5)
        bias = torch.randn(width, generator=generator, dtype=torch.float64)
        self.bias = nn.Parameter(bias)

    def before(self, value: Tensor) -> Tensor:
        """What the kink is in."""
        return value @ self.weight + self.bias

    def forward(self, value: Tensor) -> Tensor:
        """Shape (batch, width)."""
        return torch.relu(self.before(value))


def relu_chain(draw: Draw, depth: int = 0) -> Piece:
    """A chain of relu layers with a linear readout and a squared loss."""
    names = [f"v{k}" for k in range(1, (depth or draw.integer(2, 4)) + 1)]
    wiring: Wiring = {v: tuple(names[max(k - 1, 0) : k]) for k, v in enumerate(names)}
    case = furnished(draw, wiring, names[-1:])
    generator, width = draw.generator(), case.x.shape[1]
    modules: dict[str, nn.Module] = {i: Rectified(width, generator) for i in names}
    readout = Vertex("linear", 1, width, generator)
    whole = {**wiring, "out1": (names[-1],)}
    network = Network(whole, {**modules, "out1": readout})
    outputs = {"out1": lambda out, y: (out - y).square().sum() / 2}
    case = _vertices(Instance(network, case.x, case.y, outputs))
    return _piece(case, names)


def _piece(case: Instance, names: Sequence[str]) -> Piece:
    lin, start = case.linear, case.feedforward
    gaps = []
    for above, i in itertools.pairwise(names):
        vertex = case.network.get_submodule(i)
        assert isinstance(vertex, Rectified)
        a = vertex.before(start[above]).detach()
        gaps.append(float((a.abs() / vertex.weight.detach().norm(dim=0)).min()))
    readout = case.network.get_submodule("out1")
    assert isinstance(readout, Vertex)
    W = readout.weights[0].detach().numpy()
    last = len(names) * case.x.numel() - case.x.numel()
    D = np.zeros_like(lin.M)
    D[last:, last:] = np.kron(np.eye(len(case.x)), W @ W.T)
    return Piece(case, lin.M.T, lin.g, D, min(gaps))


def _affine_piece(
    piece: Piece, share: float, n: int, beta: float | None = None
) -> Measurement:
    """Strict inference for n steps against GD on the affine piece, in closed form.

    share: of the largest nudge that the theorem allows.
    """
    size = float(np.linalg.norm(piece.g))
    if not size:
        return exactly(0.0)
    nudge = share * piece.room * piece.least / size if beta is None else beta
    H = piece.free + nudge * piece.D
    kappa, Q = np.linalg.eigh(H)
    step = 1 / kappa[-1]
    moved = (1 - (1 - step * kappa) ** n) / kappa * (Q.T @ piece.g)
    expected = -nudge * (Q @ moved)
    found = all_states(piece.case, Strict(float(step), n, nudge))[-1]
    lin, start = piece.case.linear, piece.case.feedforward
    displaced = {i: found.values[i] - start[i] for i in start}
    largest = max(float(v.abs().max()) for v in start.values())
    scale = nudge * size / kappa[-1]  # how far one step goes, at least
    # Displacements are kept, values are not: what is read is v̂ + u, rounded.
    room = (1 + largest / scale) * (kappa[-1] / kappa[0])
    error = float(np.linalg.norm(lin.stacked(displaced) - expected)) / scale
    allowed = Measurement(error, ROUNDING * room)
    if beta is not None:
        return allowed
    outside = max(float(np.linalg.norm(expected)) / piece.room - 1, 0.0)
    return worst(allowed, Measurement(outside, UNIT))


@kinks_off_the_feed_forward_pass.control
def read_too_late(draw: Draw) -> Measurement:
    """Strict inference after its instants: values have moved, the twin's errors too."""
    names: Wiring = {"v1": (), "v2": ("v1",), "v3": ("v2",)}
    case = folded(draw, furnished(draw, names, ["v3"]))
    late = [states(c, Live([0.2] * 4))[-1] for c in (case, twin(case, 10.0))]
    return near(case, late[1], late[0])


@kinks_off_the_feed_forward_pass.control
def on_a_kink(draw: Draw) -> Measurement:
    """v̂ on a kink: autograd's slope of relu(v) - relu(-v), which is v, is zero."""
    names: Wiring = {"v1": (), "v2": ("v1",)}
    case = calm(furnished(draw, names, ["v2"]))
    first = case.network.get_submodule("v1")
    assert isinstance(first, Vertex)
    first.kind = "linear"
    with torch.no_grad():
        first.weights.zero_()
        first.bias.zero_()
    modules = dict(case.network.named_children())
    kinked = _with_modules(case, {**modules, "v2": _Vanishing(modules["v2"])})
    truth = {i: p for i, p in case.parameter_gradients().items() if i == "v1.bias"}
    found = {i: p for i, p in _lessons(kinked, FixedPrediction()).items() if i in truth}
    return near_gradients(case, found, truth)


class _Vanishing(nn.Module):
    """The inner module at relu(v) - relu(-v), which is v."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, value: Tensor) -> Tensor:
        """As the inner module."""
        out: Tensor = self.inner(torch.relu(value) - torch.relu(-value))
        return out


@kinks_off_the_feed_forward_pass.control
def nudged_across(draw: Draw) -> Measurement:
    """A nudge that pushes a value through a kink, against the affine piece."""
    piece = relu_chain(draw, depth=2)
    first, second = (piece.case.network.get_submodule(i) for i in ("v1", "v2"))
    assert isinstance(first, Rectified)
    assert isinstance(second, Rectified)
    readout = piece.case.network.get_submodule("out1")
    assert isinstance(readout, Vertex)
    eye = torch.eye(first.weight.shape[0], dtype=torch.float64)
    with torch.no_grad():
        first.weight.zero_()
        first.bias.fill_(1.0)
        second.weight.copy_(eye)
        second.bias.zero_()
        readout.weights[0].copy_(eye)
        readout.bias.zero_()
    y = torch.full_like(piece.case.y, -draw.uniform(6.0, 12.0))
    case = _vertices(Instance(piece.case.network, piece.case.x, y, piece.case.outputs))
    return _affine_piece(_piece(case, ["v1", "v2"]), 0.0, 60, beta=1.0)


# ---- counts --------------------------------------------------------------------------


@dataclass(frozen=True)
class Pattern:
    """A wiring, and what the proposition says about it."""

    wiring: Wiring
    loss_parents: Sequence[str]
    depth: int
    copies: Mapping[str, int]
    graded: bool


def recurrent(layers: int, length: int, told: Sequence[int]) -> Pattern:
    """Layers of recurrent cells; the loss reads the last layer at the told times."""
    wiring: Wiring = {}
    for t in range(1, length + 1):
        for layer in range(1, layers + 1):
            above: tuple[str, ...] = (f"{layer}_{t - 1}",) if t > 1 else ()
            above += (f"{layer - 1}_{t}",) if layer > 1 else ()
            wiring[f"{layer}_{t}"] = above
    copies = {f"{layers}_{t}": length - t for t in told if t < length}
    ends = [f"{layers}_{t}" for t in told]
    return Pattern(wiring, ends, length + layers - 1, copies, list(told) == [length])


def residual(branches: Sequence[int], named_sums: bool) -> Pattern:
    """A stem and blocks with branches of these lengths, their sums vertices or not."""
    wiring: Wiring = {"stem": ()}
    stream = ["stem"]
    copies: dict[str, int] = {}
    for b, length in enumerate(branches, 1):
        read = tuple(stream[-1:] if named_sums else stream)
        for r in range(1, length + 1):
            wiring[f"{b}_{r}"] = read if r == 1 else (f"{b}_{r - 1}",)
        last = f"{b}_{length}"
        if named_sums:
            copies[stream[-1]] = length
            wiring[f"sum{b}"] = (stream[-1], last)
        stream.append(f"sum{b}" if named_sums else last)
    if not named_sums:
        left = list(branches)
        for name in stream:
            if sum(left):
                copies[name] = sum(left)
            left = left[1:]
    depth = 1 + sum(branches) + (len(branches) if named_sums else 0)
    ends = stream[-1:] if named_sums else stream
    return Pattern(wiring, ends, depth, copies, not branches)


def gated(length: int) -> Pattern:
    """An LSTM cut at gates z, memory c and state h, that speaks at the end."""
    wiring: Wiring = {}
    for t in range(1, length + 1):
        before = t > 1
        wiring[f"z{t}"] = (f"h{t - 1}",) if before else ()
        wiring[f"c{t}"] = (f"c{t - 1}",) * before + (f"z{t}",)
        wiring[f"h{t}"] = (f"z{t}", f"c{t}")
    copies = {f"z{t}": 1 for t in range(1, length + 1)}
    copies |= {f"c{t}": 2 for t in range(1, length)}
    return Pattern(wiring, [f"h{length}"], 3 * length, copies, False)


@claim(instances="random sizes and readouts", quantity="share of disagreement")
def pattern_counts(draw: Draw) -> Measurement:
    """Depth, gradedness and identity vertices of recurrent, residual and gated nets.

    The package's reading of random networks with these wirings, vertex by vertex,
    against the formulas; and the formulas' sums against their closed forms.
    """
    layers, length = draw.integer(1, 3), draw.integer(1, 5)
    told = [t for t in range(1, length + 1) if t == length or draw.integer(0, 1)]
    branches = [draw.integer(1, 3) for _ in range(draw.integer(0, 4))]
    pattern = draw.choice(
        [
            recurrent(layers, length, told),
            recurrent(layers, length, range(1, length + 1)),
            residual(branches, True),
            residual(branches, False),
            gated(length),
        ]
    )
    weighted = sum(b * p for b, p in enumerate(branches, 1))
    closed = [
        sum(recurrent(layers, length, told).copies.values())
        == sum(length - t for t in told),
        sum(recurrent(layers, length, range(1, length + 1)).copies.values())
        == length * (length - 1) // 2,
        sum(residual(branches, True).copies.values()) == sum(branches),
        sum(residual(branches, False).copies.values()) == weighted,
        sum(gated(length).copies.values()) == 3 * length - 2,
    ]
    return worst(_as_read(draw, pattern), exactly(float(closed.count(False))))


def _as_read(draw: Draw, pattern: Pattern) -> Measurement:
    """The share of what the package reads off that is not as the pattern says."""
    case = furnished(draw, pattern.wiring, pattern.loss_parents)
    graph = cut_graph(case.network, case.closure, case.at)
    wrong = [
        graph.depth != pattern.depth,
        graph.graded != pattern.graded,
        *(
            graph.identity_vertices.get(i, 0) != pattern.copies.get(i, 0)
            for i in pattern.wiring
        ),
    ]
    return exactly(sum(wrong) / len(wrong))


@pattern_counts.control
def said_at_the_end_only(draw: Draw) -> Measurement:
    """Many to many, with the counts of many to one."""
    length = draw.integer(2, 6)
    many = recurrent(draw.integer(1, 2), length, range(1, length + 1))
    return _as_read(draw, dataclasses.replace(many, graded=True, copies={}))


@pattern_counts.control
def sums_without_names(draw: Draw) -> Measurement:
    """Residual blocks whose sums are no vertices, with the counts of those that are."""
    branches = [draw.integer(1, 3) for _ in range(draw.integer(2, 4))]
    named, bare = residual(branches, True), residual(branches, False)
    same = {i: named.copies.get(i, 0) for i in bare.wiring}
    return _as_read(draw, dataclasses.replace(bare, copies=same))


@pattern_counts.control
def one_vertex_a_cell(draw: Draw) -> Measurement:
    """The LSTM at its three vertices, with the depth and grade of one a cell."""
    length = draw.integer(1, 5)
    fine = gated(length)
    coarse = dataclasses.replace(fine, depth=length, copies={}, graded=True)
    return _as_read(draw, coarse)


# ---- coarser cuts --------------------------------------------------------------------


class Tapped(Network):
    """A network that counts the products that a backward pass makes, edge by edge.

    inside, between: how many errors were handed from an operation that reads to the one
    that is read, where that one is not kept, and where it is.
    """

    def __init__(self, network: Network, kept: frozenset[str]) -> None:
        super().__init__(network.wiring, dict(network.named_children()))
        self.kept, self.inside, self.between = kept, 0, 0

    def predict(self, name: str, values: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """f of one vertex; each parent is read by an edge of its own."""
        return super().predict(name, _Edges(self, values), x)

    def forward(self, x: Tensor, shifts: Mapping[str, Tensor] | None = None) -> Values:
        """The values; the loss too reads each by an edge of its own."""
        values = super().forward(x, shifts)
        return {i: self.tap(i, v) for i, v in values.items()}

    def tap(self, name: str, value: Tensor) -> Tensor:
        """The same value, whose reader is counted when an error comes back from it."""
        edge = value.view_as(value)
        if edge.requires_grad:
            edge.register_hook(lambda _: self._count(name))
        return edge

    def _count(self, name: str) -> None:
        if name in self.kept:
            self.between += 1
        else:
            self.inside += 1


class _Edges(dict[str, Tensor]):
    """Values that are read by way of a tap."""

    def __init__(self, network: Tapped, values: Mapping[str, Tensor]) -> None:
        super().__init__(values)
        self.network = network

    def __getitem__(self, name: str) -> Tensor:
        return self.network.tap(name, super().__getitem__(name))


def counted(cut: Cut) -> tuple[int, int]:
    """(inside, between): what one reverse sweep of the package makes."""
    tapped = Tapped(cut.case.network, cut.kept)
    case = dataclasses.replace(cut.case, network=tapped)
    case.network.zero_grad(set_to_none=True)
    learning.backward(tapped, case.closure, Exact(), cut.at)
    return tapped.inside, tapped.between


def by_the_wiring(cut: Cut) -> tuple[int, int]:
    """The same from the wiring: edges with a path to the loss, by their tails."""
    useful, stack = {LOSS}, [LOSS]
    while stack:
        new = set(cut.reads[stack.pop()]) - useful
        useful |= new
        stack += new
    tails = [j for c in useful for j in cut.reads[c]]
    kept = sum(j in cut.kept for j in tails)
    return len(tails) - kept, kept


@claim(instances="random graphs and nested cuts", quantity="relative error")
def coarsening(draw: Draw) -> Measurement:
    """A coarser cut keeps the gradient and moves work from between to inside.

    Three rules by their own steps at two nested cuts against autograd; the products of
    a sweep, counted by hooks, against the wiring; depth and share monotone, 0 and 1 at
    the ends; whole levels left out of a graded graph leave a graded one.
    """
    case = calm(any_network(draw))
    fine = Cut(case, frozenset(i for i in case.hidden if draw.integer(0, 3)))
    fewer = frozenset(i for i in case.hidden if i in fine.kept and draw.integer(0, 1))
    coarse = Cut(case, fewer)
    truth = case.parameter_gradients()
    rules: list[Rule] = [FixedPrediction(), ZIL(), Exact()]
    rule = draw.choice(rules)
    cuts = [c for c in (fine, coarse) if c.kept]
    measured = [
        near_gradients(case, _at_cut(c, rule), truth, _spread(case)) for c in cuts
    ]
    measured += [exactly(float(counted(c) != by_the_wiring(c))) for c in cuts]
    shares = [_share(c) for c in (_everything(case), fine, coarse, Cut(case, _none))]
    depths = [_depth(c) for c in (_everything(case), fine, coarse)]
    ordered = [shares == sorted(shares), depths == sorted(depths, reverse=True)]
    ends = [shares[0] == 0.0, shares[-1] == 1.0]
    measured.append(exactly(float((ordered + ends).count(False))))
    return worst(*measured, _whole_levels(draw), _bottlenecks(draw))


_none: frozenset[str] = frozenset()


def _everything(case: Instance) -> Cut:
    """The finest cut; outputs are vertices here, as the theorem has it."""
    return Cut(case, frozenset(case.network.wiring))


def _share(cut: Cut) -> float:
    inside, between = by_the_wiring(cut)
    return inside / (inside + between)


def _depth(cut: Cut) -> int:
    """The largest number of kept vertices on a path, outputs apart."""
    kept = cut.kept - set(cut.case.outputs)
    return max(_reaching(Cut(cut.case, kept)).values(), default=0)


def _reaching(cut: Cut) -> dict[str, int]:
    found: dict[str, int] = {}
    for i in reversed([i for i in cut.case.network.wiring if i in cut.reached]):
        below = [found.get(c, 0) for c in cut.children(i) if c in found or c == LOSS]
        found[i] = 1 + max(below, default=0)
    return found


def _spread(case: Instance) -> float:
    largest = max(float(v.abs().max()) for v in case.feedforward.values())
    return 1 + largest / case.size


def _at_cut(cut: Cut, rule: Rule) -> dict[str, Tensor]:
    """What a rule's own steps leave in `.grad`, cut there."""
    network = cut.case.network
    network.zero_grad(set_to_none=True)
    learning.backward(network, cut.case.closure, OwnSteps(rule), cut.at)
    named = network.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}


def _whole_levels(draw: Draw) -> Measurement:
    case = graded_network(draw, least_depth=2)
    level = case.distances[1]
    chosen = {k for k in range(1, case.depth + 1) if draw.integer(0, 1)} or {1}
    kept = frozenset(i for i in case.hidden if level[i] in chosen)
    graph = cut_graph(case.network, case.closure, Cut(case, kept).at)
    # What feeds the loss alone is an output for the package, of level zero.
    lowest = 1 if graph.outputs else 0
    wrong = [not graph.graded, graph.depth != len(chosen) - lowest]
    return exactly(float(wrong.count(True)))


def _bottlenecks(draw: Draw) -> Measurement:
    """Only the stem and the sums of residual blocks: a chain."""
    branches = [draw.integer(1, 3) for _ in range(draw.integer(1, 3))]
    pattern = residual(branches, True)
    case = furnished(draw, pattern.wiring, pattern.loss_parents)
    kept = {"stem", *(f"sum{b}" for b in range(1, len(branches) + 1))}
    kept |= set(case.outputs)
    graph = cut_graph(case.network, case.closure, lambda name, _: name in kept)
    chain = [max(len(p) for p in graph.parents.values()) == 1, graph.graded]
    right = [*chain, not graph.identity_vertices, graph.depth == len(branches) + 1]
    return exactly(float(right.count(False)))


@coarsening.control
def one_vertex_dropped(draw: Draw) -> Measurement:
    """A graded diamond without one of its two middle vertices is not graded."""
    wiring: Wiring = {"v1": (), "v2": ("v1",), "v3": ("v1",), "v4": ("v2", "v3")}
    case = furnished(draw, wiring, ["v4"])
    kept = {"v1", "v4", "out1", draw.choice(["v2", "v3"])}
    graph = cut_graph(case.network, case.closure, lambda name, _: name in kept)
    return exactly(float(not graph.graded))


@coarsening.control
def steps_of_the_coarser_cut(draw: Draw) -> Measurement:
    """Fixed prediction on the finer cut, with as many steps as the coarser is deep."""
    case = calm(random_network(draw, least_depth=3))
    fine = Cut(case, frozenset(case.hidden))
    truth = case.parameter_gradients()
    return near_gradients(case, _at_cut(fine, FixedPrediction(1.0, 1)), truth)


@coarsening.control
def only_kept_vertices_counted(draw: Draw) -> Measurement:
    """Taking all work for work between vertices, at a cut that leaves some out."""
    case = random_network(draw, least_depth=2)
    cut = Cut(copy.copy(case), frozenset(case.hidden[1:]))
    inside, between = counted(cut)
    return exactly(inside / (inside + between))
