"""Other packages: where they are, and how they run our models.

`PCNOTES_PEERS` lists paths of checkouts; an installed package is found as well. None is
needed, none is copied.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch.nn.functional as F
from torch import nn

from .clock import Call
from .models import Case
from .rules import STEP

VARIABLE = "PCNOTES_PEERS"


class PeerError(Exception):
    """A path that was given holds no peer."""


@dataclass(frozen=True)
class Peer:
    """A package that we know how to call.

    marker: the file by which a checkout is recognised. module: what is imported.
    calls: from the module, a case and a number of steps to {label: call}; empty where
    it cannot run such a model. torch: whether BP in PyTorch is its baseline; otherwise
    its calls begin with a baseline of their own.
    """

    name: str
    marker: str
    module: str
    calls: Callable[[ModuleType, Case, int], dict[str, Call]]
    torch: bool = True


@dataclass(frozen=True)
class Found:
    """A peer and its checkout; None if it is installed."""

    peer: Peer
    path: Path | None

    def calls(self, case: Case, steps: int) -> dict[str, Call | str]:
        """What it can do with this model, or why it can do nothing at all."""
        try:
            with _quietly(self.path):
                module = importlib.import_module(self.peer.module)
                return dict(self.peer.calls(module, case, steps))
        except Exception as error:
            return {self.peer.name: f"{type(error).__name__}: {error}"}


@contextlib.contextmanager
def _quietly(path: Path | None) -> Iterator[None]:
    """Import from here first; what a package says meanwhile is not for the table."""
    before, level = list(sys.path), logging.root.manager.disable
    if path is not None:
        sys.path.insert(0, str(path))
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.path[:] = before
        logging.disable(level)


def find(paths: str | None = None) -> list[Found]:
    """The peers in these paths (default: the variable's), then installed ones."""
    given = os.environ.get(VARIABLE, "") if paths is None else paths
    found = [_recognise(Path(p)) for p in given.split(os.pathsep) if p]
    known = {f.peer.name for f in found}
    for peer in PEERS:
        top = peer.module.split(".")[0]
        if peer.name not in known and importlib.util.find_spec(top) is not None:
            found.append(Found(peer, None))
    return found


def _recognise(path: Path) -> Found:
    known = "; ".join(f"{p.name} by its file {p.marker}" for p in PEERS)
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise PeerError(
            f"{VARIABLE} gives {str(path)!r}, which {what}. It takes paths of "
            f"checkouts, separated by {os.pathsep!r}; recognised are {known}"
        )
    for peer in PEERS:
        if (path / peer.marker).is_file():
            return Found(peer, path)
    raise PeerError(
        f"{VARIABLE} gives {str(path)!r}, which holds no peer; recognised are {known}"
    )


def torch2pc(module: ModuleType, case: Case, steps: int) -> dict[str, Call]:
    """Its three rules, on an `nn.Sequential` only."""
    model = case.model
    if not isinstance(model, nn.Sequential):
        return {}

    def call(kind: str, eta: float, n: int) -> Call:
        return lambda: module.PCInfer(
            model, F.cross_entropy, case.x, case.y, kind, eta, n
        )

    return {
        "Torch2PC exact": call("Exact", 1.0, 1),
        "Torch2PC fixed": call("FixedPred", 1.0, len(model)),
        "Torch2PC fixed-half": call("FixedPred", 0.5, steps),
        "Torch2PC strict": call("Strict", STEP, steps),
    }


def preco(module: ModuleType, case: Case, steps: int) -> dict[str, Call]:
    """Its predictive coding network, on the squared error, without its optimizer."""
    if case.y is None or not case.widths:
        return {}
    structure = module.PCN_AMB(
        list(case.widths), f=module.tanh, use_bias=True, upward=True
    )
    net = module.PCnet(lr_x=STEP, T_train=steps, structure=structure)
    target = F.one_hot(case.y, case.widths[-1]).float()

    def step() -> None:
        net.reset_nodes()
        net.clamp_input(case.x)
        net.init_hidden(len(target))
        net.clamp_target(target)
        net.train_updates()
        net.update_w()

    return {"PRECO strict": step}


def jpc(module: ModuleType, case: Case, steps: int) -> dict[str, Call]:
    """Its discriminative training step, by Euler's method."""
    from . import jax_peers

    return jax_peers.jpc(module, case, steps) if case.widths else {}


def pcx(module: ModuleType, case: Case, steps: int) -> dict[str, Call]:
    """A training step: values descend, then its optimizer moves the weights."""
    from . import jax_peers

    if len(case.widths) * steps > 200:
        raise RuntimeError(
            "not run: it unrolls every step when it compiles, for a minute or more "
            "at this depth"
        )
    return jax_peers.pcx(module, case, steps) if case.widths else {}


PEERS = (
    Peer("Torch2PC", "TorchSeq2PC.py", "TorchSeq2PC", torch2pc),
    Peer("PRECO", "PRECO/PCN.py", "PRECO.PCN", preco),
    Peer("JPC", "jpc/_train.py", "jpc", jpc, torch=False),
    Peer("PCX", "pcx/predictive_coding/_vode.py", "pcx", pcx, torch=False),
)
