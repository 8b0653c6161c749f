"""One cell after the other, each kept at once."""

from __future__ import annotations

import errno
import gc
import random
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from pcnotes.data.memory import ran_out

from . import results
from .journal import BusyError, Journal
from .sources import Sources
from .study import C, Numbers, Study, name, plain, settings

Say = Callable[[str], object]

INTERRUPTED = 130


@dataclass(frozen=True)
class Order:
    """What the user asked for. command: as it was typed. again: what goes on with it.

    out: the file of results. journal: the file beside it. anew: what the journal holds
    is measured again.
    """

    sources: Sources
    quick: bool
    out: Path
    command: str
    again: str
    anew: bool = False

    @property
    def journal(self) -> Path:
        """One for both forms: what the quick one measured, the full one has."""
        stem = self.out.stem.removesuffix("-quick")
        return self.out.with_name(f"{stem}.journal.jsonl")

    @property
    def part(self) -> Path:
        """Where results go that lack cells: they replace nothing that is whole."""
        return self.out.with_name(f"{self.out.stem}-part{self.out.suffix}")


def run(study: Study[C], order: Order, say: Say = print) -> int:
    """Exit status: 0; 1 if a cell failed or found no room; INTERRUPTED after ctrl-C."""
    cells = study.chosen(order.sources, order.quick)
    if order.anew and order.quick:
        with Journal.open(order.journal) as journal:
            if rest := _only_full(study, order, journal):
                raise BusyError(
                    f"{order.journal} holds {rest} cells of a full run that was broken "
                    "off; --quick --anew would forget them. Finish that run, or"
                )
    with Journal.open(order.journal, order.anew) as journal:
        todo = _todo(study, cells, journal, say)
        failed: list[str] = []
        try:
            failed = _measure(study, todo, len(cells), order, journal, say)
        except KeyboardInterrupt:
            done = sum(study.key(cell) in journal.rows for cell in cells)
            say(
                f"\nstopped: {done} of {len(cells)} cells are done and kept in "
                f"{journal.path}. This goes on from there:\n  {order.again}"
            )
            _all_kept(journal, say)
            return INTERRUPTED
        return _conclude(study, cells, order, journal, failed, say)


def _todo(study: Study[C], cells: Sequence[C], journal: Journal, say: Say) -> list[C]:
    """What is not measured yet; what once ended a run comes last."""
    if journal.damaged:
        say(f"{journal.path}: {journal.damaged} lines cannot be read and do not count")
    keys = {study.key(cell): cell for cell in cells}
    todo = [cell for key, cell in keys.items() if key not in journal.rows]
    if done := len(cells) - len(todo):
        say(f"{done} of {len(cells)} cells stand in {journal.path}")
        now = results.sources()
        theirs = [
            journal.runs[row["run"]] for key, row in journal.rows.items() if key in keys
        ]
        if other := [run for run in theirs if run["sources"] != now]:
            commits = ", ".join(sorted({str(run["commit"])[:10] for run in other}))
            say(
                f"{len(other)} of them were measured with other code than is here now "
                f"(at {commits}); --anew measures all again"
            )
    late = [cell for cell in todo if study.key(cell) in journal.begun]
    if late:
        say(
            f"{len(late)} cells were begun before and not finished; they come last: "
            + "; ".join(map(name, late))
        )
    return [cell for cell in todo if cell not in late] + late


def _measure(
    study: Study[C],
    todo: Sequence[C],
    total: int,
    order: Order,
    journal: Journal,
    say: Say,
) -> list[str]:
    """The names of cells that failed."""
    failed: list[str] = []
    this = uuid.uuid4().hex[:12]
    with tqdm(total=total, initial=total - len(todo), unit="cell", disable=None) as bar:
        for cell in todo:
            if this not in journal.runs:
                journal.add({"run": this, "machine": results.machine(order.command)})
            key = study.key(cell)
            bar.set_description(name(cell))
            journal.add({"begun": key})
            try:
                numbers, seconds = _one(study, cell, order.sources)
            except Exception as error:
                with tqdm.external_write_mode():
                    say(f"{name(cell)}: {reason(error)}")
                failed.append(name(cell))
                gc.collect()
            else:
                journal.add(
                    {
                        "cell": key,
                        "run": this,
                        "settings": settings(cell),
                        "numbers": numbers,
                        "seconds": round(seconds, 3),
                    }
                )
            bar.update()
    return failed


def _one(study: Study[C], cell: C, sources: Sources) -> tuple[Numbers, float]:
    """The numbers, and the time of the process. No cell can feel which came before."""
    random.seed(cell.seed)
    np.random.seed(cell.seed % 2**32)
    torch.manual_seed(cell.seed)
    begun = time.process_time()
    found = study.measure(cell, sources)
    seconds = time.process_time() - begun
    if not isinstance(found, dict) or not found:
        raise TypeError(f"measure must return a dict of numbers, it returned {found!r}")
    return plain(found, "the result"), seconds


def reason(error: Exception) -> str:
    """What went wrong, and what can be done; a traceback if nobody foresaw it."""
    if ran_out(error):
        return (
            f"out of memory ({_first_line(error)}). The other cells go on; close other "
            "programs and run the same command again for this one"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space is left on the disk ({error}). The other cells go on; make room "
            "and run the same command again for this one"
        )
    if isinstance(error, OSError | ImportError):
        return f"{type(error).__name__}: {error}"
    return "".join(traceback.format_exception(error)).rstrip()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _all_kept(journal: Journal, say: Say) -> bool:
    """Whether the journal is on disk; what is not is shown, so that it is not lost."""
    if journal.flush():
        return True
    say(
        f"{journal.path} cannot be written: is the disk full? These lines belong at "
        "its end; make room and append them, and nothing is lost:"
    )
    for line in journal.waiting:
        sys.stdout.write(line.decode())
    return False


def _conclude(
    study: Study[C],
    cells: Sequence[C],
    order: Order,
    journal: Journal,
    failed: Sequence[str],
    say: Say,
) -> int:
    """Write the results; a journal ends when all of it stands in a file of results."""
    found = results.document(study, cells, journal.rows, journal.runs, order.quick)
    file = order.part if failed else order.out
    try:
        results.write(file, found)
    except OSError as error:
        say(
            f"{file} cannot be written ({error.strerror}); nothing is lost, it is made "
            f"from {journal.path} without measuring again:\n  {order.again}"
        )
        _all_kept(journal, say)
        return 1
    say(f"written: {file}")
    if failed:
        say(
            f"{len(failed)} of {len(cells)} cells failed:\n  "
            + "\n  ".join(failed)
            + f"\nthe others are kept in {journal.path}; this tries those again:\n"
            f"  {order.again}"
        )
        _all_kept(journal, say)
        return 1
    if order.quick and (rest := _only_full(study, order, journal)):
        say(
            f"{rest} cells of the full form are kept in {journal.path}; "
            "the command without --quick goes on from there"
        )
        return 0
    journal.remove()
    return 0


def _only_full(study: Study[C], order: Order, journal: Journal) -> int:
    """How many cells a full run has left in the journal that the quick form lacks."""
    cells = [cell for cell in study.chosen(order.sources) if not study.quick(cell)]
    return sum(study.key(cell) in journal.rows for cell in cells)
