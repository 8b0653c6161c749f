"""Torch2PC's three modes beside ours, on one network and one batch.

    PCNOTES_PEERS=…/Torch2PC python -m studies.torch2pc

writes `studies/results/torch2pc.json`: gradients, and what they take in time. Nothing
of Torch2PC is kept here: it has no licence. A study's tests must pass without it, so
this is not one of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import pcnotes as pc
from bench import peers

from . import results
from .plateau import ValueForm, flat, network
from .reproductions import (
    UPDATES,
    batches,
    criterion,
    gradients,
    loss_of,
    stored_values,
    trained,
    weights,
)
from .sources import Sources
from .study import plain

FILE = results.FOLDER / "torch2pc.json"
# What git calls the file that we read, and the commit that has it.
KNOWN = {"1eb53a1371fde2884e228e5231111cf9615b1d9d": "00c6c50"}
ETA, STEPS = 0.1, 20

# Mode of theirs: ours that should be the same. They read ε before the last update.
PAIRS: dict[tuple[str, float, int], dict[str, Any]] = {
    ("Exact", 1.0, 1): {"Exact": pc.Exact()},
    ("FixedPred", ETA, STEPS): {
        "value form": ValueForm(ETA, STEPS - 1),
        "error form": pc.FixedPrediction(ETA, STEPS - 1),
    },
    ("FixedPred", 1.0, 5): {
        "value form": ValueForm(1.0, 4),
        "error form": pc.FixedPrediction(1.0, 4),
        "ZIL": pc.ZIL(),
    },
    ("Strict", ETA, STEPS): {
        **{f"Strict, {n} steps": pc.Strict(ETA, n) for n in (STEPS - 1, STEPS)},
        "stored values": None,
    },
}


def main() -> int:
    """Exit status 2 if there is no checkout."""
    folders = [f.path for f in peers.find() if f.peer.name == "Torch2PC" and f.path]
    if not folders:
        print(f"no Torch2PC: {peers.VARIABLE} must name a checkout", file=sys.stderr)
        return 2
    file = folders[0] / "TorchSeq2PC.py"
    torch.set_num_threads(1)
    rows = [
        row
        for dtype in ("float32", "float64")
        for updates in (0, UPDATES)
        for row in compare(load(file), dtype, updates)
    ]
    content = file.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    machine = results.machine("python -m studies.torch2pc")
    peer = {"file": file.name, "blob": blob, "commit": KNOWN.get(blob)}
    found: dict[str, Any] = {"rows": rows, "times": times(load(file))}
    results.write(FILE, {"peer": peer, "machine": machine, **plain(found, "found")})
    print(f"written: {FILE}")
    return 0


def load(file: Path) -> ModuleType:
    """It prints when it is imported."""
    spec = importlib.util.spec_from_file_location("TorchSeq2PC", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    with contextlib.redirect_stdout(io.StringIO()):
        spec.loader.exec_module(module)
    return module


def compare(module: ModuleType, dtype: str, updates: int) -> Iterable[dict[str, Any]]:
    """Relative distances of weight gradients, all layers together and one by one."""
    sources = Sources()
    net = network(0)
    net.load_state_dict(trained("ce", updates, 0, sources))
    x, y = next(batches(sources, 1))
    net, x = net.to(getattr(torch, dtype)), x.to(getattr(torch, dtype))
    closure = loss_of("ce", net, x, y)
    truth = weights(net, torch.autograd.grad(closure(), list(net.parameters())))
    cross_entropy = nn.functional.cross_entropy
    for (mode, eta, steps), rules in PAIRS.items():
        net.zero_grad()
        module.PCInfer(net, cross_entropy, x, y, mode, eta, steps)
        theirs = weights(net, gradients(net))
        for name, rule in rules.items():
            net.zero_grad()
            if rule is None:
                loss = criterion("ce", y, x.dtype)
                stored_values(net, loss, x, step_size=eta, steps=steps)
            else:
                pc.backward(net, closure, rule, at="*")
            ours = weights(net, gradients(net))
            yield {
                "dtype": dtype,
                "updates": updates,
                "mode": mode,
                "eta": eta,
                "n": steps,
                "ours": name,
                "apart": distance(ours, theirs),
                "by_layer": [
                    distance([a], [b]) for a, b in zip(ours, theirs, strict=True)
                ],
                "theirs_bp": distance(theirs, truth),
                "ours_bp": distance(ours, truth),
            }


ROUNDS = 15


def times(module: ModuleType) -> dict[str, list[float]]:
    """As `CompareRuntimesOnMNIST.ipynb`, without the loading and the optimiser.

    Quartiles of the process time over backpropagation's in the same round.
    """
    net = network(0).float()
    x, y = next(batches(Sources(), 0))
    loss = criterion("mse", y, x.dtype)
    closure = loss_of("mse", net, x, y)

    def theirs(mode: str, eta: float, steps: int) -> Callable[[], object]:
        return lambda: module.PCInfer(net, lambda o, _: loss(o), x, y, mode, eta, steps)

    def ours(rule: pc.Rule) -> Callable[[], object]:
        return lambda: pc.backward(net, closure, rule, at="*")

    ways = {
        "bp": lambda: closure().backward(),
        "Torch2PC strict": theirs("Strict", ETA, STEPS),
        "Torch2PC fixed": theirs("FixedPred", ETA, STEPS),
        "Torch2PC unit": theirs("FixedPred", 1.0, len(net)),
        "pcnotes strict": ours(pc.Strict(ETA, STEPS)),
        "pcnotes fixed": ours(pc.FixedPrediction(ETA, STEPS)),
        "pcnotes unit": ours(pc.FixedPrediction()),
    }
    ratios: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS + 1):
        seconds = {}
        for way, call in ways.items():
            net.zero_grad()
            before = time.process_time()
            call()
            seconds[way] = time.process_time() - before
        for way in ways:
            ratios[way].append(seconds[way] / seconds["bp"])
    return {way: statistics.quantiles(r[1:], n=4) for way, r in ratios.items()}


def distance(found: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """‖found - truth‖ / ‖truth‖, all tensors as one vector."""
    a, b = flat(found), flat(truth)
    return float((a - b).norm() / b.norm())


if __name__ == "__main__":
    sys.exit(main())
