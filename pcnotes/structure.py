"""Which values feed which predictions, read off the graph of autograd."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor
from torch.autograd.graph import GradientEdge

Root = Tensor | GradientEdge


class Origin(NamedTuple):
    """What a tensor was made of: the values of its parents, and other leaves."""

    parents: tuple[str, ...]
    leaves: tuple[Tensor, ...]  # parameters, and inputs that require grad


@dataclass(frozen=True)
class Structure:
    """Parents and levels of the vertices that the loss depends on.

    The level of a vertex is the largest number of edges from it to the loss, where
    outputs are part of the loss: 0 for outputs. `nearest` is the smallest such number.
    """

    vertices: tuple[str, ...]
    hidden: tuple[str, ...]
    outputs: tuple[str, ...]
    unreached: tuple[str, ...]
    parents: dict[str, tuple[str, ...]]
    levels: dict[str, int]
    nearest: dict[str, int]
    loss_parents: tuple[str, ...]  # hidden, read by the loss or by an output

    @cached_property
    def depth(self) -> int:
        """The largest level, K."""
        return max(self.levels.values(), default=0)

    @cached_property
    def by_level(self) -> tuple[tuple[str, ...], ...]:
        """The vertices of level 0, 1, …, K, each in order of execution."""
        found: list[list[str]] = [[] for _ in range(self.depth + 1)]
        for i in self.vertices:
            found[self.levels[i]].append(i)
        return tuple(map(tuple, found))

    @cached_property
    def graded(self) -> bool:
        """Whether all ways from a vertex to the loss have the same length."""
        return self.levels == self.nearest

    @cached_property
    def identity_vertices(self) -> dict[str, int]:
        """How many delayed copies each value needs so that every edge spans one level.

        One delay line per vertex serves all of its children.
        """
        lowest = {j: self.levels[j] for j in self.hidden}
        for j in self.loss_parents:
            lowest[j] = 0
        for child in self.hidden:
            for j in self.parents[child]:
                lowest[j] = min(lowest[j], self.levels[child])
        spans = {j: self.levels[j] - lowest[j] - 1 for j in self.hidden}
        return {j: n for j, n in spans.items() if n}


def read_structure(loss: Origin, vertices: Mapping[str, Origin]) -> Structure:
    """From what the loss and every prediction were made of, in order of execution.

    What the loss cannot be reached from is pruned: it has no value and no energy.
    """
    levels = dict.fromkeys(loss.parents, 0)
    hidden: set[str] = set()
    for child in reversed(list(vertices)):
        if child not in levels:
            continue
        for parent in vertices[child].parents:
            hidden.add(parent)
            levels[parent] = max(levels.get(parent, 0), levels[child] + 1)
    reached = tuple(i for i in vertices if i in levels)
    outputs = tuple(i for i in reached if i not in hidden)
    near = {*loss.parents, *(j for i in outputs for j in vertices[i].parents)}
    nearest: dict[str, int] = dict.fromkeys(outputs, 0)
    nearest |= {i: 1 for i in near if i in hidden}
    for child in reversed(reached):
        for parent in vertices[child].parents:
            step = nearest[child] + 1
            nearest[parent] = min(nearest.get(parent, step), step)
    return Structure(
        vertices=reached,
        hidden=tuple(i for i in reached if i in hidden),
        outputs=outputs,
        unreached=tuple(i for i in vertices if i not in levels),
        parents={i: vertices[i].parents for i in reached},
        levels={i: levels[i] for i in reached},
        nearest={i: nearest[i] for i in reached},
        loss_parents=tuple(i for i in reached if i in near and i in hidden),
    )


def origins(roots: Sequence[Root], values: Mapping[str, Tensor]) -> list[Origin]:
    """For every root, which of these values and which other leaves it was made of."""
    leaves, masks = _reach(roots)
    owner = {id(v): (k, i) for k, (i, v) in enumerate(values.items())}
    owners = [owner.get(id(leaf)) for leaf in leaves]

    def origin(mask: int) -> Origin:
        parents, others = [], []
        for k in _bits(mask):
            if (found := owners[k]) is None:
                others.append(leaves[k])
            else:
                parents.append(found)
        return Origin(tuple(i for _, i in sorted(parents)), tuple(others))

    return [origin(mask) for mask in masks]


def made_by(root: Root) -> Any:
    """The node of autograd that made this tensor, or to which this edge leads."""
    return root.grad_fn if isinstance(root, Tensor) else root.node


def _reach(roots: Sequence[Root]) -> tuple[list[Tensor], list[int]]:
    """The leaves below these roots, and which of them each root reaches, as bits."""
    leaves: list[Tensor] = []
    known: dict[Any, int] = {}
    visited: dict[Any, int] = {}
    masks = [
        _walk(made_by(root), k, leaves, known, visited) for k, root in enumerate(roots)
    ]
    return leaves, masks


def _walk(
    start: Any,
    root: int,
    leaves: list[Tensor],
    known: dict[Any, int],
    visited: dict[Any, int],
) -> int:
    """Which leaves this node of autograd reaches, as bits.

    visited: from which root a node was met first. What several roots share is walked
    once more when the second one meets it, and known from then on.
    """
    bits, stack = 0, [start]
    while stack:
        node = stack.pop()
        below = node.next_functions
        if not below and hasattr(node, "variable"):
            known[node] = 1 << len(leaves)
            leaves.append(node.variable)
            bits |= known[node]
        for n, _ in below:
            if n is None:
                continue
            if n in known:
                bits |= known[n]
            elif n not in visited:
                visited[n] = root
                stack.append(n)
            elif visited[n] != root:
                known[n] = _walk(n, root, leaves, known, {})
                bits |= known[n]
    return bits


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
