"""What a closure may and may not do while it is cut."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

from .structure import origins

_running = threading.local()


def refuse_nesting() -> None:
    """A closure that calls pcnotes would cut what is cut already."""
    if getattr(_running, "active", False):
        raise RuntimeError("pcnotes was called from inside a closure of its own")


@contextmanager
def guarded(
    records: Mapping[Any, Any], is_cut: bool, has_values: bool
) -> Iterator[None]:
    """A closure runs in here; what it does that a cut would falsify is refused.

    records: what the hooks keep. has_values: whether other values than predictions go
    downstream.
    """
    _running.active, _running.checkpoints = True, 0
    _running.records, _running.has_values = (records if is_cut else {}), has_values
    try:
        with _eager(), _checkpoints, _entrance:
            yield
    finally:
        _running.active = False
        _running.records = {}


def check_loss(loss: Any) -> None:
    """A scalar, real, finite tensor that depends on something that learns."""
    if not isinstance(loss, Tensor):
        raise TypeError(
            "closure must return the scalar loss, a tensor with one element; "
            f"it returned {type(loss).__name__}"
        )
    if loss.dim() != 0 and loss.numel() != 1:
        raise ValueError(
            "closure must return a scalar loss; it returned a tensor of shape "
            f"{tuple(loss.shape)} (reduce it with .sum() or .mean())"
        )
    if loss.is_meta:
        raise ValueError("the loss is on the meta device, which holds no numbers")
    if loss.layout != torch.strided:
        raise TypeError(f"the loss must be a dense tensor, its layout is {loss.layout}")
    if not loss.is_floating_point():
        raise TypeError(f"the loss must be a floating-point tensor, it is {loss.dtype}")
    if not loss.requires_grad:
        raise RuntimeError(
            "the loss does not require grad: closure must return the tensor itself (no "
            ".item(), .detach() or torch.no_grad()), of parameters that require grad"
        )
    if not bool(torch.isfinite(loss)):
        raise FloatingPointError(
            f"the loss is not finite: closure returned {loss.item()}"
        )


def _eager() -> AbstractContextManager[object]:
    """Run compiled models as they were written: their compiled form skips hooks."""
    if "torch._dynamo" not in sys.modules:  # importing it takes seconds
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def runs_again() -> bool:
    """Whether the closure that ran last had checkpoints, which backward runs again."""
    return getattr(_running, "checkpoints", 0) > 0


def _checkpoint(*arguments: Any, **options: Any) -> Iterator[None]:
    """A checkpoint keeps everything while other values than predictions go downstream.

    What it runs again in the backward pass has no hooks.
    """
    if getattr(_running, "active", False):
        if _running.has_values:
            return _keep()
        _running.checkpoints += 1
    assert _checkpoints.plain is not None
    return _checkpoints.plain(*arguments, **options)


def _keep() -> Iterator[None]:
    yield


class _Switched:
    """An attribute that is another one while any thread is inside."""

    def __init__(self, module: Any, name: str, other: Callable[..., Any]) -> None:
        self._module, self._name, self._other = module, name, other
        self._lock = threading.Lock()
        self._users = 0
        self.plain: Callable[..., Any] | None = getattr(module, name, None)

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1 and hasattr(self._module, self._name):
                self.plain = getattr(self._module, self._name)
                setattr(self._module, self._name, self._other)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self.plain is not None:
                setattr(self._module, self._name, self.plain)


def _pass(ends: Any, *arguments: Any, **options: Any) -> Any:
    """What autograd is asked for inside a closure, unless it would end at a cut."""
    records = getattr(_running, "records", {})
    cuts = {str(k): r.value for k, r in records.items() if r.value is not None}
    roots = [e for e in ends if isinstance(e, Tensor) and e.grad_fn is not None]
    if cuts and any(origin.parents for origin in origins(roots, cuts)):
        if options.get("accumulate_grad"):
            raise RuntimeError(
                "the closure called backward(); it must only return the loss"
            )
        raise RuntimeError(
            "the closure calls torch.autograd.grad through vertices of the cut graph, "
            "where the gradient would end; a double backward is not supported (choose "
            "vertices that lie outside of it with at=)"
        )
    assert _entrance.plain is not None
    return _entrance.plain(ends, *arguments, **options)


# torch.autograd.grad, backward() and what is built on them all pass this entrance,
# whatever name they were imported by. A derivative through a cut would end there: a
# gradient penalty, say, would silently lose all that lies before the last cut.
_entrance = _Switched(torch.autograd, "_engine_run_backward", _pass)

_checkpoints = _Switched(
    torch.utils.checkpoint, "_checkpoint_without_reentrant_generator", _checkpoint
)
