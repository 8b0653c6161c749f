"""Run a closure several times as if it had run once.

A rule may evaluate the closure many times, but the user took one step: every evaluation
must draw the same random numbers and see the same buffers (batch norm's statistics,
say), and afterwards both must be where one evaluation leaves them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class _Buffer(NamedTuple):
    module: nn.Module
    name: str
    tensor: Tensor
    before: Tensor


class Replay:
    """Random states and buffers as they were when this object was made."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._buffers = _buffers(modules)
        self._devices = _devices(modules)
        self._random = _random_states(self._devices)
        self._marked: list[tuple[_Buffer, int]] = []

    def rewind(self) -> None:
        """Put everything back."""
        for module, name, tensor, before in self._buffers:
            # .data: invisible to autograd, which may have saved the buffer for backward
            tensor.data.copy_(before)
            module._buffers[name] = tensor
        _set_random_states(self._devices, self._random)

    def mark(self) -> None:
        """Remember where the first evaluation left the buffers."""
        now = [(b.module, b.name, b.module._buffers[b.name]) for b in self._buffers]
        self._marked = [
            (_Buffer(m, n, t, t.detach().clone()), t._version)
            for m, n, t in now
            if t is not None
        ]

    def settle(self) -> None:
        """Put the buffers there again."""
        for (module, name, tensor, content), version in self._marked:
            if tensor._version != version:
                tensor.data.copy_(content)
            module._buffers[name] = tensor

    @contextmanager
    def again(self) -> Iterator[None]:
        """A second evaluation: starts where the first did, leaves nothing moved."""
        found = _random_states(self._devices)
        bound = [
            (b.module, b.name, b.module._buffers.get(b.name)) for b in self._buffers
        ]
        scratch = {id(b.tensor): b.before.clone() for b in self._buffers}
        _set_random_states(self._devices, self._random)
        for b in self._buffers:
            b.module._buffers[b.name] = scratch[id(b.tensor)]
        try:
            yield
        finally:
            for module, name, tensor in bound:
                module._buffers[name] = tensor
            _set_random_states(self._devices, found)


@contextmanager
def refuse_changes(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Undo and refuse whatever happens to a parameter's `.grad` in here."""
    parameters = {p: None for m in modules for p in m._parameters.values()}
    saved = [(p, p.grad, _content(p.grad)) for p in parameters if p is not None]
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


def _content(grad: Tensor | None) -> tuple[int | None, Tensor | None]:
    return _version(grad), None if grad is None else grad.clone()


def _same(grad: Tensor | None, before: Tensor | None) -> bool:
    if grad is None or before is None:
        return grad is before
    return grad.layout == before.layout and bool(torch.equal(grad, before))


def _version(grad: Tensor | None) -> int | None:
    return None if grad is None else grad._version


def _buffers(modules: Sequence[nn.Module]) -> list[_Buffer]:
    found = [
        (module, name, tensor)
        for module in modules
        for name, tensor in module._buffers.items()
        if tensor is not None
    ]
    before = {id(t): t.detach().clone() for _, _, t in found}
    return [_Buffer(m, n, t, before[id(t)]) for m, n, t in found]


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
