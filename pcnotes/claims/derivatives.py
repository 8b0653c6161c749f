"""Derivatives of small networks, by autograd on copies.

Small networks cost what their operations cost, whether these work on one point or on a
hundred. So where a matrix is wanted, N numbers are copied N times, and the k-th copy is
asked for the k-th row. Functions therefore take leading axes and sum over them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Scalar = Callable[[Tensor], Tensor]


def gradient(scalar: Scalar, at: Tensor) -> Tensor:
    """∇ at points (…, N): (…, N)."""
    leaf = at.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(scalar(leaf), leaf)
    return found


def both(scalar: Scalar, at: Tensor) -> tuple[Tensor, Tensor]:
    """∇ and ∇² at points (…, N): (…, N) and (…, N, N)."""
    size = at.shape[-1]
    leaf = at.detach()[..., None, :].expand(*at.shape, size).clone().requires_grad_()
    (first,) = torch.autograd.grad(scalar(leaf), leaf, create_graph=True)
    rows = torch.zeros_like(leaf)
    if first.requires_grad:
        diagonal = first.diagonal(dim1=-2, dim2=-1).sum()
        (rows,) = torch.autograd.grad(diagonal, leaf, materialize_grads=True)
    return first.detach()[..., 0, :], rows


def hessian(scalar: Scalar, at: Tensor) -> Tensor:
    """∇² alone."""
    return both(scalar, at)[1]
