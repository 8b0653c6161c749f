"""Too little memory: noticed before it is taken where that can be known."""

from __future__ import annotations

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


def too_little(
    needed: int, what: str, way: str, there: int | None = None
) -> MemoryError:
    """The words: what needs how much, and what one can do."""
    known = "" if there is None else f", {there / 1e6:,.0f} MB are there"
    return MemoryError(f"{what} needs about {needed / 1e6:,.0f} MB{known}; {way}")
