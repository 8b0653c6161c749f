"""Run claims on many seeds and keep what was worst."""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from ..threads import one_thread
from .draw import SeededDraw
from .registry import MARGIN, Claim, Measure, Measurement, worst

# Controls need no statistics: each must fail on every instance.
CONTROL_TRIALS = 20

_BROKEN = Measurement(math.inf, math.nan)


@dataclass
class Failure:
    """An instance on which a claim failed, or a control did not."""

    seed: int
    reason: str
    trace: str = ""


@dataclass
class Verdict:
    """What `verify` found for one claim.

    worst: the measurement closest to its bound, or furthest beyond. control: the
    smallest error / bound of the negative controls. failures: the first of the claim
    and the first of its controls, if any.
    """

    claim: Claim
    trials: int
    seed: int
    worst: Measurement
    control: float = math.inf
    failures: list[Failure] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the claim held, and its controls failed, on every instance."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Plain values; a number that is not finite becomes None, as JSON has none."""
        claim = self.claim
        result: dict[str, Any] = {
            "label": claim.label,
            "trials": self.trials,
            "worst": _finite(self.worst.error),
            "bound": _finite(self.worst.bound),
            "ok": self.ok,
            "seed": self.seed,
            "control": _finite(self.control),
            "instances": claim.instances,
            "quantity": claim.quantity,
            "summary": claim.summary,
            "source": claim.source,
            "line": claim.line,
        }
        if self.failures:
            result["failing_seed"] = self.failures[0].seed
        return result


def verify(
    claim: Claim,
    trials: int,
    seed: int,
    advance: Callable[[], object] | None = None,
) -> Verdict:
    """Measure a claim on the seeds seed, seed + 1, … and its controls on the first few.

    Trial t is the instance of seed + t alone, so `verify(claim, 1, seed + t)` repeats
    it. advance: called after each trial.
    """
    found = []
    with one_thread():
        for trial in range(seed, seed + trials):
            found.append(_measure(claim.measure, trial))
            if advance is not None:
                advance()
        verdict = Verdict(claim, trials, seed, worst(*(m for m, _ in found)))
        failed = [failure for measured, failure in found if not measured.ok]
        verdict.failures = failed[:1] + list(_controls(verdict))[:1]
    return verdict


def verify_all(
    claims: Sequence[Claim],
    trials: int,
    seed: int,
    advance: Callable[[int], object] = lambda trials: None,
) -> list[Verdict]:
    """Every claim; several at a time where there are several cores.

    advance: called with the number of trials that were made since.
    """
    workers = min(os.cpu_count() or 1, len(claims))
    if workers == 1:
        return [verify(c, trials, seed, lambda: advance(1)) for c in claims]
    with ProcessPoolExecutor(workers) as pool:
        found = [pool.submit(verify, claim, trials, seed) for claim in claims]
        for done in as_completed(found):
            advance(done.result().trials)
    return [future.result() for future in found]


def _controls(verdict: Verdict) -> Iterator[Failure]:
    """The controls that did not fail by the margin."""
    trials = min(verdict.trials, CONTROL_TRIALS)
    for control in verdict.claim.controls:
        for trial in range(verdict.seed, verdict.seed + trials):
            measured, failure = _measure(control, trial)
            verdict.control = min(verdict.control, measured.ratio)
            if measured is _BROKEN:
                yield failure
            elif not measured.ratio > MARGIN:
                found = f"error {measured.error:.1e} is not visibly beyond "
                found += f"the bound {measured.bound:.1e}"
                yield Failure(trial, f"control {control.__name__}: {found}")


def _measure(measure: Measure, seed: int) -> tuple[Measurement, Failure]:
    """The measurement, with what to say if it is not as it should be."""
    try:
        measured = measure(SeededDraw(seed))
    except Exception as error:  # a broken rule may raise anything
        reason = f"{type(error).__name__}: {error}"
        return _BROKEN, Failure(seed, reason, traceback.format_exc())
    reason = f"error {measured.error:.1e} exceeds the bound {measured.bound:.1e}"
    return measured, Failure(seed, reason)


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def table(verdicts: Iterable[Verdict]) -> str:
    """Label, trials, worst error and bound, verdict, and how clearly controls fail."""
    rows = [("label", "trials", "worst error", "bound", "verdict", "control")]
    for v in verdicts:
        control = f"{v.control:.0e} x bound"
        error, bound = f"{v.worst.error:.1e}", f"{v.worst.bound:.1e}"
        word = "ok" if v.ok else "FAILS"
        rows.append((v.claim.label, str(v.trials), error, bound, word, control))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    )
