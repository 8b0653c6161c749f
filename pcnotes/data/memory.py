"""Too little memory: noticed before it is taken where that can be known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


def available() -> int | None:
    """Bytes that can still be had without swapping; None where nothing says so."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def ran_out(error: BaseException) -> bool:
    """Whether this is how Python, NumPy or PyTorch say that memory ran out.

    >>> ran_out(MemoryError()), ran_out(RuntimeError("shapes do not match"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, RuntimeError) and any(w in str(error) for w in words)


def check(needed: int, what: str, way: str) -> None:
    """A MemoryError before the kernel ends the process, where that can be foreseen."""
    there = available()
    if there is not None and needed > there:
        raise too_little(needed, what, way, there)


@contextmanager
def watched(needed: int, what: str, way: str) -> Iterator[None]:
    """Of what runs out in between, these words, whoever noticed it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if ran_out(error):
            raise too_little(needed, what, way) from error
        raise


@contextmanager
def reading(pixels: int, what: str) -> Iterator[None]:
    """So many pixels are read: packed, unpacked, and put together."""
    way = "close other programs or raise the limit on memory (ulimit -v)"
    with watched(3 * pixels, f"reading {what}", way):
        yield


def too_little(
    needed: int, what: str, way: str, there: int | None = None
) -> MemoryError:
    """The words: what needs how much, and what one can do."""
    known = "" if there is None else f", {there / 1e6:,.0f} MB are there"
    return MemoryError(f"{what} needs about {needed / 1e6:,.0f} MB{known}; {way}")
