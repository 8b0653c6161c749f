"""Run a closure several times as if it had run once.

A rule may evaluate the closure many times, but the user took one step: every evaluation
must draw the same random numbers and see the same buffers (batch norm's statistics,
say), and afterwards both must be where one evaluation leaves them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Replay:
    """Random states and buffers as they were when this object was made."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = modules
        self._devices = _devices(modules)
        self._random = _random_states(self._devices)
        self._before = Buffers(modules)
        self._after: Buffers | None = None
        self._parts = _parts(modules)

    def rewind(self) -> None:
        """Put everything back."""
        self._before.restore()
        _set_random_states(self._devices, self._random)

    def mark(self) -> None:
        """Remember where the first evaluation left the buffers."""
        self._after = Buffers(self._modules, unlike=self._before)

    def settle(self) -> None:
        """Put the buffers there again."""
        if self._after is not None:
            self._after.restore()

    @contextmanager
    def again(self) -> Iterator[None]:
        """A second evaluation: starts where the first did, leaves nothing moved."""
        states = _random_states(self._devices)
        bound = [(m, dict(m._buffers)) for m in self._modules]
        _set_random_states(self._devices, self._random)
        self._before.lend_copies()
        try:
            yield
            if self._parts != _parts(self._modules) and self._has_drawn():
                raise RuntimeError(
                    "the model made or initialised parameters in the first run of the "
                    "closure, as lazy modules do. Random numbers that later runs draw "
                    "(dropout, say) would not be those of the first: run the model "
                    "once before"
                )
        finally:
            _bind(bound)
            _set_random_states(self._devices, states)

    def _has_drawn(self) -> bool:
        """Whether random numbers were drawn since the beginning was put back."""
        python, numpy, *torchs = _random_states(self._devices)
        python_then, numpy_then, *torchs_then = self._random
        return not (
            python == python_then
            and all(map(np.array_equal, numpy, numpy_then))
            and all(map(torch.equal, torchs, torchs_then))
        )


class Buffers:
    """Which buffers some modules have, and what these hold, as of now.

    unlike: keep only what is not as it was then.
    """

    def __init__(
        self, modules: Sequence[nn.Module], unlike: Buffers | None = None
    ) -> None:
        self._bound = [(m, dict(m._buffers)) for m in modules]
        self._contents: dict[int, tuple[Tensor, Any]] = {}
        shared = _shared(t for _, named in self._bound for t in named.values())
        for t in (t for _, named in self._bound for t in named.values()):
            if t is None or t.is_meta or (unlike is not None and unlike.has(t)):
                continue
            self._contents[id(t)] = (t, _content(t, id(t) in shared))

    def has(self, t: Tensor) -> bool:
        """Whether this buffer holds now what it held then."""
        if id(t) not in self._contents:
            return False
        return torch.equal(_copy_of(t, self._contents[id(t)][1]), t)

    def restore(self) -> None:
        """The same buffers again, with the same contents."""
        for t, content in self._contents.values():
            # Invisible to autograd, which may have saved the buffer for backward; and
            # whatever its version says, which batch norm leaves as it is.
            if isinstance(content, Tensor):
                t.data.copy_(content)
            else:
                t.untyped_storage().copy_(content)
        _bind(_with_new(self._bound))

    def lend_copies(self) -> None:
        """Copies in their place; views of one memory are such again."""
        memories: dict[int, Any] = {}
        copies: dict[int, Tensor] = {}
        for key, (t, content) in self._contents.items():
            if not t.requires_grad:  # whose gradient belongs to it, not to a copy
                where = (
                    key if isinstance(content, Tensor) else t.untyped_storage()._cdata
                )
                memory = memories.setdefault(where, content.clone())
                copies[key] = _copy_of(t, memory)
        lent = [
            (m, {k: copies.get(id(t), t) for k, t in named.items()})
            for m, named in self._bound
        ]
        _bind(_with_new(lent))


def _parts(modules: Sequence[nn.Module]) -> list[Any]:
    """Which modules and parameters there are, and what kinds of parameters."""
    return [
        (len(m._modules), [(id(p), type(p)) for p in m._parameters.values()])
        for m in modules
    ]


