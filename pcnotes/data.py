"""Data that ship with packages: nothing here opens a connection."""

from __future__ import annotations

import torch
from torch import Tensor


def digits(
    count: int | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """The 8×8 handwritten digits that scikit-learn carries.

    Returns x of shape (count, 64), scaled to [0, 1], and labels y of shape (count,).
    count: how many, from the front; None means all 1,797.

    >>> x, y = digits(5)
    >>> x.shape, y.tolist()
    (torch.Size([5, 64]), [0, 1, 2, 3, 4])
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn: pip install 'pcnotes[data]'"
        ) from error
    bunch = load_digits()
    if count is not None and not 0 < count <= len(bunch.target):
        raise ValueError(f"count must be in 1..{len(bunch.target)}, got {count!r}")
    x = torch.as_tensor(bunch.data[:count] / 16, dtype=dtype)
    return x, torch.as_tensor(bunch.target[:count])
