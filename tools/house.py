"""What the steps share: places, the clean environment, keys, and how they speak."""

import fcntl
import hashlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "_run"
SOURCE = RUN / "src"
CACHE = RUN / "cache"
CLAIMS = RUN / "claims.json"
SITE = ROOT / "_build" / "html"

# The epoch that a build without a commit is dated at: 1980, the first year that
# every archive format can hold.
NO_DATE = "315532800"


def project() -> dict[str, Any]:
    """The tables `project` and `tool.pcnotes` of pyproject.toml."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return {**data["project"], **data["tool"]["pcnotes"]}


def table_of_contents() -> list[str]:
    """The documents of _toc.yml in order, without suffix."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))

    def walk(node: Any) -> Iterable[str]:
        if isinstance(node, list):
            for item in node:
                yield from walk(item)
        elif isinstance(node, dict):
            if "file" in node:
                yield node["file"]
            for name in ("parts", "chapters", "sections"):
                yield from walk(node.get(name, []))

    return [toc["root"], *walk(toc)]


def notebooks() -> list[str]:
    """The notebooks among them, as paths from the root."""
    names = (f"{name}.ipynb" for name in table_of_contents())
    return [name for name in names if (ROOT / name).exists()]


def files(*patterns: str) -> list[Path]:
    """The files that match, sorted, without what Python or Jupyter leave behind."""
    found = {path for pattern in patterns for path in ROOT.glob(pattern)}
    waste = {"__pycache__", ".ipynb_checkpoints"}
    return sorted(p for p in found if p.is_file() and waste.isdisjoint(p.parts))


def digest(paths: Iterable[Path], *extra: str) -> str:
    """One key for the names and contents of files, and for some words more."""
    total = hashlib.sha256()
    for path in paths:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        name = path.relative_to(ROOT).as_posix()
        total.update(f"{name} {content}\n".encode())
    for word in extra:
        total.update(f"{word}\n".encode())
    return total.hexdigest()[:32]


def package_key() -> str:
    """Changes when anything changes that a number may depend on."""
    paths = files("pcnotes/**/*", "requirements.txt")
    return digest(paths, sys.version, project()["version"])


def git(*arguments: str) -> str:
    """What git says, or nothing where there is no commit (or no repository)."""
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def commit() -> str:
    """The commit that is being built, with a mark when files differ from it."""
    return git("describe", "--always", "--dirty", "--abbrev=10", "--exclude=*")


def environment() -> dict[str, str]:
    """An environment in which the same inputs give the same bytes.

    One thread in every process: two notebooks run at a time, and sums do not depend
    on how work was split. Jupyter and Matplotlib get folders of their own, since a
    reader's start-up files and styles must not reach the book.
    """
    values = {k: v for k, v in os.environ.items() if not k.startswith("JUPYTER")}
    for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV"):
        values.pop(name, None)
    values |= {
        "IPYTHONDIR": str(RUN / "ipython"),
        "JUPYTER_CONFIG_DIR": str(RUN / "jupyter"),
        "JUPYTER_DATA_DIR": str(RUN / "jupyter"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_PLATFORM_DIRS": "1",
        "MKL_NUM_THREADS": "1",
        "MPLCONFIGDIR": str(RUN / "matplotlib"),
        "OMP_NUM_THREADS": "1",
        "PCNOTES_CLAIMS": str(CLAIMS),
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": git("log", "-1", "--format=%ct") or NO_DATE,
        "TZ": "UTC",
    }
    # The programs of this environment come first (node, for one).
    bins = str(Path(sys.executable).parent)
    values["PATH"] = os.pathsep.join([bins, values.get("PATH", os.defpath)])
    return values


def call(*arguments: str | Path, quiet: Path | None = None) -> int:
    """Run Python with these arguments; with `quiet`, send what it says to a file."""
    command = [sys.executable, *map(str, arguments)]
    if quiet is None:
        return subprocess.run(
            command, cwd=ROOT, env=environment(), check=False
        ).returncode
    quiet.parent.mkdir(parents=True, exist_ok=True)
    with quiet.open("w", encoding="utf-8") as log:
        return subprocess.run(
            command, cwd=ROOT, env=environment(), stdout=log, stderr=log, check=False
        ).returncode


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other run of make works in this clone, then keep others waiting.

    They share the folders of the build. What a run itself starts may go on: it finds
    the mark in its environment.
    """
    mark = "PCNOTES_RUN"
    if os.environ.get(mark) == str(ROOT):
        yield
        return
    RUN.mkdir(exist_ok=True)
    with (RUN / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another make is at work in this clone; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        os.environ[mark] = str(ROOT)
        try:
            yield
        finally:
            del os.environ[mark]


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)
