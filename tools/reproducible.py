"""`make reproducible`: everything twice from nothing, compared byte by byte."""

import shutil
import sys
from pathlib import Path

from tools.build import build
from tools.house import CACHE, ROOT, RUN, SITE, alone, say


def differences(one: Path, other: Path) -> list[str]:
    """The files that are not the same in two folders."""
    names = {
        path.relative_to(folder).as_posix()
        for folder in (one, other)
        for path in folder.rglob("*")
        if path.is_file()
    }

    def content(path: Path) -> bytes | None:
        return path.read_bytes() if path.exists() else None

    return sorted(n for n in names if content(one / n) != content(other / n))


def main() -> int:
    first = RUN / "first"
    shutil.rmtree(first, ignore_errors=True)
    with alone():
        for _ in range(2):
            shutil.rmtree(CACHE, ignore_errors=True)
            build(anew=True)
            if not first.exists():
                shutil.copytree(SITE, first)
    different = differences(first, SITE)
    shutil.rmtree(first)
    for name in different:
        say(f"differs: {(SITE / name).relative_to(ROOT)}")
    say("the two builds differ" if different else "the two builds are the same")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