Bound = Iterable[tuple[nn.Module, Mapping[str, Tensor | None]]]


def _with_new(buffers: Bound) -> Bound:
    """And what was registered since: a module would not register it again."""
    return [(m, {**dict(m._buffers), **named}) for m, named in buffers]


def _bind(buffers: Bound) -> None:
    for module, named in buffers:
        if isinstance(module._buffers, dict):
            module._buffers.clear()
            module._buffers.update(named)
        else:  # a scripted module, whose buffers can be exchanged but not listed anew
            for name, tensor in named.items():
                module._buffers[name] = tensor


def _copy_of(tensor: Tensor, content: Any) -> Tensor:
    """This content, laid out like the tensor that it was taken from."""
    if isinstance(content, Tensor):
        return content
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
        content, tensor.storage_offset(), tensor.size(), tensor.stride()
    )


def _content(tensor: Tensor, shared: bool) -> Any:
    """A tensor; where memory is shared, the memory, for copies to share alike."""
    if shared and tensor.layout == torch.strided and type(tensor) is Tensor:
        return tensor.untyped_storage().clone()
    return tensor.detach().clone()


def _shared(tensors: Iterable[Tensor | None]) -> set[int]:
    """Which of them lie in a memory that is not theirs alone, or not simply filled."""
    by_memory: dict[int, set[int]] = {}
    shared: set[int] = set()
    for t in tensors:
        if t is None or t.is_meta or t.layout != torch.strided:
            continue
        memory = t.untyped_storage()
        by_memory.setdefault(memory._cdata, set()).add(id(t))
        if memory.nbytes() != t.nbytes or not t.is_contiguous():
            shared.add(id(t))
    return shared.union(*(ids for ids in by_memory.values() if len(ids) > 1))


@contextmanager
def refuse_changes(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Undo and refuse whatever happens to a parameter's `.grad` in here."""
    parameters = {p: None for m in modules for p in m._parameters.values()}
    saved = [(p, p.grad, _grad_now(p.grad)) for p in parameters if p is not None]
    try:
        yield
    finally:
        changed = [
            s for s in saved if s[0].grad is not s[1] or _version(s[1]) != s[2][0]
        ]
        # Wrappers may move what .grad holds, as DDP does with views of its buckets.
        changed = [s for s in changed if not _same(s[0].grad, s[2][1])]
        for parameter, grad, (_, before) in changed:
            if grad is not None and before is not None:
                grad.data.copy_(before)
            parameter.grad = grad
    if changed:
        raise RuntimeError(
            "the closure changed .grad; it must only compute and return the loss, "
            "without backward() or zero_grad()"
        )


def _grad_now(grad: Tensor | None) -> tuple[int | None, Tensor | None]:
    return _version(grad), None if grad is None else grad.clone()


def _same(grad: Tensor | None, before: Tensor | None) -> bool:
    if grad is None or before is None:
        return grad is before
    return grad.layout == before.layout and bool(torch.equal(grad, before))


def _version(tensor: Tensor | None) -> int | None:
    return None if tensor is None or tensor.is_inference() else tensor._version


def _devices(modules: Sequence[nn.Module]) -> list[torch.device]:
    tensors = (
        t for m in modules for t in (*m._parameters.values(), *m._buffers.values())
    )
    found = {t.device for t in tensors if t is not None}
    return sorted((d for d in found if d.type in ("cuda", "xpu")), key=str)


def _random_states(devices: list[torch.device]) -> list[Any]:
    """PyTorch's on every device in use, Python's and NumPy's."""
    on_devices = [torch.get_device_module(d).get_rng_state(d) for d in devices]
    return [
        random.getstate(),
        np.random.get_state(),
        torch.get_rng_state(),
        *on_devices,
    ]


def _set_random_states(devices: list[torch.device], states: list[Any]) -> None:
    python, numpy, cpu, *on_devices = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    for device, state in zip(devices, on_devices, strict=True):
        torch.get_device_module(device).set_rng_state(state, device)
