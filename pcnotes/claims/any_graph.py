"""Claims about graphs whose paths have several lengths: when what moves, and mending.

Runs are strict unit steps whose predictions, Jacobians and loss gradients may be of any
age: taken at the present state, at the first one, or at any state between them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .. import theory
from ..evaluation import Errors, Evaluation
from ..graph import Graph, cut
from ..rules import ZIL, FixedPrediction
from .draw import Draw
from .measuring import (
    ROUNDING,
    all_near,
    all_states,
    exactly,
    gradients,
    near,
    near_gradients,
    norm,
    shares,
    states,
)
from .networks import (
    LOSSES,
    Instance,
    Network,
    Product,
    Values,
    Vertex,
    Wiring,
    _own_loss,
    any_network,
    curved,
    furnished,
    graded_network,
    random_network,
)
from .registry import Measurement, claim, worst

# (what is taken: "prediction", "jacobian" or "loss"; of which vertex; by which vertex;
# at which time) -> the time of the state that it is taken at.
Age = Callable[[str, str, str, int], int]


def live(kind: str, of: str, by: str, now: int) -> int:
    """Z-IL: everything at the present state."""
    return now


def frozen(kind: str, of: str, by: str, now: int) -> int:
    """Fixed prediction: everything at the feed-forward pass."""
    return 0


def drawn(draw: Draw, fresh: int) -> Age:
    """Random ages: out of three ingredients about `fresh` are not from the start."""
    return lambda kind, of, by, now: (
        draw.integer(0, now) if draw.integer(1, 3) <= fresh else 0
    )


@dataclass
class Run:
    """v ← v + γ(ε - Jᵀε - g) from v̂, ε = μ - v, with ingredients of any age.

    Kept are displacements u = v - v̂, so that small errors keep their digits. After the
    run: the displacements and predictions at every time, and the ages that were used.
    """

    age: Age
    steps: int
    step_size: Callable[[str, int], float] = lambda vertex, now: 1.0
    u: list[Values] = field(default_factory=list)
    mu: list[Values] = field(default_factory=list)
    used: dict[tuple[str, str, str, int], int] = field(default_factory=dict)

    def run(self, graph: Graph) -> Iterator[Errors]:
        """The errors after each step."""
        start = graph.evaluate()
        past: list[Evaluation] = [start]
        base = start.predictions
        self.u, self.mu, self.used = [graph.zeros()], [], {}
        for now in range(self.steps + 1):
            mu = {
                i: past[self._at("prediction", i, i, now)].predictions[i]
                for i in graph.hidden
            }
            errors = {i: (mu[i] - base[i]) - self.u[now][i] for i in mu}
            self.mu.append(mu)
            yield errors
            asked = self._asked(graph, past, errors, now)
            moved = {
                i: u + self.step_size(i, now) * (errors[i] - asked[i])
                for i, u in self.u[now].items()
            }
            self.u.append(moved)
            if now < self.steps:
                past.append(graph.evaluate({i: base[i] + moved[i] for i in moved}))

    def _at(self, kind: str, of: str, by: str, now: int) -> int:
        return self.used.setdefault((kind, of, by, now), self.age(kind, of, by, now))

    def _asked(
        self, graph: Graph, past: Sequence[Evaluation], errors: Errors, now: int
    ) -> dict[str, Tensor]:
        """Jᵀε + g, edge by edge."""
        total = graph.zeros()
        for i in graph.structure.loss_parents:
            g = past[self._at("loss", i, i, now)].loss_gradient[i]
            total[i] = total[i] + g
        for c in graph.hidden:
            sent: dict[int, dict[str, Tensor]] = {}
            for i in graph.parents[c]:
                t = self._at("jacobian", i, c, now)
                if t not in sent:
                    sent[t] = past[t].vjp({c: errors[c]})
                total[i] = total[i] + sent[t][i]
        return total


def tame(case: Instance) -> Instance:
    """No cosh in the loss, which overflows where live unit steps run away."""
    kept = {
        o: LOSSES["squares"] if loss is LOSSES["log cosh"] else loss
        for o, loss in case.outputs.items()
    }
    return dataclasses.replace(case, outputs=kept)


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


def with_shortcut(draw: Draw) -> Instance:
    """A curved network in which the first vertex feeds the loss directly too."""
    return curved(random_network(draw, least_depth=2, skip=True))


# ---- graphs --------------------------------------------------------------------------


@claim(instances="random graphs, in levels or not", quantity="share of disagreement")
def graded_levels(draw: Draw) -> Measurement:
    """Six ways to say that a graph is graded agree on every graph.

    One path length per vertex; d_min = d_max; levels that fall by one along each edge;
    no undirected cycle that slips; d_mor = d_max; and what the package says.
    """
    case = any_network(draw)
    told = cut(case.network, case.closure, case.at).graded
    return exactly(_disagreement([*_gradings(case.edges, case.loss_parents), told]))


def _gradings(edges: Wiring, loss_parents: Sequence[str]) -> list[bool]:
    d_min, d_max = theory.distances(edges, loss_parents)
    reaching = {c: [j for j in above if j in d_max] for c, above in edges.items()}
    lengths: dict[str, set[int]] = {}  # of all paths to the loss, by walking them
    for i in reversed(list(edges)):
        below = [c for c, above in reaching.items() if i in above]
        lengths[i] = {n + 1 for c in below for n in lengths[c]}
        lengths[i] |= {1} if i in loss_parents else set()
    pairs = [(j, c) for c, above in edges.items() for j in above]
    pairs += [(j, "loss") for j in loss_parents]
    return [
        all(len(found) <= 1 for found in lengths.values()),
        d_min == d_max,
        _potential_exists(pairs),
        not _slips(pairs),
        theory.moral_distances(edges, loss_parents) == d_max,
    ]


def _potential_exists(pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether k(j) - k(c) = 1 on all edges, k(loss) = 0, has a solution: linearly."""
    names = sorted({name for pair in pairs for name in pair} - {"loss"})
    incidence = np.zeros((len(pairs), len(names)))
    for row, (j, c) in enumerate(pairs):
        incidence[row, names.index(j)] = 1
        if c != "loss":
            incidence[row, names.index(c)] = -1
    k, *_ = np.linalg.lstsq(incidence, np.ones(len(pairs)), rcond=None)
    # Least squares of a whole-number problem: residuals are 0 or at least 1/edges.
    return bool(np.abs(incidence @ k - 1).max() < 0.1 / len(pairs))


