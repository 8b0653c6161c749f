"""What floating point does to a relaxation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arrays import Array


def gamma(roundings: int, unit: float) -> float:
    """γₖ = ku/(1 - ku): the relative error that k roundings may leave behind.

    unit: the unit roundoff u, 2⁻²⁴ in float32. Label: `value-form-cancellation`.

    >>> gamma(3, unit=0.01)
    0.030927835051546393
    """
    return roundings * unit / (1 - roundings * unit)


def half_gap(v: NDArray[np.floating]) -> NDArray[np.floating]:
    """Half the distance from v to its nearer neighbour; a smaller increment is lost.

    Same shape and type as v. Label: `value-form-cancellation`.

    >>> v = np.float32([1.0, 1.5])
    >>> bool((v + np.float32(0.99) * half_gap(v) == v).all())
    True
    """
    away = np.abs(v)
    return (away - np.nextafter(away, v.dtype.type(-np.inf))) / v.dtype.type(2)


def plateau(
    M: Array, g: Array, values: NDArray[np.floating], errors: Array, eta: float
) -> Array:
    """How far from δ the value form may end: (I - |M|)⁻¹(ulp(v)/2η + roundings).

    M (N, N) and g (N,) hold numbers of the type of `values` (cycle, N), the states in
    which the iteration ends (one if it stops); errors (cycle, N) are v̂ - v there;
    0 < η ≤ 1. ulp is the larger gap next to v; the second term, of the size of ε rather
    than v, is what computing ε - Mε - g in that type may lose.
    Label: `value-form-cancellation`.

    >>> zero = np.zeros((1, 1))
    >>> plateau(zero, zero[0], np.float32([[1.0]]), zero, eta=0.5)
    array([1.1920929e-07])
    """
    unit = float(np.finfo(values.dtype).eps) / 2
    magnitudes, ends = np.abs(M), np.abs(errors).max(0)
    ulp = np.spacing(np.abs(values).max(0)).astype(float)
    roundings = gamma(len(g) + 4, unit) * (ends + magnitudes @ ends + np.abs(g))
    return np.linalg.solve(np.eye(len(g)) - magnitudes, ulp / (2 * eta) + roundings)
