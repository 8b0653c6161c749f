"""The README's Python runs as it stands, pasted into an empty file."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_code_of_the_readme_runs(capsys):
    text = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 2
    exec("".join(blocks), {})
    printed = capsys.readouterr().out
    assert "Exact()" in printed and "Strict()" in printed
    assert printed.count("'0'") == 9  # nine states of inference


def test_files_that_the_readme_names_exist():
    text = (ROOT / "README.md").read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (ROOT / target).exists(), target
