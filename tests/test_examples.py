"""Every example in a docstring of the package runs and prints what it says."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import pcnotes as pc

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(pc.__path__, "pcnotes.")
    if not name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", sorted(pc.__all__))
def test_public_names_are_documented_and_functions_have_an_example(name):
    thing = getattr(pc, name)
    text = inspect.getdoc(thing)
    assert text
    if inspect.isfunction(thing):
        assert ">>>" in text
    for method, function in inspect.getmembers(thing, inspect.isfunction):
        assert method.startswith("_") or inspect.getdoc(function), method
