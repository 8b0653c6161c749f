"""Walk over what a module returns: a tensor, or tensors inside containers."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor


def map_tensors(
    output: Any, change: Callable[[str, Tensor], Tensor], path: str = ""
) -> Any:
    """A copy of `output` with every tensor replaced by `change(path, tensor)`.

    Tuples, named tuples, lists, dicts and dataclasses are entered; anything else
    (None, numbers, strings) is returned as it is.

    >>> import torch
    >>> map_tensors({"a": (torch.ones(2), None)}, lambda path, t: print(path) or t)
    ['a'][0]
    {'a': (tensor([1., 1.]), None)}
    """
    if isinstance(output, Tensor):
        return change(path, output)
    if isinstance(output, dict):
        changed = copy.copy(output)  # keeps subclasses that take other arguments
        for key, item in output.items():
            changed[key] = map_tensors(item, change, f"{path}[{key!r}]")
        return changed
    if isinstance(output, list | tuple):
        items = [map_tensors(x, change, f"{path}[{i}]") for i, x in enumerate(output)]
        if isinstance(output, list):
            replaced_list = copy.copy(output)  # keeps subclasses
            replaced_list[:] = items
            return replaced_list
        try:  # named tuples and subclasses, whatever arguments they take
            replaced_tuple = tuple.__new__(type(output), items)
        except TypeError:
            return type(output)(items)  # torch.return_types
        if hasattr(output, "__dict__"):
            replaced_tuple.__dict__.update(output.__dict__)
        return replaced_tuple
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        replaced: Any = copy.copy(output)
        for field in dataclasses.fields(output):
            item = map_tensors(
                getattr(output, field.name), change, f"{path}.{field.name}"
            )
            object.__setattr__(replaced, field.name, item)  # frozen ones too
        return replaced
    return output


def tensors_in(output: Any) -> list[Tensor]:
    """The tensors that map_tensors would change."""
    found: list[Tensor] = []

    def collect(_: str, tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(output, collect)
    return found
