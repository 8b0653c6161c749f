"""Execute chapters as tests, and keep the executed copies.

A copy is kept under a key over everything its outputs may depend on, so that a
second run executes only what changed. pytest with nbmake does the work: two
notebooks at a time, each in the folder it was copied to.
"""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from tools.house import (
    CACHE,
    ROOT,
    RUN,
    SOURCE,
    call,
    digest,
    files,
    notebooks,
    package_key,
    say,
)

CELL_SECONDS = 120
WORKERS = 2


class ChapterError(Exception):
    """A chapter failed, was skipped, or is not in the table of contents."""


def keys(names: list[str]) -> dict[str, str]:
    """The key of each notebook: its bytes, the package, data beside the chapters."""
    shared = digest(data_files(), package_key())
    return {name: digest([ROOT / name], shared) for name in names}


def data_files() -> list[Path]:
    """What chapters may read: below book/ all that is neither text nor decoration.

    And the full results of bench and of studies, which chapters show.
    """
    text = {".ipynb", ".md", ".bib", ".css", ".js", ".svg", ".html"}
    aside = {"_static", "_ext", "_templates"}
    return [
        path
        for path in files("book/**/*", "bench/results/*.json", "studies/results/*.json")
        if path.suffix not in text
        and aside.isdisjoint(path.parts)
        and not path.stem.endswith(("-quick", "-part"))
    ]


def execute(anew: bool = False) -> None:
    """Put the executed copy of every chapter into the source folder of the build."""
    names = notebooks()
    check_contents(names)
    wanted = keys(names)
    kept = {name: CACHE / "notebooks" / f"{key}.ipynb" for name, key in wanted.items()}
    todo = names if anew else [name for name in names if not kept[name].exists()]
    for name in set(names) - set(todo):
        say(f"  {name}: unchanged, kept from an earlier run")
    if todo:
        run(todo)
    for name in names:
        target = SOURCE / name
        if name in todo:
            plain(target)
            check_executed(name)
            if kept[name].exists() and kept[name].read_bytes() != target.read_bytes():
                keep_for_comparison(kept[name], target)
                raise ChapterError(
                    f"{name}: two executions of the same files differ\n"
                    f"  compare {RUN / 'before.ipynb'}\n"
                    f"  with    {RUN / 'after.ipynb'}"
                )
            kept[name].parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, kept[name])
        else:
            shutil.copyfile(kept[name], target)
            plain(target)
    forget(set(kept.values()))


def check_contents(names: list[str]) -> None:
    """Every notebook is in the table of contents, and there is at least one."""
    present = {path.relative_to(ROOT).as_posix() for path in files("book/**/*.ipynb")}
    if missing := sorted(present - set(names)):
        raise ChapterError(f"not in _toc.yml: {', '.join(missing)}")
    if not names:
        raise ChapterError("the table of contents lists no notebook")


def run(names: list[str]) -> None:
    """Execute these notebooks in place, in the source folder."""
    paths = [SOURCE / name for name in names]
    if hidden := [path for path in paths if "_build" in path.parts]:
        # nbmake passes over such paths without a word.
        raise ChapterError(
            f"no folder above the clone may be named _build: {hidden[0]}"
        )
    # Matplotlib would announce in a chapter that it builds its font cache.
    call("-c", "import matplotlib.font_manager", quiet=RUN / "fonts.log")
    passed, unstarted = attempt(paths)
    if unstarted:
        # A kernel asks the system for free ports and opens them a moment later; if
        # another program was faster, it dies. That says nothing about the chapter.
        again = [name for name in names if dotted(name) in unstarted]
        say(f"  no kernel for {', '.join(again)}: once more")
        for name in again:
            shutil.copyfile(ROOT / name, SOURCE / name)
        passed |= attempt([SOURCE / name for name in again])[0]
    failed = [name for name in names if dotted(name) not in passed]
    if failed or len(passed) != len(names):
        raise ChapterError(
            f"{len(passed)} of {len(names)} chapters ran through; "
            f"not: {', '.join(failed)}"
        )


def attempt(paths: list[Path]) -> tuple[set[str], set[str]]:
    """Execute; return what passed, and what had no kernel to run in."""
    report = RUN / "chapters.xml"
    report.unlink(missing_ok=True)
    call(
        *("-m", "pytest", "--nbmake", "--overwrite"),
        f"--nbmake-timeout={CELL_SECONDS}",
        *("-n", str(min(WORKERS, len(paths)))),
        # Warnings of a kernel's sockets must not fail a chapter at random.
        *("-o", "filterwarnings=default", "-o", "addopts=", "-p", "no:cacheprovider"),
        *("-p", "tools.progress", "--no-header", "--no-summary", "-q"),
        f"--junitxml={report}",
        f"--rootdir={SOURCE}",
        *paths,
    )
    return outcomes(report)


def outcomes(report: Path) -> tuple[set[str], set[str]]:
    """What pytest reports as passed, that is with nothing to tell; what never began."""
    if not report.exists():
        return set(), set()
    passed, unstarted = set(), set()
    for case in ElementTree.parse(report).iter("testcase"):
        told = "".join(case.itertext()) + str([part.attrib for part in case])
        if not len(case):
            passed.add(case.get("classname", ""))
        elif "Kernel died before replying to kernel_info" in told:
            unstarted.add(case.get("classname", ""))
    return passed, unstarted


def dotted(name: str) -> str:
    """A path as the report writes it."""
    return name.replace("/", ".")


def plain(path: Path) -> None:
    """Drop from an executed copy what differs from run to run.

    That is times of execution, and where a kernel cut what a cell printed.
    """
    notebook = json.loads(path.read_text("utf-8"))
    notebook["metadata"].pop("execution", None)
    for cell in notebook["cells"]:
        cell["metadata"].pop("execution", None)
        if "outputs" in cell:
            cell["outputs"] = joined(cell["outputs"])
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", "utf-8")


def joined(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbouring pieces of one stream as one piece.

    A busy kernel sends a line in two pieces, and myst-nb would end a line after each.
    """
    whole: list[dict[str, Any]] = []
    for output in outputs:
        last = whole[-1] if whole else {}
        if output["output_type"] == "stream" and output["name"] == last.get("name"):
            text = "".join([*last["text"], *output["text"]])
            last["text"] = text.splitlines(keepends=True)
        else:
            whole.append(output)
    return whole


def check_executed(name: str) -> None:
    """No code cell was passed over."""
    cells = json.loads((SOURCE / name).read_text("utf-8"))["cells"]
    for number, cell in enumerate(cells, start=1):
        if cell["cell_type"] == "code" and cell["execution_count"] is None:
            raise ChapterError(f"{name}: cell {number} was not executed")


def keep_for_comparison(before: Path, after: Path) -> None:
    shutil.copyfile(before, RUN / "before.ipynb")
    shutil.copyfile(after, RUN / "after.ipynb")
    # What was kept is no better than what came now: the next run starts afresh.
    before.unlink()


def forget(used: set[Path]) -> None:
    """Remove copies that no chapter uses any more."""
    for path in (CACHE / "notebooks").glob("*.ipynb"):
        if path not in used:
            path.unlink()
