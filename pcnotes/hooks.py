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
from torch.autograd.graph import get_gradient_edge

from .outputs import map_tensors, tensors_in
from .structure import Root

_LAZILY = hasattr(torch, "_lazy_clone")

# (module's name, how often it had been called, path inside what it returned)
Key = tuple[str, int, str]


class Record(NamedTuple):
    """What a hook keeps of one tensor that a module returned."""

    prediction: Root
    # The leaf that went downstream; for an output None, uncut the edge of autograd.
    value: Any
    watched: Tensor  # counts what is done in place to the prediction's memory
    version: int


class Given(NamedTuple):
    """What the hidden vertices hand on: values, or shifts of their predictions.

    contents: whether the numbers themselves are kept, or local graphs alone.
    """

    tensors: dict[Key, Tensor]
    shift: bool
    outputs: Set[Key]  # once known, they need no cut: nothing but the loss reads them
    contents: bool = True

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
        uncut: list[Tensor] = []

        def hand(path: str, mu: Tensor) -> Tensor:
            if not _can_be_cut(mu):
                uncut.append(mu)
                return mu
            if id(mu) not in handed:
                key = (places[module], call, path)
                records[key], passed = _cut(mu, key, given)
                if mu.__dict__:  # what the module wrote on its output
                    passed.__dict__.update(mu.__dict__)
                returned.append((key, mu, passed))
                handed[id(mu)] = passed
            return handed[id(mu)]

        changed = map_tensors(output, hand)
        for key, mu, passed in returned:
            others = [m for _, m, _ in returned if m is not mu] + uncut
            if _is_a_view_of_input(mu, args, named) or any(
                torch._C._is_alias_of(mu, m)  # type: ignore[attr-defined]
                for m in others
            ):
                views.append((key, passed))
        return changed

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
    # A node of its own, even for a parameter: the error that enters there is never
    # itself the gradient of a leaf. It is made before anything that reads the value.
    mu = mu.view_as(mu)
    if given is None:
        # The edge of a copy: a module may make one of its outputs from another.
        passed = _copy(mu)
        return Record(mu, get_gradient_edge(passed), mu, mu._version), passed
    if key in given.outputs:
        return Record(mu, None, mu, mu._version), _copy(mu)
    leaf = given.value(key, mu).detach().to(mu.dtype).requires_grad_()
    passed = _copy(leaf)
    if given.contents:
        return Record(mu, leaf, mu, mu._version), passed
    # Nothing saves a leaf, only copies of it; it shares its counter with mu.
    leaf.data = leaf.data.new_empty(()).expand(leaf.shape)
    return Record(get_gradient_edge(mu), leaf, leaf, leaf._version), passed


def _copy(tensor: Tensor) -> Tensor:
    """A copy of its own: downstream may work in place, as on any output.

    On the devices that can, it is made when somebody writes, and not before.
    """
    lazily = _LAZILY and (tensor.is_cpu or tensor.is_cuda) and type(tensor) is Tensor
    if lazily and tensor.layout == torch.strided:
        return torch._lazy_clone(tensor)
    return tensor.clone()


def _is_a_view_of_input(mu: Tensor, args: Any, named: Any) -> bool:
    """Whether a module returned (a view of) what went in.

    Not so if it worked in place: then nobody reads the input any more.
    """
    inputs = [*args, *named.values()]
    if not all(isinstance(x, Tensor) for x in inputs):
        inputs = [*tensors_in((args, named))]
    if any(mu is x for x in inputs):
        return mu._version == 0
    return mu._is_view() and any(
        torch._C._is_alias_of(mu, x)  # type: ignore[attr-defined]
        for x in inputs
    )


def _check_in_place(
    records: Mapping[Key, Record], views: list[tuple[Key, Tensor]]
) -> None:
    """Nothing happened to what was cut behind our back."""
    for (module, _, path), record in records.items():
        if record.watched._version != record.version:
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
