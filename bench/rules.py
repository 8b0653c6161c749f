"""What is measured: each rule, how it is called, and the cost that is aimed at."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pcnotes as pc

from .models import Case

# Small, so that no model diverges. What a step costs does not depend on its size.
STEP = 0.01


@dataclass(frozen=True)
class Entry:
    """A rule as it is measured.

    way: "backward", from the zeroed gradient to the parameters' gradient, or "infer",
    all states of the dynamics with nothing read from them. time, memory: the ratios to
    BP aimed at, functions of the model's name and of the graph's depth. graded: only
    for models whose graph needs no identity vertices.
    """

    rule: Any
    way: str = "backward"
    time: Callable[[str, int], float | None] = lambda model, depth: None
    memory: float | None = None
    graded: bool = False

    def call(self, case: Case) -> Callable[[], object]:
        """What is timed."""
        if self.way == "backward":
            return lambda: pc.backward(case.model, case.closure, self.rule, case.at)
        return lambda: deque(
            pc.infer(case.model, case.closure, self.rule, case.at), maxlen=0
        )

    def work(self, case: Case) -> dict[str, int]:
        """Evaluations of the closure and vector-Jacobian products of one call."""
        if self.way == "backward":
            row = pc.compare(case.model, case.closure, [self.rule], case.at).rows[0]
            return {"evaluations": row["evaluations"], "vjps": row["vjps"]}
        graph = pc.Graph(case.model, case.closure, case.at)
        with graph.unwinding():
            deque(self.rule.run(graph), maxlen=0)
            graph.rewind()
        return {"evaluations": graph.work.evaluations, "vjps": graph.work.vjps}


# Exact has a limit for wide layers, for many of them, and for very small ones.
EXACT = {
    "perceptron-wide": 1.15,
    "cnn": 1.15,
    "perceptron-deep": 1.3,
    "lstm": 1.8,
    "gru": 1.8,
}


def entries(steps: int = 20) -> dict[str, Entry]:
    """Every rule by the name it has on the command line."""

    def half(model: str, depth: int) -> float:
        return 0.5 * steps + 1

    relaxing = pc.FixedPrediction(step_size=0.5, steps=steps)
    return {
        "backprop": Entry(pc.Backprop()),
        "exact": Entry(
            pc.Exact(), time=lambda model, depth: EXACT.get(model), memory=1.1
        ),
        "zil": Entry(pc.ZIL(), time=lambda model, depth: 1.5),
        "zil-dynamics": Entry(
            pc.ZIL(), "infer", time=lambda model, depth: 1.5 * depth, graded=True
        ),
        "fixed": Entry(pc.FixedPrediction(), time=lambda model, depth: 1.5, memory=2),
        "fixed-half": Entry(relaxing, time=half, memory=2),
        "fixed-dynamics": Entry(relaxing, "infer", time=half, memory=2),
        "strict": Entry(
            pc.Strict(step_size=STEP, steps=steps),
            time=lambda model, depth: 0.9 * steps + 1,
            memory=2,
        ),
        "incremental": Entry(pc.Incremental(step_size=STEP, steps=steps), "infer"),
        "error": Entry(pc.ErrorOptimisation(step_size=STEP, steps=steps)),
    }
