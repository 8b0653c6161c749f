"""Time: repetitions of several calls interleaved, as ratios to the first of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

Call = Callable[[], object]

# A call that takes longer than this many baselines joins in one round of so many.
SLOW, EVERY = 4.0, 4


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: list[float]) -> Spread:
        low, median, high = np.quantile(numbers, [0.25, 0.5, 0.75]).tolist()
        return cls(median, low, high)


def cpu_seconds(call: Call) -> float:
    """Time of the process: what other processes take does not count."""
    begun = time.process_time()
    call()
    return time.process_time() - begun


def cuda_seconds(call: Call) -> float:
    """Wall-clock time from an idle device to an idle device."""
    torch.cuda.synchronize()
    begun = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def rounds(
    calls: Mapping[str, Call],
    clear: Call,
    seconds: Callable[[Call], float],
    budget: float,
    least: int,
    most: int,
) -> Iterator[dict[str, float]]:
    """{name: seconds} of one round after the other; `clear` runs before each call.

    The first round is a warm-up that is not yielded. There are `least` rounds at least
    and `most` at most, and no new one once `budget` seconds have passed.
    """

    def take(names: list[str]) -> dict[str, float]:
        taken = {}
        for name in names:
            clear()
            taken[name] = seconds(calls[name])
        return taken

    begun = time.monotonic()
    take(list(calls))
    first = take(list(calls))
    yield first
    baseline = next(iter(calls))
    quick = [n for n in calls if first[n] <= SLOW * first[baseline]]
    for k in range(1, most):
        if k >= least and time.monotonic() - begun > budget:
            return
        yield take(list(calls) if k < least or k % EVERY == 0 else quick)


def ratios(taken: list[dict[str, float]], baseline: str) -> dict[str, Spread]:
    """Each call's time as ratio to the baseline's in the same round."""
    names = taken[0]
    return {
        name: Spread.of([r[name] / r[baseline] for r in taken if name in r])
        for name in names
    }