def _slips(pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether some closed walk has more edges one way than the other."""
    height = {"loss": 0}
    walk = ["loss"]
    steps = [(j, c, 1) for j, c in pairs] + [(c, j, -1) for j, c in pairs]
    for at in walk:
        for to, here, up in steps:
            if here == at and to not in height:
                height[to] = height[at] + up
                walk.append(to)
    return any(height[j] - height[c] != 1 for j, c in pairs)


def _disagreement(answers: Sequence[bool]) -> float:
    return float(sum(a != answers[0] for a in answers)) / len(answers)


@graded_levels.control
def dead_end_in_the_graph(draw: Draw) -> Measurement:
    """A dead end that reads two vertices of a chain is not pruned."""
    names = [f"v{k}" for k in range(1, draw.integer(3, 7) + 1)]
    edges: Wiring = {v: tuple(names[max(k - 1, 0) : k]) for k, v in enumerate(names)}
    above = draw.integer(0, len(names) - 3)
    below = draw.integer(above + 2, len(names) - 1)
    edges["dead"] = (names[above], names[below])
    return exactly(_disagreement(_gradings(edges, names[-1:])))


@claim(instances="random graphs, steps and ages", quantity="share that moves too early")
def light_cone(draw: Draw) -> Measurement:
    """No value moves before the step that its distance in the moral graph allows.

    Real steps that differ by vertex and time, ingredients of random age or all live:
    how many numbers differ from v̂ before that step. None may, not by one bit.
    """
    case = tame(any_network(draw))
    steps = [draw.uniform(-0.5, 1.2) for _ in range(5)]
    sizes = {i: steps[k % 5] for k, i in enumerate(case.hidden)}
    age = drawn(draw, fresh=2) if draw.integer(0, 1) else live
    return exactly(_moved_early(case, _moral(case), age, sizes))


def _moral(case: Instance) -> dict[str, int]:
    return theory.moral_distances(case.edges, case.loss_parents)


def _moved_early(
    case: Instance, until: Mapping[str, int], age: Age, sizes: Mapping[str, float]
) -> float:
    """The share of vertices and steps t < until[i] at which v_i is not v̂_i.

    And at which ε_i is not zero although its parents too should still be at v̂.
    """
    rule = Run(age, max(until.values()), lambda i, now: sizes[i] / (1 + now))
    found = all_states(case, rule)
    pairs = [(i, t) for i in case.hidden for t in range(until[i])]
    start = found[0].values
    moved = [bool((found[t].values[i] != start[i]).any()) for i, t in pairs]
    moved += [bool(rule.u[t][i].any()) for i, t in pairs]
    for i, above in case.edges.items():
        still = range(min(until[j] for j in (i, *above)))
        moved += [bool(found[t].errors[i].any()) for t in still]
    return sum(moved) / len(moved)


@light_cone.control
def one_edge_back_per_step(draw: Draw) -> Measurement:
    """Directed distance, d_min: the moved parent of the loss also moves its child."""
    length = draw.integer(4, 6)
    names = [f"v{k}" for k in range(1, length + 1)]
    wiring: Wiring = {v: tuple(names[max(k - 1, 0) : k]) for k, v in enumerate(names)}
    case = curved(furnished(draw, wiring, [names[0], names[-1]]))
    return _by_directed_distance(case)


@light_cone.control
def co_parents_forgotten(draw: Draw) -> Measurement:
    """A parent of the loss moves a child, and so the child's other parent."""
    wiring: Wiring = {"v1": (), "v2": (), "v3": ("v1", "v2"), "v4": ("v3",)}
    case = curved(furnished(draw, wiring, ["v2", "v4"]))
    return _by_directed_distance(case)


def _by_directed_distance(case: Instance) -> Measurement:
    d_min, _ = case.distances
    return exactly(_moved_early(case, d_min, live, dict.fromkeys(case.hidden, 0.5)))


# ---- exactness -----------------------------------------------------------------------


@claim(instances="random graphs and ages", quantity="relative error")
def unified_exactness(draw: Draw) -> Measurement:
    """Where nothing on the way had moved, an error holds its paths of up to n edges.

    Every vertex and time whose past was still: ε_i(n) against Σ δ⁽ʲ⁾, j ≤ n. Ages all
    zero, random, or on a graph in levels all live.
    """
    case = tame(any_network(draw))
    return worst(
        _still_pasts(case, frozen),
        _still_pasts(case, drawn(draw, fresh=1)),
        _still_pasts(tame(graded_network(draw)), live),
    )


def _still_pasts(
    case: Instance, age: Age, still: Callable[..., bool] | None = None
) -> Measurement:
    rule = Run(age, case.depth)
    found = states(case, rule)
    children = _children(case)
    is_still = _is_still if still is None else still
    good: dict[tuple[str, int], bool] = {}
    for n in range(1, case.depth + 1):
        for i in case.hidden:
            here = is_still(case, rule, children, i, n)
            good[i, n] = here and all(good.get((c, n - 1), True) for c in children[i])
    measured = [
        _partial_sum(case, rule, found, i, n) for (i, n), fine in good.items() if fine
    ]
    return worst(*measured) if measured else exactly(0.0)


def _children(case: Instance) -> dict[str, list[str]]:
    return {i: [c for c in case.hidden if i in case.edges[c]] for i in case.hidden}


def _is_still(
    case: Instance, rule: Run, children: Mapping[str, list[str]], i: str, n: int
) -> bool:
    """Whether what i used in step n was as at v̂, and its prediction stood still."""
    now = n - 1
    at = [(rule.used["jacobian", i, c, now], case.edges[c]) for c in children[i]]
    if i in case.loss_parents:
        at.append((rule.used["loss", i, i, now], case.loss_parents))
    moved = any(bool(rule.u[t][j].any()) for t, inputs in at for j in inputs)
    return not moved and bool((rule.mu[n][i] == rule.mu[now][i]).all())


def _partial_sum(
    case: Instance, rule: Run, found: Sequence[Values], i: str, n: int
) -> Measurement:
    """ε_i(n) against Σ δ⁽ʲ⁾_i, j ≤ n."""
    lin = case.linear
    expected = lin.named(lin.parts[:n].sum(0))[i]
    # ε is a difference of numbers as large as the values were, and so were the errors
    # that it was made from, n steps back: (I - |M|)⁻¹ carries their roundings here.
    seen = [x for t in range(n + 1) for x in (rule.mu[t], rule.u[t], found[t])]
    largest = max(float(v.abs().max()) for values in seen for v in values.values())
    inverse = np.linalg.inv(np.eye(len(lin.g)) - np.abs(lin.M))
    room = lin.cancellation + largest / case.size * float(inverse.sum(1).max())
    return Measurement(norm(found[n][i] - expected) / case.size, ROUNDING * room)


@unified_exactness.control
def pasts_that_moved(draw: Draw) -> Measurement:
    """The same sums where a shortcut had moved what was used, everything live."""
    case = with_shortcut(draw)
    return _still_pasts(case, live, still=lambda *_: True)


@unified_exactness.control
def only_predictions_frozen(draw: Draw) -> Measurement:
    """Predictions stand still, Jacobians and loss gradient move with the values."""
    case = with_shortcut(draw)

    def age(kind: str, of: str, by: str, now: int) -> int:
        return 0 if kind == "prediction" else now

    return _still_pasts(case, age, still=lambda *_: True)


@claim(instances="random graphs and ages", quantity="relative error")
def fp_and_z_il_from_unified(draw: Draw) -> Measurement:
    """All frozen: fixed prediction, on any graph. In levels, any ages: exact at step k.

    Frozen runs against partial sums and against the package's rule; runs with random
    ages, and all live, at graded vertices' levels against autograd; parents of a vertex
    unmoved at its instant; parameter gradients of the package's Z-IL.
    """
    case, levelled = any_network(draw), tame(graded_network(draw))
    depth = case.depth
    sums = [shares(case, [j < n for j in range(depth)]) for n in range(depth + 1)]
    rule = FixedPrediction(1.0, depth)
    truth = levelled.parameter_gradients()
    return worst(
        all_near(case, states(case, Run(frozen, depth)), sums),
        all_near(case, states(case, rule), sums),
        _at_their_levels(levelled, live),
        _at_their_levels(levelled, drawn(draw, fresh=2)),
        near_gradients(levelled, gradients(levelled, Dynamics(ZIL())), truth),
    )


@dataclass(frozen=True)
class Dynamics:
    """A rule without its shortcut: what its steps teach, not what a theorem says."""

    rule: ZIL

    def run(self, graph: Graph) -> Iterator[Errors]:
        """The rule's own steps."""
        return self.rule.run(graph)


def _at_their_levels(case: Instance, age: Age) -> Measurement:
    """ε_i at step d_max(i) against autograd's δ_i, its parents still at v̂."""
    _, level = case.distances
    rule = Run(age, case.depth)
    found = states(case, rule)
    at_level = {i: found[level[i]][i] for i in case.hidden}
    moved = sum(
        bool(rule.u[level[c]][i].any()) for c in case.hidden for i in case.edges[c]
    )
    return worst(near(case, at_level, case.delta), exactly(float(moved)))


@fp_and_z_il_from_unified.control
def not_in_levels(draw: Draw) -> Measurement:
    """A shortcut to the loss, with all ingredients live."""
    return _at_their_levels(with_shortcut(draw), live)


@fp_and_z_il_from_unified.control
def loss_gradient_live(draw: Draw) -> Measurement:
    """A shortcut to the loss, and only the loss gradient is live."""
    case = with_shortcut(draw)
    return _at_their_levels(
        case, lambda kind, of, by, now: now if kind == "loss" else 0
    )


# ---- identity vertices ---------------------------------------------------------------


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
    own = dict.fromkeys((f"own {i}" for i in case.direct), _own_loss)
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
        below = [levels[c] for c in case.hidden if i in case.edges[c]]
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
        _at_their_levels(fine, live),
    ]


