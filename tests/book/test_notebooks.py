"""The tool that puts notebooks into their committed form."""

import importlib.util
import json

import pytest

from tools import notebooks


def notebook(*sources: str) -> dict:
    return {
        "cells": [
            {
                "cell_type": "code",
                "execution_count": 7,
                "id": "any",
                "metadata": {"collapsed": True, "tags": ["hide-input"]},
                "outputs": [{"output_type": "stream", "name": "stdout", "text": "1"}],
                "source": source,
            }
            for source in sources
        ],
        "metadata": {"kernelspec": {"name": "my-kernel"}},
        "nbformat": 4,
        "nbformat_minor": 2,
    }


def test_what_differs_from_editor_to_editor_goes() -> None:
    result = notebooks.normal(notebook("1 + 1  \n", ""))
    cell = result["cells"][-1]
    assert len(result["cells"]) == 3, "two generated cells and one of the author's"
    assert cell["outputs"] == []
    assert cell["execution_count"] is None
    assert cell["source"] == ["1 + 1"]
    assert cell["metadata"] == {"tags": ["hide-input"]}
    assert result["metadata"]["kernelspec"]["name"] == "python3"


def test_the_committed_form_is_kept_and_ids_are_unique() -> None:
    once = notebooks.normal(notebook("x", "x", "y"))
    assert notebooks.dump(notebooks.normal(once)) == notebooks.dump(once)
    ids = [cell["id"] for cell in once["cells"]]
    assert len(set(ids)) == len(ids)


def test_macros_reach_plain_jupyter() -> None:
    text = notebooks.macro_text()
    macros = json.loads((notebooks.ROOT / "book" / "macros.json").read_text("utf-8"))
    assert all(f"\\def\\{name}" in text for name in macros)
    assert r"\def\norm#1{\lVert #1 \rVert}" in text


def test_the_bootstrap_does_nothing_where_the_package_is() -> None:
    exec(notebooks.bootstrap_text(), {})


def test_the_bootstrap_says_what_to_do_where_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notebooks, "project", lambda: {"repository": ""})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install -e"):
        exec(notebooks.bootstrap_text(), {})


def test_the_bootstrap_installs_from_the_repository(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = "https://github.com/owner/name"
    monkeypatch.setattr(notebooks, "project", lambda: {"repository": address})
    text = notebooks.bootstrap_text()
    assert f"git+{address}" in text
    assert "%pip install" in text
    # IPython's own reader accepts it, magic and all.
    from IPython.core.inputtransformer2 import TransformerManager

    compile(TransformerManager().transform_cell(text), "bootstrap", "exec")
