"""Claims about cost on one machine: operations of each rule, and numbers it keeps.

Products are counted where PyTorch dispatches them, on random graphs; numbers by rules
that are written down once more, with a store that counts what it holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ...graph import Graph
from ...lessons import Lessons
from ...rules import (
    ZIL,
    ErrorOptimisation,
    Exact,
    FixedPrediction,
    Incremental,
    Rule,
    Strict,
    teach,
)
from ..draw import Draw
from ..instances import Instance
from ..measuring import ROUNDING, exactly, norm, states
from ..networks import curved, graded_network, random_network
from ..registry import Measurement, claim, worst
from ..vertices import Network, Values, Vertex

# ---- operations ----------------------------------------------------------------------


class Products(TorchDispatchMode):
    """Counts products with the vertices' weights: v·W, ε·Wᵀ, and vᵀ·ε for lessons."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        vertices = [m for m in network.children() if isinstance(m, Vertex)]
        self.weights = {w.data_ptr() for m in vertices for w in m.weights}
        self.runs = self.pulls = self.lessons = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """A transposed weight is the same memory with other strides."""
        if function is torch.ops.aten.mm.default:
            right = args[1]
            if right.data_ptr() not in self.weights:
                self.lessons += 1
            elif right.is_contiguous():
                self.runs += 1
            else:
                self.pulls += 1
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Passes:
    """How often all vertices run, the loss pulls, the others pull, all learn."""

    runs: int
    loss: int
    hidden: int
    lessons: int


def _passes(name: str, steps: int, depth: int) -> Passes:
    """The table of the theorem; steps: T, depth: K."""
    return {
        "sweep": Passes(1, 1, 1, 1),
        "fixed": Passes(1, 1, steps, 1),
        "z-il": Passes(depth + 1, depth, depth, 1),
        "strict": Passes(steps + 1, steps, steps, 1),
        "error": Passes(steps + 1, steps, steps, 1),
        "incremental": Passes(steps + 1, steps, steps, steps + 1),
    }[name]


def _rule(name: str, steps: int, draw: Draw) -> Rule | None:
    """None is autograd on the uncut closure."""
    if name == "sweep":
        options = [None, Exact(), ZIL(), FixedPrediction()]
        return draw.choice(options)
    made: dict[str, Rule] = {
        "fixed": FixedPrediction(draw.uniform(0.1, 1.0), steps),
        "z-il": ZIL(),
        "strict": Strict(0.01, steps),
        "error": ErrorOptimisation(0.01, steps),
        "incremental": Incremental(0.01, steps),
    }
    return made[name]


@claim(instances="random graphs, rules, steps", quantity="share of counts that differ")
def work_counts(draw: Draw) -> Measurement:
    """Every rule makes the runs, pulls and lessons of its row of the table, no others.

    Products with weights as PyTorch dispatches them, and what the package says that it
    did, against the wiring and the table; steps that send changes only, against the
    numbers of path lengths.
    """
    name = draw.choice(["sweep", "fixed", "z-il", "strict", "error", "incremental"])
    case, steps = _countable(draw, graded=name == "z-il"), draw.integer(1, 5)
    passes = _passes(name, steps, case.depth)
    rule = _rule(name, steps, draw)
    lengths = _lengths(case)
    by_changes = FixedPrediction(0.5, case.depth + 1)
    return worst(
        exactly(_differing(case, rule, passes, own_steps=name != "sweep")),
        exactly(_differing(case, by_changes, Passes(1, 1, 1, 1), lengths=lengths)),
    )


def _countable(draw: Draw, graded: bool = False, least_depth: int = 1) -> Instance:
    """No attention, whose products are not with weights, and no weights 1 × 1."""
    if graded:
        return curved(graded_network(draw, least_depth, least_width=2))
    return curved(random_network(draw, least_depth, least_width=2))


def _lengths(case: Instance) -> dict[str, int]:
    """How many different lengths the paths from each vertex to the loss have."""
    found: dict[str, set[int]] = {i: set() for i in case.hidden}
    for i in case.loss_parents:
        found[i].add(1)
    for child in reversed(case.hidden):
        for i in case.edges[child]:
            found[i] |= {n + 1 for n in found[child]}
    return {i: len(lengths) for i, lengths in found.items()}


def _differing(
    case: Instance,
    rule: Rule | None,
    passes: Passes,
    own_steps: bool = False,
    lengths: Mapping[str, int] | None = None,
) -> float:
    """The share of counts that are not what is due."""
    wiring, hidden, outputs = case.network.wiring, case.hidden, list(case.outputs)
    weighted = {n for n, m in case.network.named_children() if isinstance(m, Vertex)}
    times = lengths or dict.fromkeys(hidden, passes.hidden)
    runs = sum(max(1, len(wiring[i])) for i in weighted)  # dead ends run, too
    lessons = sum(max(1, len(wiring[i])) for i in weighted & {*hidden, *outputs})
    far = sum(times[i] * len(wiring[i]) for i in weighted & set(hidden))
    pulls = passes.loss * sum(len(wiring[o]) for o in outputs) + far
    senders = passes.loss * len(outputs) + sum(times[i] for i in hidden if wiring[i])
    taught = passes.lessons * (len(hidden) + len(outputs))
    due = [passes.runs * runs, pulls, passes.lessons * lessons]
    with Products(case.network) as counted:
        graph = _carry_out(case, rule, own_steps)
    found = [counted.runs, counted.pulls, counted.lessons]
    if graph is not None:
        due += [passes.runs, senders]
        found += [graph.work.evaluations, graph.work.vjps]
    if graph is not None and lengths is None:
        due, found = [*due, taught], [*found, graph.work.taught.total()]
    return sum(a != b for a, b in zip(found, due, strict=True)) / len(due)


