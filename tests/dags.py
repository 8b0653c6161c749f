"""Random models: modules of many kinds, wired as a random directed acyclic graph.

`dags()` is a Hypothesis strategy. A drawn `Dag` knows its own wiring, so it can say
without pcnotes what the vertices are, who feeds whom, and what every vertex predicts at
any values; its repr is the program that it runs. The simplest example is a linear layer
with a sum of squares, the next a chain.
"""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

Values = dict[str, Tensor]

# ---- modules -------------------------------------------------------------------------


class Perceptron(nn.Sequential):
    """A vertex with modules inside."""

    def __init__(self, wide: int, out: int) -> None:
        super().__init__(nn.Linear(wide, 3), nn.Tanh(), nn.Linear(3, out))


class Counted(nn.Linear):
    """A linear map that counts its calls in a buffer."""

    def __init__(self, wide: int, out: int) -> None:
        super().__init__(wide, out)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Gate(nn.Module):
    """The product of its two inputs, each under weights of its own."""

    def __init__(self, wide: int, other: int, out: int) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.empty(out, wide))
        self.right = nn.Parameter(torch.empty(out, other))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return F.linear(x, self.left) * F.linear(z, self.right)


class Fork(Gate):
    """Two outputs with names; the first reads the first input alone."""

    def forward(self, x: Tensor, z: Tensor) -> Mapping[str, Tensor]:
        return {"plain": F.linear(x, self.left), "mixed": super().forward(x, z)}


class Memory(nn.LSTMCell):
    """The state goes in as a tuple and comes out as one."""

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x, (h, c))


@dataclass(frozen=True)
class Kind:
    """How a module is built and called.

    inputs: how many; free: how many of them have a width of their own, the others are
    as wide as the output. outputs: {path in what it returns: inputs that it reads}.
    """

    make: type[nn.Module]
    inputs: int = 1
    free: int = 1
    outputs: tuple[tuple[str, tuple[int, ...]], ...] = (("", (0,)),)


BOTH = (("", (0, 1)),)
KINDS = {
    "linear": Kind(nn.Linear),
    "perceptron": Kind(Perceptron),
    "norm": Kind(nn.LayerNorm, free=0),
    "counted": Kind(Counted),
    "gate": Kind(Gate, 2, 2, BOTH),
    "bilinear": Kind(nn.Bilinear, 2, 2, BOTH),
    "recurrent": Kind(nn.GRUCell, 2, 1, BOTH),
    "fork": Kind(Fork, 2, 2, (("['plain']", (0,)), ("['mixed']", (0, 1)))),
    "memory": Kind(Memory, 3, 1, (("[0]", (0, 1, 2)), ("[1]", (0, 1, 2)))),
    "identity": Kind(nn.Identity, free=0),  # drawn by none, see `levelled`
}
ALL = tuple(k for k in KINDS if k != "identity")
SINGLE = tuple(k for k in ALL if len(KINDS[k].outputs) == 1)
SQUASHES = {
    "": lambda t: t,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "softplus": F.softplus,
}
# What multiplies gets bounded factors: eight products in a row would overflow.
BOUNDED = ("tanh", "sigmoid")
MULTIPLIES = ("gate", "bilinear", "fork")


def squares(t: Tensor, y: Tensor) -> Tensor:
    return (t - y).square().sum()


def classes(t: Tensor, y: Tensor) -> Tensor:
    """One more class, so that a width of one is a classifier too."""
    labels = torch.arange(len(t)) % (t.shape[-1] + 1)
    return F.cross_entropy(F.pad(t, (0, 1)), labels)


LOSSES = {"squares": squares, "mean_squares": F.mse_loss, "cross_entropy": classes}


def fit(t: Tensor, width: int) -> Tensor:
    """Cropped, or padded with zeros: any tensor can go into any module."""
    return t if t.shape[-1] == width else F.pad(t, (0, width - t.shape[-1]))


# ---- plans ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A module: its kind, the widths that go in and the width that comes out."""

    kind: str
    widths: tuple[int, ...]
    out: int

    def build(self) -> nn.Module:
        kind = KINDS[self.kind]
        if self.kind == "norm":  # a large eps bounds its Jacobian
            return nn.LayerNorm(self.out, eps=0.1)
        return kind.make(*self.widths[: kind.free], self.out)


