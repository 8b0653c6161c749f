"""`python -m pcnotes compare`: every rule against backpropagation, at a glance."""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from .comparison import Comparison, compare
from .graph import Closure, Graph, cut
from .learning import backward
from .models import Recurrent, convolutional, perceptron
from .rules import ZIL, ErrorOptimisation, Exact, FixedPrediction, Rule, Strict
from .selection import At, Models, modules_of
from .tables import Table
from .threads import one_thread

REPETITIONS = 5
LONG_ENOUGH = 0.3  # seconds for one rule; a demonstration should not make wait
RULES = 7


class Subject(NamedTuple):
    """A model to hold rules against, and the closure that runs it."""

    name: str
    model: Models
    closure: Closure
    at: At = None


class Finding(NamedTuple):
    """What was found on one subject: closeness, and time as multiples of BP's."""

    subject: Subject
    graph: Graph
    comparison: Comparison
    times: list[float]

    def __str__(self) -> str:
        s = self.graph.structure
        copies = sum(s.identity_vertices.values())
        head = (
            f"{self.subject.name}: {_parameters(self.subject.model):,} parameters, "
            f"{len(s.vertices)} vertices, {s.depth} edges deep, "
            + ("graded" if s.graded else f"not graded ({copies} identity vertices)")
        )
        overview = self.comparison.overview()
        rows = [
            [*row, f"{ratio:.1f}"]
            for row, ratio in zip(overview.rows, self.times, strict=True)
        ]
        return f"{head}\n{Table([*overview.columns, '× BP'], rows, overview.notes)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and names, ready for json."""
        return {
            "model": self.subject.name,
            "parameters": _parameters(self.subject.model),
            **self.comparison.to_dict(),
            "times": self.times,
        }


def rules(graph: Graph) -> list[Rule]:
    """One of each kind, the strict ones at half of the largest stable step."""
    step = float(f"{min(0.1, graph.step_size() / 2):.1g}")
    return [
        Exact(),
        ZIL(),
        FixedPrediction(),
        FixedPrediction(step_size=0.5, steps=10),
        ErrorOptimisation(),
        Strict(step),
        Strict(step, steps=50, scale=0.1),
    ]


def subjects(samples: int = 64) -> list[Subject]:
    """A perceptron, a convolutional and a recurrent network on the digits."""
    from .data import digits

    x, y = digits(samples, torch.float64)

    def loss_of(model: nn.Module) -> Closure:
        return lambda: nn.functional.cross_entropy(model(x), y)

    models = {
        "perceptron": perceptron([64, 48, 48, 10]),
        "convolutional": convolutional(),
        "recurrent": Recurrent(),
    }
    return [Subject(name, model, loss_of(model)) for name, model in models.items()]


def load(place: str) -> Subject:
    """The subject that FILE.py:factory makes: (model, closure) or (model, closure, at).

    Raises ValueError with what was wrong.
    """
    path, colon, name = place.rpartition(":")
    if not colon or not path or not name:
        raise ValueError(f"--model takes FILE.py:factory, got {place!r}")
    if not Path(path).is_file():
        raise ValueError(f"--model {place}: there is no file {path}")
    # A name of its own: a file random.py must not take the place of the module.
    spec = importlib.util.spec_from_file_location("pcnotes_model_file", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--model {place}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    sys.path.append(str(Path(path).resolve().parent))  # as under `python FILE.py`
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(f"--model {place}: {path} raised {error!r}") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        functions = [n for n, f in vars(module).items() if _is_own_function(f, module)]
        raise ValueError(
            f"--model {place}: {path} has no function {name!r}; it has "
            f"{', '.join(functions) or 'none'}"
        )
    try:
        made = factory()
    except (Exception, SystemExit) as error:
        raise ValueError(f"--model {place}: {name}() raised {error!r}") from error
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not callable(made[1]):
        raise ValueError(
            f"--model {place}: {name}() must return (model, closure) or (model, "
            f"closure, at), where closure() gives the loss; it returned {made!r:.80}"
        )
    return Subject(f"{Path(path).name}:{name}", *made)


def look(subject: Subject, tell: Callable[[int], object]) -> Finding:
    """Closeness and cost of every kind of rule; `tell(1)` after each of them."""
    graph = cut(subject.model, subject.closure, subject.at)
    chosen = rules(graph)
    comparison: Comparison | None = None
    with one_thread():
        for rule in chosen:
            found = compare(subject.model, subject.closure, [rule], subject.at)
            comparison = found if comparison is None else comparison + found
            tell(1)
        assert comparison is not None
        return Finding(subject, graph, comparison, _times(subject, chosen))


def _times(subject: Subject, chosen: Sequence[Rule]) -> list[float]:
    """Process time of one backward as multiples of BP's, interleaved, medians."""

    def plain() -> None:
        subject.closure().backward()

    def by(rule: Rule) -> Callable[[], object]:
        return lambda: backward(subject.model, subject.closure, rule, subject.at)

    calls = [plain, *map(by, chosen)]
    seconds: list[list[float]] = [[] for _ in calls]
    with _undisturbed(subject.model):
        for _ in range(REPETITIONS + 1):
            for call, found in zip(calls, seconds, strict=True):
                if len(found) > 1 and sum(found) > LONG_ENOUGH:
                    continue
                for module in modules_of(subject.model):
                    for p in module.parameters(recurse=False):
                        p.grad = None
                start = time.process_time()
                call()
                found.append(time.process_time() - start)
    base, *others = (statistics.median(found[1:]) for found in seconds)
    return [other / base for other in others]


@contextmanager
def _undisturbed(model: Models) -> Iterator[None]:
    """Whatever is run in here leaves gradients, buffers and random states alone."""
    parameters = [p for m in modules_of(model) for p in m.parameters(recurse=False)]
    gradients = [p.grad for p in parameters]
    buffers = [(b, b.clone()) for m in modules_of(model) for b in m.buffers(False)]
    with torch.random.fork_rng():
        try:
            yield
        finally:
            for p, gradient in zip(parameters, gradients, strict=True):
                p.grad = gradient
            for b, before in buffers:
                b.data.copy_(before)


def _parameters(model: Models) -> int:
    found = {p for m in modules_of(model) for p in m.parameters(recurse=False)}
    return sum(p.numel() for p in found)


def _is_own_function(thing: Any, module: Any) -> bool:
    return callable(thing) and getattr(thing, "__module__", None) == module.__name__
