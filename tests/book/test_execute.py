"""The step that executes chapters: nothing may pass over in silence."""

import json
from pathlib import Path

import pytest

from tools import execute, progress
from tools.house import notebooks

REPORT = """<testsuites><testsuite>
<testcase classname="book.a.one.ipynb" name="one.ipynb" />
<testcase classname="book.b.one.ipynb" name="one.ipynb"><failure /></testcase>
<testcase classname="book.two.ipynb" name="two.ipynb"><skipped /></testcase>
<testcase classname="book.three.ipynb" name="three.ipynb">
<failure message="x">Kernel died before replying to kernel_info</failure></testcase>
</testsuite></testsuites>"""


def test_failed_and_skipped_notebooks_have_not_passed(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT, "utf-8")
    passed, unstarted = execute.outcomes(report)
    assert passed == {execute.dotted("book/a/one.ipynb")}
    assert unstarted == {execute.dotted("book/three.ipynb")}


def test_without_a_report_nothing_has_passed(tmp_path: Path) -> None:
    assert execute.outcomes(tmp_path / "report.xml") == (set(), set())


def test_a_notebook_outside_of_the_contents_is_refused() -> None:
    with pytest.raises(execute.ChapterError, match=r"not in _toc\.yml"):
        execute.check_contents(notebooks()[1:])


def test_a_key_follows_the_notebook_and_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = notebooks()
    before = execute.keys(names)
    assert len(set(before.values())) == len(names)
    monkeypatch.setattr(execute, "package_key", lambda: "another package")
    after = execute.keys(names)
    assert all(before[name] != after[name] for name in names)


def test_new_results_make_every_chapter_new() -> None:
    read = [path.relative_to(execute.ROOT).as_posix() for path in execute.data_files()]
    assert {"bench/results/cpu.json", "studies/results/plateau.json"} <= set(read)
    assert not [name for name in read if "-quick" in name or "-part" in name]


def test_a_failure_names_the_cell(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": "Text."},
        {"cell_type": "code", "outputs": []},
        {"cell_type": "code", "outputs": [{"output_type": "error"}]},
    ]
    path = tmp_path / "chapter.ipynb"
    path.write_text(json.dumps({"cells": cells}), "utf-8")
    assert progress.failing_cell(path) == "cell 3 of 3:"
    assert "tools.build --only book/x.ipynb" in progress.repeat("book/x.ipynb")
