"""Every recipe of examples/ runs as it stands, pasted into an empty file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
RECIPES = sorted(path.name for path in EXAMPLES.glob("*.py"))


def python(folder, *arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run(folder, name, *arguments, launcher=()):
    """Run a copy of the recipe in an otherwise empty folder."""
    shutil.copy(EXAMPLES / name, folder)
    return python(folder, *launcher, name, *arguments)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_alone_tells_what_it_found_and_leaves_nothing(name, tmp_path):
    done = run(tmp_path, name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    assert done.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_watching_inference_draws_a_figure_where_it_is_told_to(tmp_path):
    done = run(tmp_path, "watch_inference.py", "figure.svg")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figure.svg").read_text("utf-8").rstrip().endswith("</svg>")


def test_two_processes_run_under_torchrun_too(tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run(tmp_path, "two_processes.py", launcher=torchrun)
    assert done.returncode == 0, done.stderr
    assert "in 2 processes" in done.stdout


def test_the_package_compares_rules_on_a_model_of_the_readers(tmp_path):
    shutil.copy(EXAMPLES / "own_model.py", tmp_path)
    model = ("--model", "own_model.py:factory")
    done = python(tmp_path, "-m", "pcnotes", "compare", *model)
    assert done.returncode == 0, done.stderr
    assert "FixedPrediction" in done.stdout