def _carry_out(case: Instance, rule: Rule | None, own_steps: bool) -> Graph | None:
    if rule is None:
        case.closure().backward()
        return None
    graph = Graph(case.network, case.closure, case.at)
    if isinstance(rule, Incremental):
        deque(rule.run(graph), maxlen=0)
    else:
        graph.lessons = Lessons()
        teach(rule, graph, own_steps)
    graph.rewind()
    return graph


@work_counts.control
def everybody_in_every_round(draw: Draw) -> Measurement:
    """All vertices speak in each of K rounds; charged as if each spoke once."""
    case = _countable(draw, least_depth=2)
    rule = FixedPrediction(1.0, case.depth)
    return exactly(_differing(case, rule, _passes("sweep", 0, 0), own_steps=True))


# ---- numbers -------------------------------------------------------------------------


class Store(dict[Any, Tensor]):
    """Tensors by name; `peak` is the largest number of numbers held at a time."""

    peak = 0

    def __setitem__(self, name: Any, tensor: Tensor) -> None:
        super().__setitem__(name, tensor)
        self.peak = max(self.peak, sum(t.numel() for t in self.values()))


@claim(instances="random graphs, rules, steps", quantity="numbers kept over m")
def memory_flat(draw: Draw) -> Measurement:
    """Three numbers for each entry of v are enough, however many steps a rule takes.

    Fixed prediction, descent in the values and in the errors, each with v, ε and what
    children ask for, against the states that the package goes through.
    """
    name, steps = draw.choice(["fixed", "strict", "error"]), draw.integer(1, 8)
    return _kept(curved(random_network(draw)), name, steps)


def _kept(case: Instance, name: str, steps: int, history: bool = False) -> Measurement:
    size, store, rule = 0.02, Store(), _by_step(name)
    for i in case.hidden:
        store["v", i] = case.feedforward[i].clone()
        store["e", i] = torch.zeros_like(store["v", i])
        store["a", i] = torch.zeros_like(store["v", i])
    for n in range(steps):
        rule(case, store, size)
        for i in case.hidden if history else ():
            store["v", i, n] = store["v", i].clone()
            store["e", i, n] = store["e", i].clone()
    rules: dict[str, Rule] = {
        "fixed": FixedPrediction(size, steps),
        "strict": Strict(size, steps),
        "error": ErrorOptimisation(size, steps),
    }
    end = states(case, rules[name])[-1]
    gaps = torch.stack([store["e", i] - end[i] for i in case.hidden])
    # Small steps do not amplify roundings, but ε is a difference of larger values, and
    # Jacobians multiply what is off in them.
    largest = max(float(v.abs().max()) for v in case.feedforward.values())
    room = (1 + norm(case.linear.M)) ** 2 * (1 + largest / case.size)
    numbers = sum(v.numel() for v in case.feedforward.values())
    return worst(
        Measurement(store.peak / numbers, 3.0),
        Measurement(norm(gaps) / case.size, ROUNDING * case.linear.cancellation * room),
    )


Step = Callable[[Instance, Store, float], None]


def _by_step(name: str) -> Step:
    return {"fixed": _fixed, "strict": _strict, "error": _error}[name]


def _fixed(case: Instance, store: Store, size: float) -> None:
    _asked(case, store, errors="e")
    for i in case.hidden:
        store["e", i] = store["e", i] + size * (store["a", i] - store["e", i])


def _strict(case: Instance, store: Store, size: float) -> None:
    _asked(case, store, errors="e")
    for i in case.hidden:
        store["v", i] = store["v", i] + size * (store["e", i] - store["a", i])
    values = _named(case, store, "v")
    for i in case.hidden:
        store["e", i] = case.network.predict(i, values, case.x).detach() - values[i]


def _error(case: Instance, store: Store, size: float) -> None:
    _asked(case, store, errors="a")
    for i in case.hidden:
        store["e", i] = store["e", i] + size * (store["a", i] - store["e", i])
    for i in case.hidden:
        mu = case.network.predict(i, _named(case, store, "v"), case.x).detach()
        store["v", i] = mu - store["e", i]


def _asked(case: Instance, store: Store, errors: str) -> None:
    """Jᵀε + g into "a", vertex by vertex, children first; ε may be "a" itself."""
    values = _named(case, store, "v")
    for i, told in gradient(case.loss, values).items():
        store["a", i] = told
    for c in reversed(case.hidden):
        for j, sent in pull(case, c, values, store[errors, c]).items():
            store["a", j] = store["a", j] + sent


def _named(case: Instance, store: Store, kind: str) -> Values:
    return {i: store[kind, i] for i in case.hidden}


def gradient(scalar: Callable[[Values], Tensor], values: Values) -> Values:
    """Of a function of values, in all of them."""
    leaves = {i: v.detach().requires_grad_() for i, v in values.items()}
    if not leaves:
        return {}
    found = torch.autograd.grad(
        scalar(leaves), list(leaves.values()), materialize_grads=True
    )
    return dict(zip(leaves, found, strict=True))


def pull(case: Instance, child: str, values: Values, error: Tensor) -> Values:
    """Jᵀε of one vertex, at its parents."""
    above = {j: values[j] for j in case.edges[child]}
    return gradient(
        lambda leaves: (case.network.predict(child, leaves, case.x) * error).sum(),
        above,
    )


@memory_flat.control
def every_state_is_kept(draw: Draw) -> Measurement:
    """The values and errors of all steps, as one who differentiates through them."""
    name = draw.choice(["fixed", "strict", "error"])
    return _kept(curved(random_network(draw)), name, 16, history=True)
