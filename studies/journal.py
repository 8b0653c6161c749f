"""The journal of a study: JSON lines, each on disk before the next cell begins."""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any

Row = dict[str, Any]
# How every journal begins.
FIRST = b'{"run": '


class BusyError(Exception):
    """Another run is writing this journal."""


@dataclass
class Journal:
    """What is known of earlier runs, and a place for what comes.

    Three kinds of lines. {"run": name, "machine": …}: a run began there.
    {"begun": key}: it began a cell. {"cell": key, "run": name, "settings": …,
    "numbers": …, "seconds": …}: it finished that cell.

    rows: the newest line of each finished cell, by key. runs: the machines, by name.
    begun: keys of all cells that were begun. damaged: how many lines cannot be read.
    waiting: lines for which the disk had no room.
    """

    path: Path
    file: io.FileIO
    rows: dict[str, Row] = field(default_factory=dict)
    runs: dict[str, Row] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    damaged: int = 0
    waiting: list[bytes] = field(default_factory=list)

    @classmethod
    @contextmanager
    def open(cls, path: Path, anew: bool = False) -> Iterator[Journal]:
        """Read what is there, and keep the file to oneself; anew: forget it."""
        with io.FileIO(path, "a+") as file:  # not buffered: a line is written, or not
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    f"another run is writing {path}; wait for its end"
                ) from None
            journal = cls(path, file)
            journal._read()
            if anew:
                file.truncate(0)
                journal = cls(path, file)
            yield journal

    def _read(self) -> None:
        """Take over every whole line, and cut off a last one that was torn."""
        self.file.seek(0)
        text = self.file.readall() or b""
        whole = text[: text.rfind(b"\n") + 1]
        if not whole and not (text.startswith(FIRST) or FIRST.startswith(text)):
            raise FileExistsError(
                f"{self.path} is no journal of a study; nothing was changed in it"
            )
        self.file.truncate(len(whole))
        for line in whole.splitlines():
            try:
                self._take(_checked(json.loads(line, parse_constant=_refuse)))
            except (ValueError, KeyError, TypeError, AttributeError):
                self.damaged += 1
        # Numbers of which nobody knows where they were measured are measured again.
        self.rows = {k: row for k, row in self.rows.items() if row["run"] in self.runs}

    def _take(self, row: Row) -> None:
        if "cell" in row:
            self.rows[row["cell"]] = {
                k: row[k] for k in ("run", "settings", "numbers", "seconds")
            }
        elif "begun" in row:
            self.begun.add(row["begun"])
        else:
            self.runs[row["run"]] = row["machine"]

    def add(self, row: Row) -> None:
        """Keep this line: on disk, or `waiting` until there is room."""
        self._take(row)
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
        self.waiting.append(text.encode() + b"\n")
        self.flush()

    def flush(self) -> bool:
        """Write what waits; whether all of it is on disk."""
        while self.waiting:
            end = os.fstat(self.file.fileno()).st_size
            try:
                if self.file.write(self.waiting[0]) != len(self.waiting[0]):
                    raise OSError("only a part of the line was written")
                os.fsync(self.file.fileno())
            except OSError:
                self.file.truncate(end)
                return False
            del self.waiting[0]
        return True

    def remove(self) -> None:
        """All of it stands in a file of results."""
        self.path.unlink(missing_ok=True)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of a cell")


def _checked(row: Row) -> Row:
    """The same, if each part of the line is of its kind."""
    kinds: dict[str, type | UnionType] = {"begun": str}
    if "cell" in row:
        kinds = {"cell": str, "run": str, "settings": dict, "numbers": dict}
        kinds["seconds"] = int | float
    elif "run" in row:
        kinds = {"run": str, "machine": dict}
    for key, kind in kinds.items():
        if not isinstance(row[key], kind):
            raise TypeError(f"{key} is {row[key]!r}")
    if "machine" in kinds and not {"commit", "sources"} <= row["machine"].keys():
        raise ValueError("the machine does not say with which code it measured")
    return row
