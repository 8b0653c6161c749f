"""Claims about kinks: who sees the other side of one."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ... import learning
from ...rules import ZIL, Exact, FixedPrediction, Rule, Strict
from ..any_graph.identities import bounded
from ..draw import Draw
from ..instances import Instance
from ..measuring import (
    ROUNDING,
    UNIT,
    all_states,
    exactly,
    near,
    near_gradients,
    states,
)
from ..networks import any_network, furnished
from ..registry import Measurement, claim, worst
from ..schemes import Dynamics, Live
from ..vertices import Network, Vertex, Wiring
from .lessons import calm

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
    learning.backward(case.network, case.closure, Dynamics(rule), case.at)
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
