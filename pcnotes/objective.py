"""The energy E_β = Σ e(μ, v) + β·loss, the sum over hidden vertices, and its slopes.

The local energy e is ½‖μ - v‖² unless told otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .evaluation import Errors, Evaluation
from .selection import matches

LocalEnergy = Callable[[Tensor, Tensor], Tensor]
Precision = float | Tensor

# How often power iteration is repeated: the estimate of a largest eigenvalue is then
# within a few per cent on the networks of the book.
_ITERATIONS = 40


class Slopes(NamedTuple):
    """By vertex: ∂e/∂μ, which teaches, and -∂e/∂v, which pulls the value along."""

    taught: dict[str, Tensor]
    pulled: dict[str, Tensor]


class Evaluates(Protocol):
    """The part of a graph that the step size needs."""

    def evaluate(self, values: Errors | None = None) -> Evaluation: ...

    def probe(self, values: Errors) -> Evaluation: ...


class Point(NamedTuple):
    """What an energy is a function of, apart from autograd's graphs."""

    hidden: tuple[str, ...]
    predictions: Mapping[str, Tensor]
    values: Mapping[str, Tensor]
    loss: Tensor


@dataclass(frozen=True)
class Objective:
    """What the strict rules descend.

    scale: β > 0. precision: π > 0, a number or a tensor that is broadcast, for e =
    ½·π·(μ - v)². energy: e itself, a function (μ, v) -> scalar tensor. Both may also be
    a mapping from names of vertices (`*` and `**` as in at=) to such things; vertices
    that are not named keep ½‖μ - v‖².
    """

    scale: float = 1.0
    precision: Precision | Mapping[str, Precision] | None = None
    energy: LocalEnergy | Mapping[str, LocalEnergy] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", positive("scale", self.scale))
        for given in (self.precision, self.energy):
            _check_names(given)
        for pi in _each(self.precision):
            _check_precision(pi)
        for local in _each(self.energy):
            if not callable(local) or isinstance(local, type):
                raise TypeError(
                    "energy must be a function (μ, v) -> scalar tensor, or a mapping "
                    f"from names of vertices to such functions, got {local!r}"
                )

    def value(self, at: Evaluation | Point, errors: Errors) -> Tensor:
        """E_β at this point, whose errors μ - v are these."""
        precision, energy = self._chosen(at)
        parts = []
        for i, e in errors.items():
            if i in energy:
                part = _local(energy[i], i, at.predictions[i], at.values[i])
            else:
                part = _gaussian(e, precision.get(i, 1.0))
            parts.append(part.to(at.loss))
        return sum(parts, self.scale * at.loss)

    def slopes(self, at: Evaluation, errors: Errors) -> Slopes:
        """∂e/∂μ and -∂e/∂v of every hidden vertex."""
        precision, energy = self._chosen(at)
        taught, pulled = {}, {}
        for i, e in errors.items():
            if i in energy:
                taught[i], pulled[i] = self._differentiate(energy[i], i, at)
            else:
                taught[i] = pulled[i] = precision[i] * e if i in precision else e
        return Slopes(taught, pulled)

    def force(self, at: Evaluation, slopes: Slopes) -> dict[str, Tensor]:
        """-∇E in the values: what moves them."""
        asked = at.pull(slopes.taught, self.scale)
        return {i: slopes.pulled[i] - e for i, e in asked.items()}

    def lesson(self, slopes: Slopes) -> dict[str, Tensor]:
        """What the parameters learn from, so that .grad is ∇E_β/β."""
        if self.scale == 1:
            return slopes.taught
        return {i: t / self.scale for i, t in slopes.taught.items()}

    def _chosen(
        self, at: Evaluation | Point
    ) -> tuple[dict[str, Precision], dict[str, LocalEnergy]]:
        precision = _by_vertex("precision", self.precision, at.hidden)
        energy = _by_vertex("energy", self.energy, at.hidden)
        if both := precision.keys() & energy.keys():
            raise ValueError(
                f"both precision and energy are given for {', '.join(sorted(both))}; "
                "a precision belongs to the Gaussian energy"
            )
        for i, pi in precision.items():
            if isinstance(pi, Tensor):
                _check_shape(pi, i, at.predictions[i].shape)
        return precision, energy

    def _differentiate(
        self, energy: LocalEnergy, name: str, at: Evaluation
    ) -> tuple[Tensor, Tensor]:
        mu = at.predictions[name].detach().requires_grad_()
        v = at.values[name].detach().requires_grad_()
        with torch.enable_grad():
            local = _local(energy, name, mu, v)
        found: Any = (None,)
        if local.requires_grad:
            found = torch.autograd.grad(local, [mu, v], allow_unused=True)
        if None in found:
            raise RuntimeError(
                f"the energy of {name!r} does not depend on both the prediction and "
                "the value, or not differentiably"
            )
        return found[0], -found[1]


