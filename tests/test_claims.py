"""Claims on instances that Hypothesis draws, their controls, and `verify`.

A claim must hold on every instance, a control must fail on every instance, and a broken
rule must be noticed: otherwise the claim is a decoration.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcnotes import FixedPrediction, Graph
from pcnotes.__main__ import main
from pcnotes.claims import CLAIMS, MARGIN, Claim, Measurement
from pcnotes.claims.draw import HypothesisDraw, SeededDraw
from pcnotes.claims.registry import Measure
from pcnotes.claims.verification import verify

ROOT = Path(__file__).resolve().parents[1]
CONTROLS = [(label, c) for label, claim in CLAIMS.items() for c in claim.controls]

thorough = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# ---- what the claims say -------------------------------------------------------------


@pytest.mark.parametrize("label", CLAIMS)
@thorough
@given(data=st.data())
def test_claim_holds(label: str, data: st.DataObject) -> None:
    measured = CLAIMS[label](HypothesisDraw(data.draw))
    assert measured.ok, measured


@pytest.mark.parametrize(
    ("label", "control"), CONTROLS, ids=[f"{a}:{c.__name__}" for a, c in CONTROLS]
)
@thorough
@given(data=st.data())
def test_control_fails(label: str, control: Measure, data: st.DataObject) -> None:
    measured = control(HypothesisDraw(data.draw))
    assert measured.ratio > MARGIN, measured


@pytest.mark.parametrize("label", CLAIMS)
def test_claim_is_complete(label: str) -> None:
    claim = CLAIMS[label]
    assert claim.label == label
    assert claim.controls
    line = (
        (ROOT / claim.source).read_text(encoding="utf-8").splitlines()[claim.line - 1]
    )
    assert line.startswith("@claim(")
    for words in (claim.summary, claim.instances, claim.quantity):
        assert words
    assert claim.summary.endswith(".")


@pytest.mark.parametrize(
    ("error", "bound", "ok"),
    [
        (0.0, 1.0, True),
        (1.0, 1.0, True),
        (2.0, 1.0, False),
        (math.inf, 1.0, False),
        (math.nan, 1.0, False),
        (0.0, 0.0, False),
        (0.0, math.nan, False),
    ],
)
def test_measurement(error: float, bound: float, ok: bool) -> None:
    assert Measurement(error, bound).ok is ok


def test_an_instance_depends_on_its_seed_alone() -> None:
    claim = CLAIMS["fp-closed-form"]
    assert claim(SeededDraw(5)) == claim(SeededDraw(5))
    assert claim(SeededDraw(5)) != claim(SeededDraw(6))


# ---- broken rules --------------------------------------------------------------------

Errors = dict[str, torch.Tensor]


def wrong_sign(rule: FixedPrediction, graph: Graph) -> Iterator[Errors]:
    graph.evaluate()
    errors = graph.zeros()
    yield errors
    for eta in rule.schedule(graph.depth):
        pulled = graph.pull(errors)
        errors = {i: (1 - eta) * errors[i] - eta * pulled[i] for i in errors}
        yield errors


def loss_gradient_forgotten(rule: FixedPrediction, graph: Graph) -> Iterator[Errors]:
    graph.evaluate()
    errors = graph.pull(graph.zeros())
    yield graph.zeros()
    for eta in rule.schedule(graph.depth):
        yield errors
        pulled = graph.last.pull(errors, loss=0.0)
        errors = {i: (1 - eta) * errors[i] + eta * pulled[i] for i in errors}


def one_state_late(rule: FixedPrediction, graph: Graph) -> Iterator[Errors]:
    """What Torch2PC does: the errors before the last update."""
    states = list(original_run(rule, graph))
    yield from [states[0], *states[:-1]]


def one_step_short(rule: FixedPrediction, graph: Graph) -> Iterator[Errors]:
    yield from list(original_run(rule, graph))[:-1]


def fresh_children(rule: FixedPrediction, graph: Graph) -> Iterator[Errors]:
    """In place, from the loss to the input: another algorithm."""
    graph.evaluate()
    errors = graph.zeros()
    yield errors
    for eta in rule.schedule(graph.depth):
        errors = dict(errors)
        for i in reversed(graph.hidden):
            errors[i] = (1 - eta) * errors[i] + eta * graph.pull(errors)[i]
        yield errors


def steps_reversed(rule: FixedPrediction, graph: Graph) -> Iterator[Errors]:
    yield from reversed(list(original_run(rule, graph)))


def teach_with_a_sign(rule: FixedPrediction, graph: Graph) -> None:
    graph.evaluate()
    graph.sweep(lambda level: -1.0)


def teach_from_the_input(rule: FixedPrediction, graph: Graph) -> None:
    """One unit pass in the wrong order: children after their parents."""
    graph.evaluate()
    errors = graph.zeros()
    for i in graph.hidden:
        errors[i] = graph.pull(errors)[i]
    graph.learn(errors, loss=True)


def teach_one_step_short(rule: FixedPrediction, graph: Graph) -> None:
    schedule = rule.schedule(graph.depth)
    if len(schedule) == 1:
        graph.evaluate()
        graph.learn(graph.zeros(), loss=True)
    else:
        original_teach(FixedPrediction(schedule[:-1]), graph)


def schedule_one_short(rule: FixedPrediction, depth: int) -> tuple[float, ...]:
    return original_schedule(rule, depth)[:-1]


def schedule_one_long(rule: FixedPrediction, depth: int) -> tuple[float, ...]:
    steps = original_schedule(rule, depth)
    return (*steps, steps[-1])


original_run = FixedPrediction.run
original_teach = FixedPrediction.teach
original_schedule = FixedPrediction.schedule

MUTATIONS: list[tuple[str, Callable[..., Any]]] = [
    ("run", wrong_sign),
    ("run", loss_gradient_forgotten),
    ("run", one_state_late),
    ("run", one_step_short),
    ("run", fresh_children),
    ("run", steps_reversed),
    ("teach", teach_with_a_sign),
    ("teach", teach_from_the_input),
    ("teach", teach_one_step_short),
    ("schedule", schedule_one_short),
    ("schedule", schedule_one_long),
]


@pytest.mark.parametrize(
    ("method", "mutant"), MUTATIONS, ids=[m.__name__ for _, m in MUTATIONS]
)
@pytest.mark.parametrize(
    "label", ["fp-varying-steps", "fp-closed-form", "fp-finite-termination"]
)
def test_a_broken_rule_is_noticed(
    label: str,
    method: str,
    mutant: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(FixedPrediction, method, mutant)
    assert main(["verify", label, "--trials", "10"]) == 1
    assert "FAILS" in capsys.readouterr().out


# ---- the command ---------------------------------------------------------------------


def test_verify_writes_what_the_book_reads(tmp_path: Path) -> None:
    file = tmp_path / "claims.json"
    assert main(["verify", "--trials", "3", "--json", str(file)]) == 0
    objects = json.loads(file.read_text(encoding="utf-8"))
    assert [o["label"] for o in objects] == list(CLAIMS)
    for found in objects:
        assert found["ok"] is True
        assert found["trials"] == 3
        assert found["seed"] == 0
        assert found["worst"] <= found["bound"]
        assert found["control"] > MARGIN
        assert (ROOT / found["source"]).is_file()
        assert "failing_seed" not in found
        keys = {"instances", "quantity", "line", "summary"}
        assert keys <= found.keys()


def test_verify_writes_the_same_bytes_again(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    some = list(CLAIMS)[::7]
    for file in (first, second):
        assert main(["verify", *some, "--trials", "3", "--json", str(file)]) == 0
    assert first.read_bytes() == second.read_bytes()


def test_verify_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "fp-closed-form", "fp-stability", "--trials", "2"]) == 0
    captured = capsys.readouterr()
    assert re.search(r"^fp-closed-form +2 +\S+ +\S+ +ok +", captured.out, re.MULTILINE)
    assert "all 2 claims hold" in captured.out
    assert "4/4" in captured.err  # the progress bar


def test_a_failure_names_the_command_that_repeats_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(FixedPrediction, "run", wrong_sign)
    file = tmp_path / "claims.json"
    call = ["verify", "fp-closed-form", "--trials", "5", "--seed", "40"]
    assert main([*call, "--json", str(file)]) == 1
    printed = capsys.readouterr().out
    [found] = json.loads(file.read_text(encoding="utf-8"))
    assert found["ok"] is False
    assert 40 <= found["failing_seed"] < 45
    [command] = re.findall(r"repeat with: python -m pcnotes (.*)", printed)
    assert command == (
        f"verify fp-closed-form --trials 1 --seed {found['failing_seed']}"
    )
    reason = re.findall(r"error .* exceeds the bound .*", printed)
    assert main(shlex.split(command)) == 1
    assert re.findall(r"error .* exceeds the bound .*", capsys.readouterr().out) == (
        reason
    )


def test_a_rule_that_raises_is_a_failure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(rule: FixedPrediction, graph: Graph) -> Iterator[Errors]:
        raise ArithmeticError("out of order")

    monkeypatch.setattr(FixedPrediction, "run", broken)
    file = tmp_path / "claims.json"
    call = ["verify", "fp-closed-form", "--trials", "1", "--json", str(file)]
    assert main(call) == 1
    captured = capsys.readouterr()
    assert "ArithmeticError: out of order" in captured.out
    assert "Traceback" in captured.err
    [found] = json.loads(file.read_text(encoding="utf-8"))
    assert found["worst"] is None


def test_a_control_that_passes_is_a_failure() -> None:
    def fp_dummy(draw: object) -> Measurement:
        """Nothing is wrong here."""
        return Measurement(0.5, 1.0)

    claim = Claim(fp_dummy, "instances", "error", [fp_dummy])
    verdict = verify(claim, trials=3, seed=7)
    assert not verdict.ok
    assert [f.seed for f in verdict.failures] == [7]
    assert "control fp_dummy" in verdict.failures[0].reason
    assert verdict.control == 0.5


def test_verify_leaves_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    verify(CLAIMS["fp-asynchronous"], trials=1, seed=0)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify", "fp-closd-form"], "did you mean fp-closed-form"),
        (["verify", "xyzzy"], "known labels: adjoint-recursion"),
        (["verify", "--trials", "0"], "must be at least 1"),
        (["verify", "--trials", "many"], "'many' is not a whole number"),
        (["verify", "--seed", "-1"], "'-1' is not a whole number"),
        (["verify", "--json", "no/such/folder/a.json"], "there is no folder"),
        (["prove"], "invalid choice"),
        ([], "required"),
    ],
)
def test_wrong_calls(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    for word in ("pcnotes", torch.__version__, "threads", "scikit-learn"):
        assert word in printed


def test_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pcnotes", "verify", "fp-asynchronous"]
    done = subprocess.run(
        [*command, "--trials", "2"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "all 1 claims hold" in done.stdout
