"""Claims about patterns: levels and identity vertices that one can count on paper."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...graph import cut as cut_graph
from ..draw import Draw
from ..measuring import exactly
from ..networks import furnished
from ..registry import Measurement, claim, worst
from ..vertices import Wiring


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


def widened(branches: Sequence[Sequence[int]], named_sums: bool) -> Pattern:
    """The same with branches that are no rows: so many vertices at each place.

    All of a place read all of the place before; the last place has one vertex.
    """
    wiring: Wiring = {"stem": ()}
    stream = ["stem"]
    for b, sizes in enumerate(branches, 1):
        read = tuple(stream[-1:] if named_sums else stream)
        for r, size in enumerate((*sizes, 1), 1):
            here = tuple(f"{b}_{r}{side}" for side in "abc"[:size])
            wiring |= dict.fromkeys(here, read)
            read = here
        if named_sums:
            wiring[f"sum{b}"] = (stream[-1], *read)
        stream.append(f"sum{b}" if named_sums else read[0])
    row = residual([len(sizes) + 1 for sizes in branches], named_sums)
    copies = {stream[b]: row.copies.get(i, 0) for b, i in enumerate(_stream(row))}
    ends = stream[-1:] if named_sums else stream
    return Pattern(wiring, ends, row.depth, copies, row.graded)


def _stream(row: Pattern) -> list[str]:
    """The stem and what ends each block."""
    if len(row.loss_parents) > 1:
        return list(row.loss_parents)
    return [i for i in row.wiring if i == "stem" or i.startswith("sum")]


def cells(length: int) -> Pattern:
    """An LSTM cut at its states and memories; the last memory is a dead end."""
    wiring: Wiring = {}
    for t in range(1, length + 1):
        before = (f"h{t - 1}", f"c{t - 1}") if t > 1 else ()
        wiring |= {f"h{t}": before, **({f"c{t}": before} if t < length else {})}
    return Pattern(wiring, [f"h{length}"], length, {}, True)


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
    wide = [
        [draw.integer(1, 3) for _ in range(draw.integer(0, 2))]
        for _ in range(draw.integer(0, 3))
    ]
    pattern = draw.choice(
        [
            recurrent(layers, length, told),
            recurrent(layers, length, range(1, length + 1)),
            residual(branches, True),
            residual(branches, False),
            widened(wide, True),
            widened(wide, False),
            gated(length),
            cells(length),
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
