"""Fetch the vendored browser files from their npm packages, at pinned versions.

Nothing of the site may come from another host. KaTeX's version must be the one that
sphinxcontrib-katex bundles: its markup and this style sheet belong together.
"""

import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tools.house import ROOT

TARGET = ROOT / "book" / "_static" / "vendor"
PACKAGES = {
    "katex@0.16.22": ["dist/katex.min.css", "dist/fonts/*.woff2"],
    "@popperjs/core@2.11.8": ["dist/umd/popper.min.js"],
    "tippy.js@6.3.7": ["dist/tippy-bundle.umd.min.js"],
    "@fontsource-variable/source-serif-4@5.3.1": ["files/*-latin-wght-*.woff2"],
}


def main() -> None:
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir(parents=True)
    rows = []
    for package, patterns in PACKAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True)
            archive = next(Path(folder).glob("*.tgz"))
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
            unpacked = Path(folder) / "package"
            about = json.loads((unpacked / "package.json").read_text("utf-8"))
            license_text = next(unpacked.glob("LICENSE*")).read_text("utf-8")
            short = about["name"].split("/")[-1].removesuffix(".js")
            (TARGET / f"{short}.LICENSE").write_text(license_text, "utf-8")
            for pattern in patterns:
                for source in sorted(unpacked.glob(pattern)):
                    copy(source)
        rows.append(f"| {about['name']} | {about['version']} | {about['license']} |")
    text = "\n".join(
        [
            "Files from npm packages, written by `make vendor`; do not edit.",
            "",
            "| package | version | license |",
            "| --- | --- | --- |",
            *rows,
            "",
        ]
    )
    (TARGET / "README.md").write_text(text, "utf-8")


def copy(source: Path) -> None:
    if source.suffix == ".woff2":
        fonts = TARGET / "fonts"
        fonts.mkdir(exist_ok=True)
        shutil.copyfile(source, fonts / source.name)
        return
    text = source.read_text("utf-8")
    # Fonts for browsers of 2015, and source maps, would be links to nothing.
    text = re.sub(r",url\([^)]*\.(?:woff|ttf)\) format\([^)]*\)", "", text)
    text = re.sub(r"\n?//# sourceMappingURL=\S*", "", text)
    (TARGET / source.name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
