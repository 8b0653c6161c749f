"""`python -m pcnotes compare`."""

import json
import textwrap

import pytest
import torch

from pcnotes.__main__ import main
from pcnotes.demonstration import load, look, subjects

MODEL = """
    import torch

    def factory():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        net[0].weight.grad = torch.ones(4, 3)
        return net, lambda: net(torch.ones(5, 3)).square().sum()

    def coarse():
        net, closure = factory()
        return net, closure, "1"

    def raises():
        raise RuntimeError("no such data")

    def half():
        return torch.nn.Linear(1, 1)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(MODEL), encoding="utf-8")
    return path


def test_the_demonstration_shows_which_rules_are_backpropagation(capsys, tmp_path):
    written = tmp_path / "found.json"
    assert main(["compare", "--json", str(written)]) == 0
    out = capsys.readouterr().out
    for name in ("perceptron", "convolutional", "recurrent"):
        assert f"{name}: " in out
    for found in json.loads(written.read_text(encoding="utf-8")):
        error = {r["rule"]: r["relative_error"] for r in found["rules"]}
        for rule in ("Exact()", "ZIL()", "FixedPrediction()"):
            assert error.pop(rule) < 1e-12
        assert all(e > 1e-3 for e in error.values()), error
        assert len(found["times"]) == len(found["rules"])
        assert all(t > 0 for t in found["times"])


def test_a_model_of_ones_own(file, capsys):
    assert main(["compare", "--model", f"{file}:factory"]) == 0
    out = capsys.readouterr().out
    assert "mine.py:factory: 26 parameters, 2 vertices, 1 edges deep, graded" in out
    assert main(["compare", "--model", f"{file}:coarse"]) == 0
    assert "1 vertices, 0 edges deep" in capsys.readouterr().out


def test_looking_leaves_the_model_as_it_was(file):
    subject = load(f"{file}:factory")
    state = torch.get_rng_state()
    look(subject, lambda n: None)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(subject.model[0].weight.grad, torch.ones(4, 3))
    assert subject.model[1].weight.grad is None
    batch_norm = subjects()[1]
    before = batch_norm.model[2].running_mean.clone()
    look(batch_norm, lambda n: None)
    assert torch.equal(batch_norm.model[2].running_mean, before)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("mine.py", "takes FILE.py:factory"),
        ("absent.py:factory", "there is no file"),
        ("{file}:absent", "has no function 'absent'; it has factory, coarse"),
        ("{file}:raises", "raises() raised RuntimeError('no such data')"),
        ("{file}:half", "half() must return (model, closure)"),
    ],
)
def test_what_is_wrong_with_a_model_is_said(place, words, file, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--model", place.format(file=file)])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_a_file_that_does_not_load_is_named(tmp_path, capsys):
    broken = tmp_path / "broken.py"
    broken.write_text("import absent_module\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["compare", "--model", f"{broken}:factory"])
    assert "broken.py raised ModuleNotFoundError" in capsys.readouterr().err


def test_a_closure_that_fails_is_reported_without_a_traceback(tmp_path, capsys):
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import torch\n"
        "def factory():\n"
        "    net = torch.nn.Linear(2, 2)\n"
        "    return net, lambda: net(torch.ones(1, 2))\n",
        encoding="utf-8",
    )
    assert main(["compare", "--model", f"{bad}:factory"]) == 1
    captured = capsys.readouterr()
    assert "closure must return a scalar loss" in captured.err
    assert "Traceback" not in captured.err
