"""`make test`: every check of the repository, in the order in which failures help.

The last step is pytest's, so the run ends with pytest's own summary line. A failing
step ends the run and says how to repeat it alone.
"""

import sys
import time

from tools.house import alone, call, say

# A worker without work takes some of the other's: chapters take long to look at.
SHARED = ("-n", "2", "--dist", "worksteal")

# What each step is called, and the arguments with which Python runs it.
STEPS: list[tuple[str, list[str]]] = [
    ("lint", ["-m", "ruff", "check", "."]),
    ("format", ["-m", "ruff", "format", "--check", "."]),
    ("notebooks in their committed form", ["-m", "tools.notebooks", "--check"]),
    ("types", ["-m", "mypy"]),
    ("package", ["-m", "pytest", "-q", "-n", "2", "tests", "--ignore=tests/book"]),
    ("claims, chapters, strict build", ["-m", "tools.build", "--anew"]),
    ("structure, links, browser", ["-m", "pytest", "-q", *SHARED, "tests/book"]),
]


def main() -> int:
    with alone():
        return run()


def run() -> int:
    start = time.monotonic()
    for number, (name, arguments) in enumerate(STEPS, start=1):
        say(f"\n== {number} of {len(STEPS)}: {name}")
        begun = time.monotonic()
        if number == len(STEPS):
            say(f"   (all but this last step took {begun - start:.0f} s)")
        status = call(*arguments)
        if status:
            say(f"\nfailed: {name}; to repeat: .venv/bin/python {' '.join(arguments)}")
            return status
        if number < len(STEPS):
            say(f"   {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
