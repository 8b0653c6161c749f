"""A pytest plugin: one line a notebook, and failures that say how to repeat them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tools.house import SOURCE


class Progress:
    """Counts notebooks as they finish, in the process that collects the reports."""

    def __init__(self) -> None:
        self.total = 0
        self.done = 0

    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self.total = len(ids)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        self.done += 1
        name = chapter(report.nodeid)
        left = self.total - self.done
        seconds = f"{report.duration:.0f} s, {left} left"
        if report.passed:
            print(f"  {self.done} of {self.total}: {name}, {seconds}", flush=True)
            return
        print(f"  {self.done} of {self.total}: {name} FAILED, {seconds}")
        print(f"  {failing_cell(SOURCE / name)}\n{report.longreprtext}")
        print(f"\n  to repeat it: {repeat(name)}\n", flush=True)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> Any:
        """No dots and letters: the lines above say more."""
        return ("passed", "", "") if report.passed and report.when == "call" else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, config: pytest.Config) -> None:
        """nbmake would end with an advertisement; it asks this option whether to."""
        config.option.nbmake = False


def chapter(nodeid: str) -> str:
    """The notebook's path from the root of the repository."""
    path = Path(nodeid.split("::")[0])
    if path.is_absolute():
        path = path.relative_to(SOURCE)
    return path.as_posix()


def failing_cell(path: Path) -> str:
    """Which cell stopped, counted as an editor shows them."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    for number, cell in enumerate(cells, start=1):
        outputs = cell.get("outputs", [])
        if any(output["output_type"] == "error" for output in outputs):
            return f"cell {number} of {len(cells)}:"
    return f"no cell of {len(cells)} reports an error: a time-out, or the kernel died"


def repeat(name: str) -> str:
    """The command that executes one chapter and shows where it stops."""
    return f".venv/bin/python -m tools.build --only {name}"


def pytest_configure(config: pytest.Config) -> None:
    # Workers report to the process that started them; only that one speaks.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Progress(), "pcnotes-progress")
