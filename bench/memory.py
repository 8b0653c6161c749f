"""Memory: bytes that autograd saves for backward, and bytes alive, at their peaks."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class Tally:
    """Bytes of distinct storages that are held at one time, and their peak."""

    def __init__(self) -> None:
        self.holders: Counter[int] = Counter()
        self.now = self.peak = 0

    def hold(self, address: int, size: int) -> None:
        if not self.holders[address]:
            self.now += size
            self.peak = max(self.peak, self.now)
        self.holders[address] += 1

    def release(self, address: int, size: int) -> None:
        self.holders[address] -= 1
        if not self.holders[address]:
            self.now -= size


def place(tensor: Tensor) -> tuple[int, int]:
    """Address and size of the memory behind a tensor.

    `data_ptr()` would not do: it makes the copy that a lazy clone has put off.
    """
    address = torch._C._data_address(tensor)  # type: ignore[attr-defined]
    return address, tensor.untyped_storage().nbytes()


class Saved:
    """Stands in autograd's graph for a tensor that was saved there."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # with its history it would keep itself alive


@contextmanager
def saving(tally: Tally, owned: set[int]) -> Iterator[None]:
    """Count what is saved for backward, each storage once, until it is freed.

    owned: addresses of memory that is there anyway.
    """

    def pack(tensor: Tensor) -> Saved:
        saved = Saved(tensor)
        address, size = place(tensor)
        if address not in owned:
            tally.hold(address, size)
            weakref.finalize(saved, tally.release, address, size)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        yield


class Allocating(TorchDispatchMode):
    """Count the memory of every storage that an operation makes, until it is freed."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally = tally
        self.known: dict[int, tuple[int, int]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = [*pytree.tree_leaves(args), *pytree.tree_leaves(kwargs)]
        old = {t.untyped_storage()._cdata for t in given if isinstance(t, Tensor)}
        made = function(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._see(tensor, old)
        return made

    def _see(self, tensor: Tensor, old: set[int]) -> None:
        storage, now = tensor.untyped_storage(), place(tensor)
        before = self.known.get(storage._cdata)
        if before is None and storage._cdata in old:
            return  # a view of, or written into, what was there before the call
        if before is None:
            weakref.finalize(storage, self._freed, storage._cdata)
        if now != before:
            self.tally.hold(*now)
            self.known[storage._cdata] = now
            if before is not None:  # a lazy clone was written to: now it is a copy
                self.tally.release(*before)

    def _freed(self, storage: int) -> None:
        self.tally.release(*self.known.pop(storage))


@dataclass(frozen=True)
class Bytes:
    """Peaks during one call. saved: for backward. peak: all that was allocated."""

    saved: int
    peak: int


def measure(
    model: nn.Module, call: Callable[[], object], clear: Callable[[], object]
) -> Bytes:
    """Both peaks of one call, taken in two runs; `clear` runs before each.

    Parameters and buffers do not count: they are there anyway. On a GPU the second peak
    is the allocator's own; on the CPU it is counted over the operations that PyTorch
    dispatches, without their scratch space.
    """
    kept = [*model.parameters(), *model.buffers()]
    saved, alive = Tally(), Tally()
    clear()
    with saving(saved, {place(t)[0] for t in kept}):
        call()
    clear()
    if kept[0].is_cuda:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return Bytes(saved.peak, torch.cuda.max_memory_allocated() - before)
    with Allocating(alive):
        call()
    return Bytes(saved.peak, alive.peak)