def _passing(
    case: Instance, level: Mapping[str, int], names: Sequence[str]
) -> dict[str, Tensor]:
    """Of δ_j, what comes from children that read the q-th copy or a later one."""
    lin = case.linear
    size = len(lin.g) // len(lin.names)
    place = {i: slice(k * size, (k + 1) * size) for k, i in enumerate(lin.names)}
    delta = lin.stacked(case.delta)
    found = {}
    for name in names:
        j, _, delay = name.partition("+")
        total = np.zeros(size)
        waits = theory.delays(case.edges, case.loss_parents, level)
        for (i, c), wait in waits.items():
            if i == j and wait >= int(delay or 0):
                loss = c == "loss"
                part = lin.M[place[j], place[c]] @ delta[place[c]] if not loss else 0
                total += lin.g[place[j]] if loss else part
        found[name] = torch.from_numpy(total).reshape(lin.shape)
    return found


def _as_the_package_runs_it(fine: Instance, case: Instance) -> Measurement:
    """Errors of `ZIL` on the network without copies, copies' too, at their instants."""
    found, (_, level) = all_states(case, ZIL()), fine.distances
    return near(fine, {i: found[level[i]].errors[i] for i in level}, fine.delta)


@identity_vertices.control
def no_identity_vertices(draw: Draw) -> Measurement:
    """The network with a shortcut as it is, each vertex read at its level."""
    return _at_their_levels(with_shortcut(draw), live)


