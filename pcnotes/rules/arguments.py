"""Arguments that several rules take, checked in one way."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TypeGuard

import numpy as np
from torch import Tensor

from ..objective import positive


def count(name: str, value: object) -> int:
    """A whole number from 1 on."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    return number


def share(name: str, value: object) -> float:
    """A number between 0 and 1, both excluded."""
    if (number := positive(name, value)) >= 1:
        raise ValueError(f"{name} must be below 1, a share, got {value!r}")
    return number


def is_sequence(value: object) -> TypeGuard[Sequence[float]]:
    """A list, tuple, range or array with one entry per step."""
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