@dataclass(frozen=True)
class Argument:
    """What goes into a module: sources, squashed, then merged."""

    sources: tuple[str, ...]
    merge: str = "sum"
    squash: str = ""

    def __str__(self) -> str:
        terms = [f"{self.squash}({s})" if self.squash else s for s in self.sources]
        joint = {"sum": " + ", "product": " * ", "concatenation": ", "}[self.merge]
        text = joint.join(terms)
        return f"[{text}]" if self.merge == "concatenation" and terms[1:] else text

    def width(self, widths: Mapping[str, int]) -> int:
        given = [widths[s] for s in self.sources]
        return sum(given) if self.merge == "concatenation" else min(given)

    def gather(self, values: Mapping[str, Tensor]) -> Tensor:
        terms = [SQUASHES[self.squash](values[s]) for s in self.sources]
        if self.merge == "concatenation":
            return torch.cat(terms, -1)
        narrowest = min(t.shape[-1] for t in terms)
        terms = [fit(t, narrowest) for t in terms]
        multiply = self.merge == "product"
        return functools.reduce(torch.mul if multiply else torch.add, terms)


@dataclass(frozen=True)
class Call:
    """One call of a module: the names of its outputs, and what goes in."""

    part: str
    outputs: tuple[str, ...]
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class Plan:
    """Everything about a model; equal plans build equal models.

    terms: (vertex, loss) pairs whose sum is the loss.
    """

    parts: tuple[tuple[str, Part], ...]
    calls: tuple[Call, ...]
    terms: tuple[tuple[str, str], ...]
    wide: int = 1
    batch: int = 1
    dtype: str = "float64"
    seed: int = 0

    def __str__(self) -> str:
        head = f"x: {self.batch} x {self.wide}, {self.dtype}, seed {self.seed}"
        parts = dict(self.parts)
        lines = [
            f"{', '.join(c.outputs)} = {parts[c.part].kind}_{c.part}"
            f"({'; '.join(map(str, c.arguments))}) -> {parts[c.part].out}"
            for c in self.calls
        ]
        loss = " + ".join(f"{kind}({vertex})" for vertex, kind in self.terms)
        return "\n    ".join([head, *lines, f"loss = {loss}"])


# ---- wiring --------------------------------------------------------------------------


@dataclass(frozen=True)
class Wiring:
    """What a wiring says about its graph, by definition.

    reads: {vertex: the vertices that it reads}, in order of execution, dead ends
    included. losses: the vertices that have a loss of their own.
    """

    reads: Mapping[str, tuple[str, ...]]
    losses: frozenset[str]

    @functools.cached_property
    def reached(self) -> tuple[str, ...]:
        """Vertices with a path to the loss."""
        found = set(self.losses)
        for i in reversed(self.reads):
            if i in found:
                found.update(self.reads[i])
        return tuple(i for i in self.reads if i in found)

    @property
    def unreached(self) -> tuple[str, ...]:
        return tuple(i for i in self.reads if i not in self.reached)

    @functools.cached_property
    def children(self) -> dict[str, tuple[str, ...]]:
        """Who reads a vertex; dead ends do not count."""
        return {
            i: tuple(c for c in self.reached if i in self.reads[c])
            for i in self.reached
        }

    @property
    def hidden(self) -> tuple[str, ...]:
        return tuple(i for i in self.reached if self.children[i])

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(i for i in self.reached if not self.children[i])

    @functools.cached_property
    def levels(self) -> dict[str, int]:
        """Edges on the longest path to the loss, to which the outputs belong."""
        found: dict[str, int] = {}
        for i in reversed(self.reached):
            found[i] = max((1 + found[c] for c in self.children[i]), default=0)
        return {i: found[i] for i in self.reached}

    @property
    def depth(self) -> int:
        return max(self.levels.values())

    @functools.cached_property
    def copies(self) -> dict[str, int]:
        """How often each hidden vertex must be handed on until every edge spans one.

        A delay line is as long as the longest edge that leaves the vertex, edges to
        the loss included.
        """
        ends = {i: [self.levels[c] for c in self.children[i]] for i in self.hidden}
        for i in self.losses.intersection(ends):
            ends[i].append(0)
        return {i: self.levels[i] - min(below) - 1 for i, below in ends.items()}


# ---- models --------------------------------------------------------------------------