@identity_vertices.control
def copies_without_errors(draw: Draw) -> Measurement:
    """Errors of identity vertices taken to be zero."""
    case = random_network(draw, least_depth=2, skip=True)
    fine = levelled_network(case, case.distances[1])
    copies = [i for i in fine.hidden if "+" in i]
    zero = {i: torch.zeros_like(d) for i, d in fine.delta.items()}
    return near(fine, {**fine.delta, **{i: zero[i] for i in copies}}, fine.delta)


@claim(instances="random graphs and levels", quantity="violations")
def identity_count(draw: Draw) -> Measurement:
    """At most N(N - 1)/2 identity vertices, attained; no levels are below d_max.

    The package's number against the sum of the longest delays; the bounds, for shared
    lines and for one line per edge, here and on the graphs that attain them.
    """
    case = random_network(draw)
    _, lowest = case.distances
    package = cut(case.network, case.closure, case.at).identity_vertices
    shared, apart = _counts(case.edges, case.loss_parents, lowest)
    count = len(case.hidden)
    names = [f"v{k}" for k in range(draw.integer(1, 9))]
    chain: Wiring = {v: tuple(names[max(k - 1, 0) : k]) for k, v in enumerate(names)}
    dense: Wiring = {v: tuple(names[:k]) for k, v in enumerate(names)}
    raised = _some_levels(case, draw)
    violations = [
        sum(package.values()) != shared,
        shared > math.comb(count, 2),
        apart > math.comb(count + 1, 3),
        _most(chain)[0] != math.comb(len(names), 2),
        _most(dense) != (math.comb(len(names), 2), math.comb(len(names) + 1, 3)),
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
    names = [f"v{k}" for k in range(draw.integer(2, 9))]
    chain: Wiring = {v: tuple(names[max(k - 1, 0) : k]) for k, v in enumerate(names)}
    return exactly(float(_most(chain)[0] > math.comb(len(names), 2) - 1))


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
    x, y = torch.randn(2, width, generator=draw.generator(), dtype=torch.float64)

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
    u, w = torch.randn(2, 2, generator=draw.generator(), dtype=torch.float64)

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
