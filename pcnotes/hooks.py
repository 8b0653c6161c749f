"""The cut itself: forward hooks that keep predictions and hand values on.

While the user's closure runs, a hook on each chosen module keeps the module's output as
the *prediction* of a vertex and hands a *value*, a leaf of autograd, downstream in its
place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from .outputs import map_tensors

# (module's name, how often it had been called, path inside what it returned)
Key = tuple[str, int, str]


class Record(NamedTuple):
    """What a hook keeps of one tensor that a module returned."""

    prediction: Tensor
    # The leaf that went downstream; for an output None, uncut the edge of autograd.
    value: Any
    version: int


class Given(NamedTuple):
    """What the hidden vertices hand on: values, or shifts of their predictions."""

    tensors: dict[Key, Tensor]
    shift: bool
    outputs: Set[Key]  # once known, they need no cut: nothing but the loss reads them

    def value(self, key: Key, mu: Tensor) -> Tensor:
        """v for this prediction; without a word about it, the prediction itself."""
        given = self.tensors.get(key)
        if given is None:
            return mu
        if given.shape != mu.shape:
            what = "error" if self.shift else "value"
            raise ValueError(
                f"the {what} given for module {key[0]!r} has shape "
                f"{tuple(given.shape)}, its prediction {tuple(mu.shape)}. If you gave "
                "none, the closure computes other shapes when values move (routing "
                "that depends on them): it must do the same each time"
            )
        return mu.detach() - given if self.shift else given


@contextmanager
def cutting(
    places: Mapping[nn.Module, str],
    enclosing: Set[nn.Module],
    innermost: bool,
    given: Given | None,
) -> Iterator[dict[Key, Record]]:
    """Hooks on these modules while a closure runs; yields what they keep.

    enclosing: modules among them with others inside. innermost: whether a call that
    contains another vertex's call is none itself. given: None leaves all uncut.
    """
    records: dict[Key, Record] = {}
    calls = dict.fromkeys(places, 0)
    started: dict[nn.Module, list[int]] = {m: [] for m in enclosing}
    views: list[tuple[Key, Tensor]] = []

    def before(module: nn.Module, args: Any) -> None:
        if module in started:
            started[module].append(len(records))

    def after(module: nn.Module, args: Any, named: Any, output: Any) -> Any:
        if module not in calls:  # a copy that somebody made of the model, hooks and all
            return None
        if module in started:
            has_inner = len(records) > started[module].pop()
            if has_inner and innermost:
                return None
        call = calls[module]
        calls[module] += 1
        handed: dict[int, Tensor] = {}  # a tensor returned twice is one vertex
        returned: list[tuple[Key, Tensor, Tensor]] = []

        def hand(path: str, mu: Tensor) -> Tensor:
            if not _can_be_cut(mu):
                return mu
            if id(mu) not in handed:
                key = (places[module], call, path)
                records[key], passed = _cut(mu, key, given)
                shared = [(k, p) for k, m, p in returned if _share_memory(mu, m)]
                if shared or _is_a_view_of_input(mu, args, named):
                    views.extend([(key, passed), *shared])
                returned.append((key, mu, passed))
                handed[id(mu)] = passed
            return handed[id(mu)]

        return map_tensors(output, hand)

    handles = [m.register_forward_pre_hook(before) for m in enclosing]
    handles += [m.register_forward_hook(after, with_kwargs=True) for m in places]
    try:
        yield records
    finally:
        calls.clear()  # copies of our hooks, if any, do nothing from here on
        started.clear()
        for handle in handles:
            handle.remove()
    if given is not None:
        _check_in_place(records, views)


def _can_be_cut(mu: Tensor) -> bool:
    """A real tensor with a gradient, under no transform that hooks cannot see."""
    if not (mu.requires_grad and mu.is_floating_point()):
        return False
    if mu.layout != torch.strided or mu.is_nested:
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(mu)
    return not wrapped and forward_ad._current_level < 0


def _cut(mu: Tensor, key: Key, given: Given | None) -> tuple[Record, Tensor]:
    """Keep the prediction; what goes downstream in its place comes second."""
    if mu.grad_fn is None:
        mu = mu.view_as(mu)  # a parameter, or the module's own input
    if given is None:
        # The edge of a copy: a module may make one of its outputs from another.
        passed = _copy(mu)
        edge = torch.autograd.graph.get_gradient_edge(passed)
        return Record(mu, edge, mu._version), passed
    if key in given.outputs:
        return Record(mu, None, mu._version), _copy(mu)
    leaf = given.value(key, mu).detach().to(mu.dtype).requires_grad_()
    return Record(mu, leaf, mu._version), _copy(leaf)


def _copy(tensor: Tensor) -> Tensor:
    """A copy of its own: downstream may work in place, as on any output.

    On the devices that can, it is made when somebody writes, and not before.
    """
    lazily = tensor.device.type in ("cpu", "cuda") and hasattr(torch, "_lazy_clone")
    if lazily and tensor.layout == torch.strided and type(tensor) is Tensor:
        return torch._lazy_clone(tensor)
    return tensor.clone()


def _is_a_view_of_input(mu: Tensor, args: Any, named: Any) -> bool:
    """Whether a module returned (a view of) what went in.

    Not so if it worked in place: then nobody reads the input any more.
    """
    if any(mu is x for x in (*args, *named.values())):
        return mu._version == 0
    if not mu._is_view():
        return False
    found: list[Tensor] = []

    def collect(_: str, x: Tensor) -> Tensor:
        found.append(x)
        return x

    map_tensors((args, named), collect)
    return any(torch._C._is_alias_of(mu, x) for x in found)  # type: ignore[attr-defined]


def _share_memory(mu: Tensor, other: Tensor) -> bool:
    """Whether one output of a module is a view of another, or both of a third."""
    if not (mu._is_view() or other._is_view()):
        return False
    return (mu._base if mu._is_view() else mu) is (
        other._base if other._is_view() else other
    )


def _check_in_place(
    records: Mapping[Key, Record], views: list[tuple[Key, Tensor]]
) -> None:
    """Nothing happened to what was cut behind our back."""
    for (module, _, path), (mu, _, version) in records.items():
        if mu._version != version:
            raise RuntimeError(
                f"the output {module + path!r} was modified in place under another "
                "name: it is a tensor that went into the module, and whoever still "
                "holds that sees no cut. Use what the module returns, or choose other "
                "vertices with at="
            )
    for (module, _, path), passed in views:
        if passed._version:
            raise RuntimeError(
                f"the output {module + path!r} was modified in place; it shares memory "
                "with what went into the module or with another of its outputs, and "
                "after a cut that does not change with it. Use an operation that is "
                "not in place, or choose other vertices with at="
            )
