"""`make book`: from the sources to the pages, doing only what changed.

What is read is what was tested: the pages are made from exactly the notebooks that
pytest executed, and the line under a theorem from the claims as just measured.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from tools.execute import ChapterError, execute
from tools.execute import run as execute_only
from tools.house import (
    CLAIMS,
    ROOT,
    RUN,
    SITE,
    SOURCE,
    alone,
    call,
    commit,
    digest,
    files,
    notebooks,
    package_key,
    say,
)

# Instances of each claim: enough to notice, not so many that readers wait.
TRIALS = "100"

COPIED = (
    *("_config.yml", "_toc.yml", "pyproject.toml"),
    *("book", "examples", "pcnotes", "bench/results", "studies/results"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--anew", action="store_true", help="use nothing kept")
    parser.add_argument("--only", metavar="NOTEBOOK", help="execute one chapter only")
    arguments = parser.parse_args()
    try:
        with alone():
            if arguments.only:
                copy_sources()
                execute_only([arguments.only])
            else:
                build(arguments.anew)
    except (ChapterError, BuildError) as error:
        say(f"\n{error}")
        return 1
    return 0


class BuildError(Exception):
    """A step of the build failed; the message says what to do."""


def build(anew: bool = False) -> None:
    start = time.monotonic()
    say("step 1 of 3: claims (python -m pcnotes verify)")
    claims(anew)
    say("step 2 of 3: chapters")
    copy_sources()
    execute(anew)
    say("step 3 of 3: pages")
    pages(anew)
    say(f"done in {time.monotonic() - start:.0f} s")
    say(f"open {(SITE / 'index.html').as_uri()}")


def claims(anew: bool) -> None:
    """Measure every claim, unless the package is what it was at the last time."""
    stamp = RUN / "claims.key"
    key = package_key()
    if not anew and CLAIMS.exists() and stamp.exists() and stamp.read_text() == key:
        say(f"  {len(json.loads(CLAIMS.read_text('utf-8')))} claims: unchanged")
        return
    RUN.mkdir(exist_ok=True)
    stamp.unlink(missing_ok=True)
    if call("-m", "pcnotes", "verify", "--trials", TRIALS, "--json", CLAIMS):
        raise BuildError("A claim failed: the line above that repeats it says which.")
    stamp.write_text(key)


def copy_sources() -> None:
    """Lay out what Sphinx and the notebooks read, so that neither writes into book/."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    waste = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in COPIED:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, SOURCE / name, ignore=waste)
        else:
            shutil.copy2(path, SOURCE / name)
    (SOURCE / "commit.txt").write_text(commit(), "utf-8")


def pages(anew: bool) -> None:
    """Let Jupyter Book make the site, strictly, always as a whole.

    Sphinx can also redo single pages, but numbers, previews and the search index
    then depend on what was built before; whole builds are the same every time.
    """
    stamp = RUN / "site.key"
    key = site_key()
    if not anew and SITE.exists() and stamp.exists() and stamp.read_text() == key:
        say("  unchanged")
        return
    stamp.unlink(missing_ok=True)
    make_site(SOURCE, ROOT, RUN / "site.log")
    stamp.write_text(key)


def site_key() -> str:
    executed = "".join((SOURCE / name).read_text("utf-8") for name in notebooks())
    inputs = files(
        "book/**/*", "pcnotes/**/*", "examples/*.py", "tools/*.py", "_*.yml", "*.toml"
    )
    claims_text = CLAIMS.read_text("utf-8")
    return digest(inputs, executed, claims_text, package_key(), commit())


def make_site(source: Path, target: Path, log: Path) -> None:
    """Build `source` into `target`/_build/html.

    Without garbage collection, which takes two fifths of the time: most of what a build
    makes (the trees of its pages) it needs to the end, a gigabyte in all.
    """
    shutil.rmtree(target / "_build", ignore_errors=True)
    status = call(
        "-c",
        "import gc; gc.disable(); from jupyter_book.cli.main import main; main()",
        *("build", source, "--path-output", target, "-W", "-n", "--keep-going"),
        quiet=log,
    )
    text = log.read_text("utf-8")
    if status:
        marks = ("WARNING", "ERROR", "CRITICAL", "Error", "error:")
        lines = [line for line in text.splitlines() if any(m in line for m in marks)]
        say("\n".join(f"  {line}" for line in lines or text.splitlines()[-30:]))
        raise BuildError(f"The pages could not be built; the whole log: {log}")
    shutil.rmtree(target / "_build" / ".doctrees", ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