class Dag(nn.Module):
    """A plan, built. Its children are the vertices: cut it at `dag.parts`."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        dtype = getattr(torch, plan.dtype)
        for name, part in plan.parts:
            self.add_module(name, part.build().to(dtype))
        generator = torch.Generator().manual_seed(plan.seed)

        def normal(*shape: int) -> Tensor:
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
            return drawn.to(dtype)

        with torch.no_grad():
            for p in self.parameters():
                # Entries of size one: neither saturated nor linear.
                p.copy_(normal(*p.shape) / max(p.shape[-1], 2) ** 0.5)
        self.x = normal(plan.batch, plan.wide)
        self.y = normal(plan.batch, 1)
        kinds = {name: KINDS[part.kind] for name, part in plan.parts}
        names = [i for call in plan.calls for i in call.outputs]
        reads = {}
        for call in plan.calls:
            paths = kinds[call.part].outputs
            for i, (_, inputs) in zip(call.outputs, paths, strict=True):
                found = {s for k in inputs for s in call.arguments[k].sources}
                reads[i] = tuple(j for j in names if j in found)
        self.wiring = Wiring(reads, frozenset(i for i, _ in plan.terms))

    @property
    def parts(self) -> list[nn.Module]:
        return list(self.children())

    def float64(self) -> Dag:
        """The same weights and data, in float64."""
        twin = copy.deepcopy(self).double()
        twin.x = self.x.detach().double().requires_grad_(self.x.requires_grad)
        twin.y = self.y.double()
        return twin

    def forward(self) -> Tensor:
        """The loss: what a user's closure would return."""
        return self.run()[1]

    def run(self, values: Mapping[str, Tensor] | None = None) -> tuple[Values, Tensor]:
        """(predictions of all vertices, loss); values go downstream in their place."""
        predictions: Values = {}
        handed: Values = {"x": self.x}
        for call in self.plan.calls:
            predictions.update(self._predict(call, handed))
            for i in call.outputs:
                handed[i] = (values or {}).get(i, predictions[i])
        losses = [
            LOSSES[kind](handed[i], self.y.expand(handed[i].shape))
            for i, kind in self.plan.terms
        ]
        return predictions, functools.reduce(torch.add, losses)

    def _predict(self, call: Call, values: Mapping[str, Tensor]) -> Values:
        part = dict(self.plan.parts)[call.part]
        inputs = [
            fit(argument.gather(values), width)
            for argument, width in zip(call.arguments, part.widths, strict=True)
        ]
        output = self.get_submodule(call.part)(*inputs)
        if isinstance(output, dict):
            output = tuple(output.values())
        tensors = output if isinstance(output, tuple) else (output,)
        return dict(zip(call.outputs, tensors, strict=True))

    def __repr__(self) -> str:
        return str(self.plan)


def layers(reads: Mapping[str, str]) -> Dag:
    """Linear layers one wide, by hand: {layer: what it sums}; the last has a loss."""
    return Dag(
        Plan(
            tuple((name, Part("linear", (1,), 1)) for name in reads),
            tuple(
                Call(name, (name,), (Argument(tuple(sources.split())),))
                for name, sources in reads.items()
            ),
            ((list(reads)[-1], "squares"),),
        )
    )


def levelled(dag: Dag) -> Dag:
    """The same network with every edge one level long, without dead ends.

    Delay lines of identity modules `a+1`, `a+2`, … carry what is read further down.
    For modules with one output, since another might be on another level.
    """
    levels, copies = dag.wiring.levels, dag.wiring.copies

    def seen(vertex: str, level: int) -> str:
        """The copy of a vertex that this level reads."""
        delay = levels[vertex] - level - 1 if vertex in copies else 0
        return f"{vertex}+{delay}" if delay else vertex

    calls: list[Call] = []
    for call in dag.plan.calls:
        (vertex,) = call.outputs
        if vertex not in levels:
            continue
        arguments = [
            replace(a, sources=tuple(seen(s, levels[vertex]) for s in a.sources))
            for a in call.arguments
        ]
        calls.append(replace(call, arguments=tuple(arguments)))
        for q in range(copies.get(vertex, 0)):
            source = f"{vertex}+{q}" if q else vertex
            name = f"{vertex}+{q + 1}"
            calls.append(Call(name, (name,), (Argument((source,)),)))
    parts = dict(dag.plan.parts)
    for call in calls:
        if call.part not in parts:
            width = parts[call.part.split("+")[0].split("@")[0]].out
            parts[call.part] = Part("identity", (width,), width)
    terms = tuple((seen(i, 0), kind) for i, kind in dag.plan.terms)
    return Dag(
        replace(dag.plan, parts=tuple(parts.items()), calls=tuple(calls), terms=terms)
    )


