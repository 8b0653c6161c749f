"""Plain PyTorch on the same closure: what every rule is held against."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

Models = nn.Module | list[nn.Module]


def modules(model: Models) -> list[nn.Module]:
    return [model] if isinstance(model, nn.Module) else list(model)


def parameters(model: Models) -> list[nn.Parameter]:
    return list({p: None for m in modules(model) for p in m.parameters()})


def gradients(model: Models) -> list[Tensor | None]:
    return [
        None if p.grad is None else p.grad.to_dense().clone() for p in parameters(model)
    ]


def clear(model: Models) -> None:
    for p in parameters(model):
        p.grad = None


def buffers(model: Models) -> list[Tensor]:
    return [b.clone() for m in modules(model) for b in m.buffers()]


def autograd(model: Models, closure) -> tuple[Tensor, list[Tensor | None]]:
    """Loss and gradients by loss.backward(), from a seed; buffers are put back."""
    state = [copy.deepcopy(m.state_dict()) for m in modules(model)]
    clear(model)
    torch.manual_seed(0)
    loss = closure()
    loss.backward()
    found = gradients(model)
    clear(model)
    for module, saved in zip(modules(model), state, strict=True):
        module.load_state_dict(saved)
    return loss.detach(), found


def hooks(model: Models) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks)
        for top in modules(model)
        for m in top.modules()
    )


def assert_same(ours, theirs, tolerance: float = 1e-12) -> None:
    """None where PyTorch has None; else equal relative to the whole gradient."""
    assert [g is None for g in ours] == [g is None for g in theirs]
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if b is not None]
    norm = sum(float(b.square().sum()) for _, b in pairs) ** 0.5
    off = sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5
    assert off <= tolerance * norm, f"relative error {off / norm:.2e}"
