"""The file of results: what it holds, and how two of them are compared."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench import report

from .journal import Row
from .study import C, Study, Tolerance, name, settings

FOLDER = Path(__file__).resolve().parent / "results"
SCHEMA = 1
CODE = ("pcnotes", "studies", ":(exclude)studies/results")

Document = dict[str, Any]


def machine(command: str) -> Row:
    """Everything that a reader needs to judge the numbers of a run."""
    return report.machine("cpu", CODE) | {
        "command": command,
        "sources": sources(),
        "arithmetic": arithmetic(),
        "mlxtend": _version("mlxtend"),
        "scikit-learn": _version("scikit-learn"),
    }


def sources() -> str:
    """A digest of the code that measures: of the package and of the studies."""
    root = FOLDER.parent.parent
    digest = hashlib.sha256()
    for folder in ("pcnotes", "studies"):
        for file in sorted((root / folder).rglob("*.py")):
            digest.update(file.relative_to(root).as_posix().encode() + b"\0")
            digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def arithmetic() -> str:
    """Equal where the same operation gives the same bits on one thread.

    A digest of what chooses the order of sums: the processor with its caches and its
    instructions, and PyTorch with its libraries.
    """
    said = [torch.__version__, torch.__config__.show()]
    said.append(torch.backends.cpu.get_cpu_capability())
    info = Path("/proc/cpuinfo")
    if info.exists():
        kept = ("vendor_id", "cpu family", "model", "stepping", "cache size", "flags")
        lines = info.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
        said += [line for line in lines if line.partition("\t")[0].strip() in kept]
    caches = Path("/sys/devices/system/cpu/cpu0/cache")
    said += [f.read_text() for f in sorted(caches.glob("index*/size"))]
    chosen = ("MKL_", "ONEDNN_", "DNNL_", "ATEN_CPU_CAPABILITY")
    said += [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(chosen)]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def document(
    study: Study[C],
    cells: Sequence[C],
    rows: Mapping[str, Row],
    runs: Mapping[str, Row],
    quick: bool,
) -> Document:
    """Sorted by settings: the order in which cells were finished does not matter.

    rows: by key; a cell without one is left out. runs: machines; only those that
    measured one of these cells are kept, in their order, and numbered.
    """
    done = [(cell, rows[k]) for cell in cells if (k := study.key(cell)) in rows]
    done.sort(key=lambda pair: name(pair[0]))
    used = [run for run in runs if any(row["run"] == run for _, row in done)]
    return {
        "schema": SCHEMA,
        "study": study.name,
        "about": study.about,
        "version": study.version,
        "quick": quick,
        "runs": [runs[run] for run in used],
        "cells": [
            {
                "settings": settings(cell),
                "numbers": row["numbers"],
                "seconds": row["seconds"],
                "run": used.index(row["run"]),
            }
            for cell, row in done
        ],
    }


def write(file: Path, results: Document) -> None:
    """Whole or not at all."""
    text = json.dumps(
        results, indent=1, ensure_ascii=False, allow_nan=False, sort_keys=True
    )
    beside = file.with_name(f"{file.name}.new")
    try:
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def read(study: str, file: Path | None = None) -> Document:
    """The stored results of a study."""
    path = file or FOLDER / f"{study}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path}; `python -m studies {study}` makes it"
        )
    way = f"`git checkout` brings a stored file back, `python -m studies {study}` "
    way += "makes it anew"
    try:
        found: Document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {way}") from error
    is_document = isinstance(found, dict)
    if not is_document or (found.get("schema"), found.get("study")) != (SCHEMA, study):
        raise ValueError(
            f"{path} does not hold results of {study} in form {SCHEMA}; {way}"
        )
    if wrong := _incomplete(found):
        raise ValueError(f"{path} is damaged ({wrong}); {way}")
    return found


def _incomplete(found: Document) -> str | None:
    """What results lack of their form, in words."""
    runs, cells = found.get("runs"), found.get("cells")
    if not isinstance(runs, list) or not isinstance(cells, list):
        return "its runs and cells are not lists"
    for k, cell in enumerate(cells):
        if not isinstance(cell, dict):
            return f"cell {k} is {cell!r}"
        for key in ("settings", "numbers"):
            if not isinstance(cell.get(key), dict):
                return f"cell {k} has no {key}"
        if cell.get("run") not in range(len(runs)):
            return f"cell {k} is of run {cell.get('run')!r}, and {len(runs)} are there"
    return None


def differences(
    study: Study[C], cells: Sequence[C], stored: Document, found: Document
) -> list[str]:
    """Where two files of results disagree on these cells, in words; empty if nowhere.

    Measured with the same arithmetic, every bit must agree; otherwise the study's
    tolerance says how far apart numbers may be.
    """
    said = []
    for cell in cells:
        rows = [_row(results, cell) for results in (stored, found)]
        missing = [
            which for which, r in zip(("stored", "new"), rows, strict=True) if not r
        ]
        if missing:
            said.append(f"{name(cell)}: not in the {' and '.join(missing)} results")
            continue
        first, second = (row for row in rows if row)
        same = len({_arithmetic(stored, first), _arithmetic(found, second)}) == 1
        for key in sorted({*first["numbers"], *second["numbers"]}):
            old, new = (row["numbers"].get(key, _NOTHING) for row in (first, second))
            allowed = Tolerance() if same else study.tolerance(cell, key, old)
            said += [f"{name(cell)}: {key}{w}" for w in _differ(old, new, allowed)]
    return said


_NOTHING = "nothing"


def _row(results: Document, cell: Any) -> Row | None:
    looked_for = settings(cell)
    for row in results["cells"]:
        if row["settings"] == looked_for:
            found: Row = row
            return found
    return None


def _arithmetic(results: Document, row: Row) -> str:
    found: str = results["runs"][row["run"]]["arithmetic"]
    return found


def _differ(stored: Any, found: Any, allowed: Tolerance) -> Iterator[str]:
    """Each place below this one where the two are not the same."""
    if isinstance(stored, Mapping) and isinstance(found, Mapping):
        for key in sorted({*stored, *found}):
            pair = stored.get(key, _NOTHING), found.get(key, _NOTHING)
            yield from (f"[{key!r}]{w}" for w in _differ(*pair, allowed))
    elif isinstance(stored, list) and isinstance(found, list):
        if len(stored) != len(found):
            yield f": {len(stored)} numbers are stored, {len(found)} were found"
            return
        for k, pair in enumerate(zip(stored, found, strict=True)):
            yield from (f"[{k}]{w}" for w in _differ(*pair, allowed))
    elif isinstance(stored, float) and isinstance(found, float):
        if not allowed.allows(stored, found):
            yield (
                f": {stored!r} is stored, {found!r} was found (allowed: "
                f"{allowed.relative:.1e} of it, and {allowed.absolute:.1e})"
            )
    elif stored != found or type(stored) is not type(found):
        yield f": {stored!r} is stored, {found!r} was found"
