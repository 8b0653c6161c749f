"""Long measured studies. A run that was broken off goes on where it stopped."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from . import results
from .journal import BusyError
from .plateau import STUDY as PLATEAU
from .reproductions import STUDY as REPRODUCTIONS
from .running import INTERRUPTED, Order, run
from .sources import FETCHED, SHIPPED, Sources
from .study import Study
from .training import STUDY as TRAINING
from .training import TUNING

STUDIES: dict[str, Study[Any]] = {
    study.name: study for study in (PLATEAU, REPRODUCTIONS, TUNING, TRAINING)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: that of the run, or 2 for a wrong call."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in STUDIES:
            known = "\n".join(f"  {s.name}: {s.about}" for s in STUDIES.values())
            parser.error(f"no study {name!r}; known are\n{known}")
    names = list(dict.fromkeys(options.names or STUDIES))
    out = options.out
    if out is not None and len(names) > 1:
        parser.error("--out is for one study; name it")
    if out is not None and not out.parent.is_dir():
        parser.error(f"--out {out}: there is no folder {out.parent}")
    if out is not None and out.is_dir():
        parser.error(f"--out {out} is a folder; name a file in it")
    try:
        sources = Sources.of(options.data)
    except ValueError as error:
        parser.error(str(error))
    if out is not None and out.exists():
        _replaceable(parser, names[0], out, options.quick)
    statuses = []
    for name in names:
        words = ["python", "-m", "studies", name, *["--quick"] * options.quick]
        words += [f"--data={source}" for source in options.data]
        words += [] if out is None else [f"--out={out}"]
        order = Order(
            sources,
            options.quick,
            out or default(name, options.quick, sources),
            shlex.join([*words, *["--anew"] * options.anew]),
            shlex.join(words),
            options.anew,
        )
        statuses.append(_run(parser, STUDIES[name], order))
        if statuses[-1] == INTERRUPTED:
            break
    return max(statuses)


def _run(parser: argparse.ArgumentParser, study: Study[Any], order: Order) -> int:
    """One study on one thread, once it is certain that its images can be had."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        try:
            for images in study.needs:
                order.sources.images(images, count=1)
            study.chosen(order.sources, order.quick)
        except (OSError, ValueError, ImportError, MemoryError) as error:
            parser.error(str(error))
        except KeyboardInterrupt:
            print(f"\nstopped before a cell of {study.name} was begun")
            return INTERRUPTED
        order.out.parent.mkdir(exist_ok=True)
        return run(study, order)
    except (BusyError, OSError) as error:
        parser.error(f"{error}\nresults may go elsewhere with --out FILE")
    finally:
        torch.set_num_threads(threads)


def _replaceable(
    parser: argparse.ArgumentParser, study: str, out: Path, quick: bool
) -> None:
    """--out may replace results of the same study, and quick ones no full ones."""
    try:
        there = results.read(study, out)
    except (OSError, ValueError):
        parser.error(f"--out {out} holds no results of {study}; name another file")
    if quick and not there.get("quick"):
        parser.error(
            f"--out {out} holds results of the full form, which those of --quick would "
            "replace; name another file"
        )


def default(name: str, quick: bool, sources: Sources) -> Path:
    """Only a full run on the shipped data may replace the results of one."""
    return results.FOLDER / f"{name}{sources.suffix}{'-quick' * quick}.json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(STUDIES)}; all if none is given",
    )
    parser.add_argument(
        "--quick", action="store_true", help="few of the same cells, for CI"
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="SOURCE",
        help=f"where images come from: {SHIPPED} (the default, no connection), "
        f"{FETCHED} (fetches full sets) or a folder with the original files; "
        "SET=SOURCE for one set, repeatable",
    )
    parser.add_argument(
        "--anew", action="store_true", help="measure again what the journal holds"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="results (default studies/results/…)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
