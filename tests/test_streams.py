"""What a chapter prints reaches the page as it was printed."""

import json
from pathlib import Path
from typing import Any

from tools import execute


def stream(name: str, *text: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": list(text)}


def test_a_line_that_came_in_two_pieces_is_one_line(tmp_path: Path) -> None:
    figure = {"output_type": "display_data", "data": {}}
    outputs = [
        stream("stdout", "layer1"),
        stream("stdout", " is off\n", "layer2"),
        stream("stdout", " is right\n"),
        stream("stderr", "a warning\n"),
        figure,
        stream("stdout", "the end\n"),
    ]
    path = tmp_path / "chapter.ipynb"
    cells = [{"metadata": {}, "outputs": outputs}, {"metadata": {}, "source": "Text."}]
    path.write_text(json.dumps({"metadata": {}, "cells": cells}), "utf-8")
    execute.plain(path)
    code, text = json.loads(path.read_text("utf-8"))["cells"]
    assert code["outputs"] == [
        stream("stdout", "layer1 is off\n", "layer2 is right\n"),
        stream("stderr", "a warning\n"),
        figure,
        stream("stdout", "the end\n"),
    ]
    assert "outputs" not in text
