"""Which modules are vertices, and what they are called."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

Models = nn.Module | Sequence[nn.Module]
Selector = str | type[nn.Module] | nn.Module | Callable[[str, nn.Module], bool]
At = Selector | Sequence[Selector] | None

# Wrappers that hold the user's model as `.module`; their prefix tells a reader nothing.
_WRAPPERS = {
    "AveragedModel",
    "DataParallel",
    "DistributedDataParallel",
    "FullyShardedDataParallel",
}


class Place(NamedTuple):
    """A module that can be called, under the path that a reader would write."""

    name: str
    module: nn.Module
    owns_parameters: bool


def as_models(model: Models) -> tuple[nn.Module, ...]:
    """The model, or the models, as a tuple; anything else is refused."""
    models: tuple[Any, ...] = (model,)
    if isinstance(model, list | tuple):
        models = tuple(model)
    wrong = [m for m in models if not isinstance(m, nn.Module)]
    if wrong or not models:
        given = type(wrong[0]).__name__ if wrong else "an empty list"
        raise TypeError(
            f"model must be a torch.nn.Module or a list of them, got {given}"
        )
    return models


def refuse_wrappers(modules: Sequence[nn.Module]) -> None:
    """Wrappers that rely on one pass of autograd through the whole module."""
    for m in modules:
        if type(m).__name__.startswith(("FSDP", "FullyShardedDataParallel")):
            raise ValueError(
                "fully sharded modules (FSDP) gather their parameters for one pass of "
                "autograd through the module itself, which a cut graph does not make: "
                "gradients would come late or not at all. DistributedDataParallel works"
            )
        reads_graph = ("static_graph", "find_unused_parameters")
        if _is_wrapper(m) and any(getattr(m, name, False) for name in reads_graph):
            raise ValueError(
                "DistributedDataParallel with static_graph or find_unused_parameters "
                "walks the graph behind its output, which ends at the first cut: "
                "gradients would not be synchronised. Build it without them"
            )


def modules_of(model: Models) -> list[nn.Module]:
    """Every module inside, once."""
    return list({m: None for root in as_models(model) for _, m in _walk(root)})


def named_parameters(model: Models) -> dict[str, nn.Parameter]:
    """All parameters once, by the same paths as the vertices."""
    return {
        _clean(prefix, path, root): parameter
        for prefix, root in _roots(model)
        for path, parameter in root.named_parameters()
    }


def select(model: Models, at: At) -> dict[nn.Module, str]:
    """The modules whose calls become vertices, with their names.

    `at=None` takes every module that owns parameters directly; the graph then keeps
    the innermost calls only. See `pcnotes.cut` for what else `at` may be.
    """
    places = list(_places(model))
    if at is None:
        return {p.module: p.name for p in places if p.owns_parameters}
    is_list = isinstance(at, list | tuple | set | frozenset)
    selectors: list[Selector] = list(at) if is_list else [at]  # type: ignore
    if not selectors:
        raise ValueError("at= is an empty list: no module could become a vertex")
    chosen = {p.module for s in selectors for p in _matching(s, places)}
    return {p.module: p.name for p in places if p.module in chosen}


def enclosing(places: Mapping[nn.Module, str]) -> set[nn.Module]:
    """The chosen modules that have other chosen modules inside."""
    return {
        m
        for m in places
        if m._modules
        and any(inner in places for inner in m.modules() if inner is not m)
    }


def _matching(selector: Selector, places: list[Place]) -> list[Place]:
    if isinstance(selector, str):
        pattern = _pattern(selector)
        found = [p for p in places if pattern.fullmatch(p.name)]
    elif isinstance(selector, nn.Module):
        found = [p for p in places if p.module is selector]
    elif isinstance(selector, type) and issubclass(selector, nn.Module):
        found = [p for p in places if isinstance(p.module, selector)]
    elif callable(selector) and not isinstance(selector, type):
        found = [p for p in places if selector(p.name, p.module)]
    else:
        raise TypeError(
            "at= takes module names with wildcards, module types, modules, a predicate "
            f"(name, module) -> bool, or a list of these; got {selector!r}"
        )
    if not found:
        names = [p.name for p in places]
        near = difflib.get_close_matches(str(selector), names, n=5) or names[:8]
        raise ValueError(
            f"at={selector!r} matches no module of the model; "
            f"its modules include {', '.join(near)}"
        )
    return found


def matches(pattern: str, name: str) -> bool:
    """Whether a name, of a module or of a vertex, fits a pattern of at=."""
    return _pattern(pattern).fullmatch(name) is not None


def _pattern(text: str) -> re.Pattern[str]:
    """`*` stays inside one component of a path, `**` crosses dots."""
    parts = re.split(r"(\*\*|\*|\?)", text)
    regex = {"**": ".*", "*": r"[^.]*", "?": r"[^.]"}
    return re.compile("".join(regex.get(p, re.escape(p)) for p in parts))


def _places(model: Models) -> Iterator[Place]:
    """Each module once, the outermost where a wrapper and its content share a name."""
    owner: dict[tuple[nn.Module, str], Place] = {}
    seen: set[nn.Module] = set()
    for prefix, root in _roots(model):
        named: dict[str, Place] = {}
        for path, module in _walk(root):
            # Called whenever its owner reads the weight: part of the owner.
            if module in seen or "parametrizations" in path.split("."):
                continue
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks: part of whatever reads its output
            seen.add(module)
            name = _clean(prefix, path, root)
            place = Place(name, module, _owns_parameters(module))
            if name in named:  # the content of a wrapper: hooks go on the wrapper
                outer = named[name]
                owns = outer.owns_parameters or place.owns_parameters
                place = Place(name, outer.module, owns)
            named[name] = place
        owner.update({(root, name): place for name, place in named.items()})
    yield from owner.values()


def _walk(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """named_modules(), without its recursion: this runs at every training step."""
    stack, seen = [("", root)], set()
    while stack:
        path, module = stack.pop()
        if module in seen:
            continue
        seen.add(module)
        yield path, module
        prefix = path + "." if path else ""
        inner = [(prefix + k, m) for k, m in module._modules.items() if m is not None]
        stack.extend(reversed(inner))


def _roots(model: Models) -> list[tuple[str, nn.Module]]:
    models = as_models(model)
    if isinstance(model, nn.Module):
        return [("", models[0])]
    return [(str(i), m) for i, m in enumerate(models)]


def _clean(prefix: str, path: str, root: nn.Module) -> str:
    """The path without wrappers; the root itself is called `.`."""
    if (
        not prefix
        and path
        and "_orig_mod" not in path
        and not path.startswith("module")
    ):
        return path
    parts = [p for p in path.split(".") if p and p != "_orig_mod"]
    if parts and parts[0] == "module" and _is_wrapper(root):
        parts = parts[1:]
    return ".".join([p for p in (prefix, *parts) if p]) or "."


def _is_wrapper(module: nn.Module) -> bool:
    inner = getattr(module, "_orig_mod", module)
    return type(inner).__name__ in _WRAPPERS


def _owns_parameters(module: nn.Module) -> bool:
    if isinstance(module, nn.ParameterList | nn.ParameterDict):
        return False  # a container: whoever reads it owns what is in it
    if any(p is not None for p in module._parameters.values()):
        return True
    containers = (nn.ParameterList, nn.ParameterDict)
    return any(
        name == "parametrizations" or isinstance(child, containers)
        for name, child in module._modules.items()
    )