# ---- strategies ----------------------------------------------------------------------


@st.composite
def dags(
    draw,
    kinds: Sequence[str] = ALL,
    squashes: Sequence[str] = tuple(SQUASHES),
    losses: Sequence[str] = tuple(LOSSES),
    dtypes: Sequence[str] = ("float64",),
    most: int = 8,
    chain: bool = False,
    merges: Sequence[str] = ("sum", "concatenation", "product"),
    widest: int = 3,
) -> Dag:
    """Models of up to `most` calls.

    chain: every call has a module of its own and reads the call before it alone.
    """
    wide = draw(st.integers(1, widest))
    widths = {"x": wide}
    recent = ["x"]  # the most recent first: what is drawn shrinks to a chain
    parts: dict[str, Part] = {}
    drafts: list[tuple[str, tuple[Argument, ...]]] = []
    count = draw(st.integers(1, most))
    fan_in = 1 if chain else 3

    def argument(squashes: Sequence[str]) -> Argument:
        reach = 0 if chain else len(recent) - 1
        places = draw(st.lists(st.integers(0, reach), min_size=1, max_size=fan_in))
        merge = draw(st.sampled_from(merges)) if places[1:] else merges[0]
        squash = draw(st.sampled_from(squashes))
        if merge == "product" and squash not in BOUNDED:
            squash = BOUNDED[0]
        return Argument(tuple(recent[p] for p in places), merge, squash)

    for _ in range(count):
        shared = None
        if parts and not chain and draw(st.booleans()):
            shared = draw(st.sampled_from(sorted(parts)))
        kind = parts[shared].kind if shared else draw(st.sampled_from(kinds))
        allowed = BOUNDED if kind in MULTIPLIES else squashes
        arguments = tuple(argument(allowed) for _ in range(KINDS[kind].inputs))
        part = shared or chr(ord("a") + len(parts))
        if not shared:
            natural = [a.width(widths) for a in arguments]
            out = max(natural[0], 2) if kind == "norm" else draw(st.integers(1, widest))
            free = natural[: KINDS[kind].free]
            rest = [out] * (len(natural) - len(free))
            parts[part] = Part(kind, (*free, *rest), out)
        drafts.append((part, arguments))
        # Provisional names: whether a module is called twice shows at the end.
        made = [f"{len(drafts)}{path}" for path, _ in KINDS[kind].outputs]
        widths.update(dict.fromkeys(made, parts[part].out))
        recent[:0] = reversed(made)
    terms = {recent[0]: draw(st.sampled_from(losses))}
    if not chain:
        more = draw(st.lists(st.sampled_from(recent[:-1]), max_size=2))
        terms |= {i: draw(st.sampled_from(losses)) for i in more}
    final = _names(parts, [part for part, _ in drafts])
    return Dag(
        Plan(
            tuple(parts.items()),
            tuple(
                Call(
                    part,
                    tuple(final[f"{k}{path}"] for path, _ in KINDS[kind].outputs),
                    tuple(
                        replace(a, sources=tuple(final[s] for s in a.sources))
                        for a in arguments
                    ),
                )
                for k, (part, arguments) in enumerate(drafts, 1)
                for kind in [parts[part].kind]
            ),
            tuple((final[i], kind) for i, kind in terms.items()),
            wide,
            draw(st.integers(1, 4)),
            draw(st.sampled_from(dtypes)),
            draw(st.integers(0, 99)),
        )
    )


def _names(parts: Mapping[str, Part], calls: Sequence[str]) -> dict[str, str]:
    """{provisional name: name}: `@k` if the module is called more than once."""
    names, seen = {"x": "x"}, Counter()
    for k, part in enumerate(calls, 1):
        seen[part] += 1
        which = f"@{seen[part]}" if calls.count(part) > 1 else ""
        for path, _ in KINDS[parts[part].kind].outputs:
            names[f"{k}{path}"] = f"{part}{which}{path}"
    return names