def largest_step(graph: Evaluates, objective: Objective) -> float:
    """2/λ, where λ is the largest eigenvalue of E's Hessian at the feed-forward pass.

    Gradient descent with larger steps leaves the feed-forward pass for good. By power
    iteration on differences of ∇E; it approaches λ from below, so keep a margin.
    """
    start = graph.evaluate()
    if not start.hidden:
        return math.inf
    here = {i: start.predictions[i] for i in start.hidden}
    zero = start.zeros()
    ground = objective.force(start, objective.slopes(start, zero))
    generator = torch.Generator().manual_seed(0)
    direction = {
        i: torch.randn(z.shape, generator=generator, device="cpu").to(z)
        for i, z in zero.items()
    }
    eps = max(torch.finfo(v.dtype).eps for v in here.values())
    h = eps**0.5 * (1 + norm(here))
    eigenvalue = 0.0
    for _ in range(_ITERATIONS):
        length = norm(direction)
        if not (math.isfinite(length) and length > 0):
            break
        away = {i: (h / length) * d for i, d in direction.items()}
        at = graph.probe({i: here[i] + away[i] for i in here})
        errors = {i: at.predictions[i] - here[i] - away[i] for i in here}
        force = objective.force(at, objective.slopes(at, errors))
        direction = {i: (ground[i] - force[i]) / h for i in force}
        eigenvalue = norm(direction)
    return 2 / eigenvalue if eigenvalue > 0 else math.inf


def positive(name: str, value: object) -> float:
    """The number, or a word about what it should have been."""
    try:
        if isinstance(value, bool | str):
            raise TypeError
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a positive number, got {value!r}") from None
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return number


def norm(tensors: Mapping[str, Tensor]) -> float:
    """The Euclidean norm of all of them together."""
    squares = [float(t.detach().double().square().sum()) for t in tensors.values()]
    return math.sqrt(sum(squares))


def _each(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given.values()) if isinstance(given, Mapping) else [given]


def _check_names(given: Any) -> None:
    for pattern in given if isinstance(given, Mapping) else ():
        if not isinstance(pattern, str):
            raise TypeError(f"names of vertices are words, got {pattern!r}")


def _by_vertex(what: str, given: Any, hidden: tuple[str, ...]) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        return dict.fromkeys(hidden, given)
    chosen: dict[str, Any] = {}
    for pattern, item in given.items():
        found = [i for i in hidden if matches(pattern, i)]
        if not found:
            raise ValueError(
                f"{what}: {pattern!r} names no hidden vertex; they are "
                f"{', '.join(hidden[:8])}"
            )
        chosen |= dict.fromkeys(found, item)
    return chosen


def _check_precision(value: Any) -> None:
    if isinstance(value, Tensor) and not value.is_floating_point():
        raise TypeError(f"precision must be a real tensor, it is {value.dtype}")
    if isinstance(value, Tensor):
        if not bool((value > 0).all() and torch.isfinite(value).all()):
            raise ValueError("precision must be positive and finite everywhere")
    elif isinstance(value, list | tuple):
        raise TypeError(
            "precision must be a positive number, a tensor that is broadcast, or "
            f"{{vertex: such}}; make a tensor of {value!r}"
        )
    else:
        positive("precision", value)


def _check_shape(precision: Tensor, name: str, shape: torch.Size) -> None:
    fits = precision.dim() <= len(shape) and all(
        a in (1, b) for a, b in zip(precision.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise ValueError(
            f"the precision of {name!r} has shape {tuple(precision.shape)}, which "
            f"cannot be broadcast to its values' shape {tuple(shape)}"
        )


def _gaussian(error: Tensor, precision: Precision) -> Tensor:
    """½π‖ε‖²; with one precision for all units there is no need for a copy of ε."""
    if isinstance(precision, Tensor):
        return (precision * error.square()).sum() / 2
    return precision * torch.linalg.vector_norm(error).square() / 2


def _local(energy: LocalEnergy, name: str, mu: Tensor, v: Tensor) -> Tensor:
    found = energy(mu, v)
    if not isinstance(found, Tensor) or found.numel() != 1:
        given = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else found
        raise TypeError(
            f"the energy of {name!r} must be a scalar tensor (sum over units and "
            f"samples), it returned {given!r}"
        )
    return found.reshape(())
