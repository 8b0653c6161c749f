"""Claims about cost on many processors: rounds, ticks, and samples in flight.

Rounds are those of schemes that read their neighbours only. Ticks are found by laying
every operation out after those that it waits for, one a tick at each processor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...rules import FixedPrediction
from ..draw import Draw
from ..instances import Instance
from ..measuring import exactly, near, states
from ..networks import any_network, graded_network, random_network
from ..registry import Measurement, claim, worst
from ..vertices import Values
from .work import gradient, pull

# ---- rounds --------------------------------------------------------------------------

Joined = dict[str, set[str]]


@claim(
    instances="random graphs, schemes, labels",
    quantity="share of states that know early",
)
def locality_lower_bound(draw: Draw) -> Measurement:
    """Nothing that is local knows the label before n₀ + dist(i) rounds; BP knows then.

    Two runs of a random scheme that differ in a label that is shown in round n₀ must
    agree in every earlier state, bit for bit. Backpropagation as a local scheme on a
    graded graph is done in that round at every vertex, and unit-step fixed prediction
    has exactly zero one round before.
    """
    case, level = any_network(draw), graded_network(draw)
    joined = _joined(case)
    shown = draw.integer(0, _far(joined, "x")["loss"])
    found, rounds = _in_rounds(level)
    _, k = level.distances
    waiting = states(level, FixedPrediction(1.0, level.depth))
    early = [bool(e[i].any()) for n, e in enumerate(waiting) for i in k if n < k[i]]
    late = [rounds[i] != level.depth + 1 + k[i] for i in k]
    return worst(
        exactly(_know_early(joined, _far(joined, "loss"), shown, shown, draw)),
        exactly(sum(late) / len(late)),
        exactly(sum(early) / len(early)),
        near(level, found, level.delta),
    )


def _joined(case: Instance) -> Joined:
    """Who reads whom: parents and children, the input and the loss among them."""
    joined: Joined = {i: set() for i in ["x", *case.hidden, "loss"]}
    pairs = [(j, c) for c, above in case.edges.items() for j in above or ("x",)]
    for j, c in [*pairs, *((i, "loss") for i in case.loss_parents)]:
        joined[j].add(c)
        joined[c].add(j)
    return joined


def _far(joined: Joined, start: str) -> dict[str, int]:
    """The distance from there, breadth first."""
    far, reached = {start: 0}, [start]
    for i in reached:  # grows while it is read
        for j in sorted(joined[i] - far.keys()):
            far[j] = far[i] + 1
            reached.append(j)
    return far


def _know_early(
    joined: Joined, far: Mapping[str, int], shown: int, counted: int, draw: Draw
) -> float:
    """The share of states that depend on the label before counted + dist."""
    generator = draw.generator()
    order = sorted(joined)
    mixed = {
        (i, j): float(torch.rand((), generator=generator)) + 0.5
        for i in order
        for j in sorted({i, *joined[i]})
    }
    most = counted + max(far.values())
    runs = [list(_scheme(mixed, order, shown, label, most)) for label in (0.3, 1.1)]
    early = [
        a[i] != b[i]
        for n, (a, b) in enumerate(zip(*runs, strict=True))
        for i in order
        if n < counted + far[i]
    ]
    return sum(early) / max(1, len(early))


def _scheme(
    mixed: Mapping[tuple[str, str], float],
    order: Sequence[str],
    shown: int,
    label: float,
    rounds: int,
) -> Iterator[dict[str, Tensor]]:
    """s_i ← sin(Σ weight·s_j + 1); the loss is shown the label from a round on."""
    state = {i: torch.zeros((), dtype=torch.float64) for i in order}
    for n in range(rounds + 1):
        if n >= shown:
            state = {**state, "loss": state["loss"] + label}
        yield state
        sums = dict.fromkeys(order, torch.ones((), dtype=torch.float64))
        for (i, j), weight in mixed.items():
            sums[i] = sums[i] + weight * state[j]
        state = {i: total.sin() for i, total in sums.items()}


def _in_rounds(case: Instance) -> tuple[Values, dict[str, int]]:
    """Backpropagation as a local scheme: errors, and when each was done."""
    values: Values = {}
    errors: Values = {}
    g: Values | None = None
    rounds: dict[str, int] = {}
    children = {j: [c for c in case.edges if j in case.edges[c]] for j in case.hidden}
    n = 0
    while len(errors) < len(case.hidden):
        n += 1
        seen, heard, told = dict(values), dict(errors), g
        for i, above in case.edges.items():
            if i not in seen and all(j in seen for j in above):
                values[i] = case.network.predict(i, seen, case.x).detach()
            ready = told is not None and all(c in heard for c in children[i])
            if ready and i not in heard and told is not None:
                errors[i] = told[i] + sum(
                    pull(case, c, seen, heard[c])[i] for c in children[i]
                )
                rounds[i] = n
        if g is None and all(i in seen for i in case.loss_parents):
            g = gradient(case.loss, seen)
    return errors, rounds


@locality_lower_bound.control
def the_label_is_there_at_once(draw: Draw) -> Measurement:
    """The loss is shown the label before a prediction has come, and passes it on."""
    joined = _joined(any_network(draw))
    counted = _far(joined, "x")["loss"]
    return exactly(_know_early(joined, _far(joined, "loss"), 0, counted, draw))


@locality_lower_bound.control
def a_wire_of_its_own(draw: Draw) -> Measurement:
    """The farthest vertex reads the loss over a wire that the distance leaves out."""
    joined = _joined(graded_network(draw, least_depth=3))
    far = _far(joined, "loss")
    last = max(joined.keys() - {"x"}, key=lambda i: far[i])
    return exactly(
        _know_early(joined | {last: joined[last] | {"loss"}}, far, 0, 0, draw)
    )


# ---- ticks ---------------------------------------------------------------------------

Operation = tuple[str, str, int]  # what, the vertex, the pass
Needs = dict[Operation, set[Operation]]  # in an order in which they could be done


def _passes(name: str, depth: int, steps: int) -> list[str]:
    """A rule as passes, none of which begins before the one before it has ended."""
    step = {"strict": ["pulls", "runs"], "incremental": ["pulls", "lessons", "runs"]}
    return {
        "sweep": ["forward", "reverse"],
        "fixed": ["forward", "pulls", *["errors"] * (steps - 1)],
        "z-il": ["forward", *step["strict"] * depth],
        "strict": ["forward", *step["strict"] * steps],
        "incremental": ["forward", *step["incremental"] * steps],
        "error": ["forward", *["reverse", "forward"] * steps],
        "sweeps": ["forward", *["reverse"] * steps],
    }[name]


def _formula(name: str, K: int, T: int) -> int:
    """Ticks until all errors are there: the table of the theorem."""
    return {
        "sweep": 2 * K + 1,
        "fixed": K + 1 + T,
        "z-il": 3 * K + 1,
        "strict": K + 1 + 2 * T,
        "incremental": K + 1 + 3 * T,
        "error": K + 1 + T * (2 * K + 1),
    }[name]


NAMES = ("sweep", "fixed", "z-il", "strict", "incremental", "error")


def _program(case: Instance, passes: Sequence[str]) -> Needs:
    """Every operation with those that it reads or waits for."""
    parents = {**case.edges, "loss": case.loss_parents}
    children = {j: [c for c in parents if j in parents[c]] for j in parents}
    senders = [i for i in parents if parents[i]]
    needs: Needs = {}
    before: set[Operation] = set()
    for k, name in enumerate(passes):
        now: Needs = {}
        if name == "forward":
            for i in parents:
                now["run", i, k] = {("run", j, k) for j in parents[i]}
        elif name == "reverse":
            for i in reversed(senders):
                now["pull", i, k] = {("pull", c, k) for c in children[i]}
        else:
            chosen = {"pulls": senders, "errors": senders[:-1]}.get(name, parents)
            now = {(name[:-1], i, k): set() for i in chosen}
        needs |= {op: reads | before for op, reads in now.items()}
        before = set(now) or before
    return needs


def _chain(needs: Needs) -> int:
    """The longest chain of operations of which each waits for the one before."""
    length: dict[Operation, int] = {}
    for op, before in needs.items():
        length[op] = 1 + max((length[b] for b in before), default=0)
    return max(length.values())


def _laid_out(needs: Needs, processor: Callable[[Operation], Any]) -> int:
    """Ticks, if each processor does one operation a tick as soon as it can."""
    when: dict[Operation, int] = {}
    taken: set[tuple[Any, int]] = set()
    for op, before in needs.items():
        tick = 1 + max((when[b] for b in before), default=0)
        while (processor(op), tick) in taken:
            tick += 1
        when[op] = tick
        taken.add((processor(op), tick))
    return max(when.values())


def _own(operation: Operation) -> str:
    return operation[1]


@claim(instances="random graphs, rules, steps", quantity="relative difference of ticks")
def latency_by_rule(draw: Draw) -> Measurement:
    """With a processor for every vertex each rule takes the ticks of the table.

    The formula against every operation laid out after those that it waits for; the
    longest chain of these shows that no other layout is shorter.
    """
    name, steps = draw.choice(NAMES), draw.integer(1, 6)
    case = random_network(draw, least_depth=2)
    return _ticks(case, name, _passes(name, case.depth, steps), steps, _own)


def _ticks(
    case: Instance,
    name: str,
    passes: Sequence[str],
    steps: int,
    processor: Callable[[Operation], Any],
) -> Measurement:
    needs, due = _program(case, passes), _formula(name, case.depth, steps)
    off = [_laid_out(needs, processor) - due, _chain(needs) - due]
    return exactly(sum(map(abs, off)) / due)


@latency_by_rule.control
def one_processor_for_all(draw: Draw) -> Measurement:
    """One operation a tick in the whole network."""
    case, steps = random_network(draw, least_depth=2), draw.integer(1, 6)
    passes = _passes("strict", case.depth, steps)
    return _ticks(case, "strict", passes, steps, lambda operation: None)


@latency_by_rule.control
def each_step_a_sweep(draw: Draw) -> Measurement:
    """Errors are fresh: parents wait for their children within every step."""
    case, steps = random_network(draw, least_depth=2), draw.integer(1, 6)
    passes = _passes("sweeps", case.depth, steps)
    return _ticks(case, "fixed", passes, steps, _own)


@claim(instances="random graphs, rules, batches", quantity="excess, in paces")
def pipeline_throughput(draw: Draw) -> Measurement:
    """A full pipeline takes a sample per p ticks: as many as its busiest vertex works.

    The periodic schedule of the proof: no two operations at one processor in one tick,
    as long as promised and no longer; and no layout, of samples one after the other, is
    shorter than Bp.
    """
    name, batch = draw.choice(NAMES[:4]), draw.integer(1, 12)
    needs = _sample(draw, name)
    pace, chain = _pace(needs), _chain(needs)
    when = _periodic(needs, pace)
    places = [(op[1], t + pace * s) for op, t in when.items() for s in range(batch)]
    whole = max(tick for _, tick in places)
    many = _samples(needs, batch, wait=False)
    waits = [when[op] <= when[b] for op, before in needs.items() for b in before]
    return worst(
        exactly(1 - len(set(places)) / len(places)),
        exactly(float(any(waits))),
        Measurement(whole / pace - batch, chain - 1),
        Measurement(batch * pace, _laid_out(many, _own)),
    )


def _sample(draw: Draw, name: str) -> Needs:
    """All operations of one sample, the lessons at the end included."""
    case = random_network(draw, least_depth=2)
    passes = _passes(name, case.depth, draw.integer(1, 4))
    return _program(case, [*passes, "lessons"])


def _pace(needs: Needs) -> int:
    """p: the operations of the vertex that has most."""
    return max(Counter(op[1] for op in needs).values())


def _periodic(needs: Needs, pace: int) -> dict[Operation, int]:
    """Each operation of a vertex at ticks of its own, modulo the pace."""
    used, when = Counter[str](), dict[Operation, int]()
    for op, before in needs.items():
        first = 1 + max((when[b] for b in before), default=0)
        when[op] = first + (used[op[1]] - first) % pace
        used[op[1]] += 1
    return when


def _samples(needs: Needs, batch: int, wait: bool) -> Needs:
    """Several samples; if they wait, each for all lessons of the one before."""
    many: Needs = {}
    last = max(k for _, _, k in needs)
    for s in range(batch):
        shift = s * (last + 1)
        before = {(w, i, k + shift - last - 1) for w, i, k in needs if k == last}
        for (what, i, k), reads in needs.items():
            moved = {(w, j, q + shift) for w, j, q in reads}
            many[what, i, k + shift] = moved | (before if wait and s else set())
    return many


@pipeline_throughput.control
def weights_change_after_each_sample(draw: Draw) -> Measurement:
    """The next sample must read the weights that the lessons of this one leave."""
    needs, batch = _sample(draw, "sweep"), 150
    pace, chain = _pace(needs), _chain(needs)
    whole = _laid_out(_samples(needs, batch, wait=True), _own)
    return Measurement(whole / pace - batch, chain - 1)
