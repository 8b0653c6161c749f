"""`python -m bench`: time and memory of every rule against backpropagation.

One thread, time of the process, repetitions interleaved with backpropagation's. Paths
of other packages' checkouts in PCNOTES_PEERS are measured along.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from . import peers, report, scaling
from .contest import Effort, alone, contest
from .models import MODELS
from .peers import Found
from .rules import Entry, entries

RESULTS = Path(__file__).resolve().parent / "results"
SCALING = "scaling"
EVERYTHING = [*MODELS, SCALING]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0; 1 if a count differs from its formula; 2 for a wrong call."""
    parser = _parser()
    options = parser.parse_args(arguments)
    models = _chosen(parser, "--models", options.models, EVERYTHING)
    rules = _chosen(parser, "--rules", options.rules, list(entries()))
    for path in filter(None, (options.json, options.figure)):
        if not path.parent.is_dir():
            parser.error(f"{path}: there is no folder {path.parent}")
    if options.figure is not None and options.figure.suffix not in (".svg", ".png"):
        parser.error(f"{options.figure}: figures are .svg or .png files")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device here")
    try:
        found = peers.find()
    except peers.PeerError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    results = measure(options.quick, options.device, models, rules, found)
    print(report.text(results))
    file = options.json or _default(options, models, rules)
    file.parent.mkdir(exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")
    print(f"written: {file}")
    if options.figure is not None:
        from . import figure

        for drawn in figure.draw(results, options.figure):
            print(f"written: {drawn}")
    return int(any(not row["equal"] for row in results["scaling"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="few repetitions, under a minute"
    )
    parser.add_argument(
        "--models",
        metavar="NAME,…",
        help=f"of {', '.join(EVERYTHING)}; all if not given",
    )
    parser.add_argument(
        "--rules",
        metavar="NAME,…",
        help=f"of {', '.join(entries())}; all if not given",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="results (default bench/results/…)"
    )
    parser.add_argument(
        "--figure", type=Path, metavar="FILE.svg", help="draw the results there"
    )
    return parser


def _chosen(
    parser: argparse.ArgumentParser, option: str, text: str | None, known: list[str]
) -> list[str]:
    if text is None:
        return known
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            parser.error(f"{option}: no {name!r}; {hint}known are {', '.join(known)}")
    if not names:
        parser.error(f"{option} is empty; known are {', '.join(known)}")
    return [name for name in known if name in names]


def _default(options: argparse.Namespace, models: list[str], rules: list[str]) -> Path:
    """Only a full run may replace the results of a full run."""
    name = options.device
    if options.quick:
        name += "-quick"
    if models != EVERYTHING or rules != list(entries()):
        name += "-part"
    return RESULTS / f"{name}.json"


def measure(
    quick: bool,
    device: str,
    models: Sequence[str],
    rules: Sequence[str],
    found: Sequence[Found],
) -> dict[str, Any]:
    """The results, ready for json."""
    begun = time.monotonic()
    long = Effort(2, 2, 0, device) if quick else Effort(5, 40, 20, device)
    short = Effort(2, 2, 0, device) if quick else Effort(5, 15, 4, device)
    steps = 5 if quick else 20
    sizes = scaling.points(quick) if SCALING in models else []
    names = [name for name in models if name != SCALING]
    results: dict[str, Any] = {
        "schema": report.SCHEMA,
        "quick": quick,
        "machine": report.machine(device),
        "peers": {f.peer.name: str(f.path or "installed") for f in found},
        "rows": [],
        "scaling": [],
    }
    chosen = {k: e for k, e in entries(steps).items() if k in rules}
    with tqdm(total=len(names) + len(sizes), unit="model", disable=None) as bar:
        for name in names:
            results["rows"] += _one(name, chosen, steps, long, found, bar)
            bar.update()
        for layers, width in sizes:
            results["scaling"] += scaling.measure(
                layers, width, rules, short, bar.set_description
            )
            bar.update()
    results["seconds"] = round(time.monotonic() - begun, 1)
    return results


def _one(
    name: str,
    chosen: Mapping[str, Entry],
    steps: int,
    effort: Effort,
    found: Sequence[Found],
    bar: Any,
) -> list[dict[str, Any]]:
    """The rules and the peers in PyTorch together, every other peer by itself."""
    case = MODELS[name](effort.device)
    along = {}
    for one in found:
        if one.peer.torch:
            along.update(one.calls(case, steps))
    rows = contest(name, case, chosen, effort, along, bar.set_description)
    for one in found:
        if not one.peer.torch and (calls := one.calls(case, steps)):
            label = f"{name}, {one.peer.name}"
            rows += alone(label, calls, effort, bar.set_description)
    return rows


if __name__ == "__main__":
    sys.exit(main())
