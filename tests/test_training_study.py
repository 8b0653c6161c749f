"""The studies of training: tasks, candidates, counts, and what is stored of them."""

import doctest
import importlib
import json
import math
import unicodedata
from itertools import pairwise

import pytest
import torch

import pcnotes as pc
from studies import results, rules, snapshot, tasks, training
from studies.rules import Settings, made, spent
from studies.sources import Sources
from studies.training import Cell

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("module", ["rules", "snapshot", "tasks", "training"])
def test_examples_in_docstrings_are_right(module):
    found = doctest.testmod(importlib.import_module(f"studies.{module}"))
    assert found.failed == 0 and found.attempted


# The snapshot


def test_the_snapshot_is_plain_text_of_this_book():
    text = snapshot.FILE.read_text(encoding="utf-8")
    assert 200_000 < len(text) < 900_000
    odd = {c for c in text if unicodedata.category(c) in ("Cc", "Co", "Cn")}
    assert odd <= {"\n", "\t"}
    assert text.startswith("# Predictive coding and backpropagation\n")
    assert "binomial" in text and "import torch\n" not in text[:20_000]


def test_the_command_writes_the_words_of_every_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(snapshot, "FILE", tmp_path / "data" / "book.txt")
    assert snapshot.main() == 0
    text = snapshot.FILE.read_text(encoding="utf-8")
    for page in snapshot.pages():
        assert snapshot.text(page).strip()[:200] in text
    assert f"{len(snapshot.pages())} pages" in capsys.readouterr().out


def test_of_a_notebook_only_what_its_author_wrote_in_words_is_taken(tmp_path):
    def cell(kind, source, *tags):
        return {"cell_type": kind, "source": [source], "metadata": {"tags": [*tags]}}

    cells = [
        cell("markdown", "macros", "generated", "remove-cell"),
        cell("markdown", "# Words"),
        cell("code", "import torch"),
        cell("markdown", "More."),
    ]
    page = tmp_path / "page.ipynb"
    page.write_text(json.dumps({"cells": cells}))
    assert snapshot.text(page) == "# Words\n\nMore."


def test_folding_leaves_the_alphabet_alone():
    folded = snapshot.folded("Aß-Z, 9\n\tx.")
    assert folded == "a z, x." and set(folded) <= set(snapshot.ALPHABET)


# The tasks


@pytest.mark.parametrize("name", ["digits", "diabetes"])
def test_no_sample_is_in_two_parts(name):
    task = tasks.task(name)
    parts = [part[0] for part in (task.train, task.validation, task.test)]
    # Scaling by one number keeps samples apart; some digits may be twins.
    sets = [{tuple(row.tolist()) for row in x} for x in parts]
    for k, one in enumerate(sets):
        for other in sets[k + 1 :]:
            assert not one & other


def test_windows_of_characters_are_from_three_stretches_that_do_not_touch():
    text = snapshot.folded(snapshot.FILE.read_text(encoding="utf-8"))
    task, size = tasks.task("characters"), tasks.CONTEXT + 1
    ends = [0, len(text) * 7 // 10, len(text) * 85 // 100, len(text)]
    for k, (x, y) in enumerate((task.train, task.validation, task.test)):
        own = text[ends[k] - 9 * bool(k) : ends[k + 1] + 9]
        for window, after in zip(x[:200].tolist(), y[:200].tolist(), strict=True):
            written = "".join(snapshot.ALPHABET[c] for c in [*window, after])
            assert len(written) == size and written in own


@pytest.mark.parametrize("name", training.TASKS)
def test_a_network_is_its_seed_and_batches_are_whole(name):
    task = tasks.task(name)
    state = torch.get_rng_state()
    nets = [task.network(seed) for seed in (3, 3, 4)]
    assert torch.equal(state, torch.get_rng_state())
    one, same, other = ([*net.parameters()] for net in nets)
    assert all(map(torch.equal, one, same)) and not torch.equal(one[0], other[0])
    batches = tasks.Batches(task.train, task.batch, 5)
    first, second = list(batches), list(batches)
    assert {len(y) for _, y in first} == {task.batch}
    assert len(first) == len(batches) == len(task.train[1]) // task.batch
    assert not torch.equal(first[0][0], second[0][0]), "a new order each time"
    again, strange = (
        next(iter(tasks.Batches(task.train, task.batch, seed))) for seed in (5, 6)
    )
    assert torch.equal(again[0], first[0][0])
    assert not torch.equal(strange[0], first[0][0]), "the order is its seed's"


# The rules and their price


def test_every_rule_that_is_tuned_has_ten_candidates():
    for rule in (rules.BASELINE, *rules.OTHERS):
        found = rules.candidates(rule, 4)
        assert len(found) == len(set(found)) == 10
    assert {Cell("tune", "digits", "bp", 1).own} == {Settings(1)}


@pytest.mark.parametrize("name", training.TASKS)
def test_every_rule_with_steps_may_take_as_many_steps_as_the_graph_is_deep(name):
    to = tasks.task(name)
    model, (x, y) = to.network(0), to.train
    depth = pc.cut(model, lambda: to.loss(model(x[:2]), y[:2])).depth
    for rule in rules.OTHERS:
        tried = [own.steps for own in rules.candidates(rule, training.enough(name))]
        assert max(tried) == max(4, depth)


@pytest.mark.parametrize("name", training.TASKS)
@pytest.mark.parametrize("rule", rules.EXACT)
def test_exact_rules_have_the_gradient_of_bp_by_their_own_steps(rule, name):
    task = tasks.task(name)
    net, batch = task.network(1), (task.train[0][:20], task.train[1][:20])
    bp = training.gradient(net, task, batch, pc.Backprop())
    own = training.gradient(net, task, batch, made(rule, Settings(1), 20))
    assert (own - bp).norm() <= 1e-13 * bp.norm()


def test_the_price_of_a_batch_is_that_of_the_theorem():
    task = tasks.task("digits")  # four layers
    net, (x, y) = task.network(0), task.train

    def price(rule, *own):
        found = spent(made(rule, Settings(0.1, *own), 10), net, closure)
        return found.evaluations, found.vjps, found.lessons

    def closure():
        return task.loss(net(x[:10]), y[:10])

    steps = 5
    assert price("exact") == (1, 3, 4)
    # These have a shortcut, of the price of `exact`.
    for rule, own in (("fp", ()), ("z-il", ()), ("fp-half", (0.5, 4))):
        assert price(rule, *own)[1] > 3
    for rule in ("strict", "error"):
        assert price(rule, 0.1, steps, 1.0) == (steps + 1, 3 * steps, 4)
    assert price("incremental", 0.1, steps, 1.0) == (
        *(steps + 1, 3 * steps),
        4 * (steps + 1),
    )
    assert all(p.grad is None for p in net.parameters())


def test_the_weight_of_a_sample_does_not_depend_on_the_batch():
    rule = made("strict", Settings(0.1, 0.2, 4, 0.5), 40)
    assert rule == pc.Strict(0.2, 4, scale=20.0)


def test_a_rule_without_its_settings_is_refused():
    with pytest.raises(ValueError, match="strict needs a step size"):
        made("strict", Settings(0.1), 10)


# A training


def test_a_run_that_diverges_has_no_numbers_from_there_on():
    cell = Cell("steps", "diabetes", "strict", 0.01, 30.0, 8, 1.0)
    found = training.measure(cell, Sources())
    epochs = tasks.task("diabetes").epochs
    assert found["validation"] == found["test"] == [None] * epochs
    assert found["score"] is None and found["gain"] is None
    tuned = training.measure(
        Cell("tune", *("diabetes", "strict", 0.01, 30.0, 8, 1.0)), Sources()
    )
    assert tuned == {"validation": [None] * epochs, "best": None}


def test_the_score_is_that_of_the_epoch_with_the_best_validation(monkeypatch):
    curves = {"validation": [3.0, 1.0, 2.0, None], "test": [0.1, 0.2, 0.9, None]}
    monkeypatch.setattr(training, "train", lambda *_: curves)
    monkeypatch.setattr(training, "counts", lambda cell: {})
    found = training.measure(Cell("test", "diabetes", "bp", 0.1), Sources())
    assert found["score"] == 0.2 and found["gain"] is None


def test_a_long_run_has_three_times_the_epochs(monkeypatch):
    seen = []

    def train(cell, to, model):
        seen.append(to.epochs)
        return {"validation": [1.0] * to.epochs, "test": [0.5] * to.epochs}

    monkeypatch.setattr(training, "train", train)
    for part in ("test", "long"):
        training.measure(Cell(part, "diabetes", "bp", 0.1), Sources())
    assert seen[1] == 3 * seen[0]


# What is stored


def rows(study, **wanted):
    return [
        (cell["settings"], cell["numbers"])
        for cell in results.read(study)["cells"]
        if all(cell["settings"][k] == v for k, v in wanted.items())
    ]


@pytest.mark.parametrize("task", training.TASKS)
@pytest.mark.parametrize("rule", rules.RULES)
def test_what_is_reported_was_chosen_by_validation_alone(rule, task):
    tuned = "bp" if rule in rules.EXACT else rule
    candidates = rows("tuning", task=task, rule=tuned)
    assert len(candidates) == 10

    def smallest(candidate):
        curve = [v for v in candidate[1]["validation"] if v is not None]
        return min(curve, default=math.inf)

    best = dict(min(candidates, key=smallest)[0])
    reported = rows("training", part="test", task=task, rule=rule)
    assert len(reported) >= 5
    for at, _ in reported:
        assert at["seed"] != best["seed"]
        own = ("rate", "step_size", "steps", "scale", "optimizer")
        assert [at[k] for k in own] == [best[k] for k in own]


def test_backpropagation_and_its_equals_were_trained_until_they_got_no_better():
    runs = [
        (at["task"], at["seed"], found["gain"])
        for at, found in rows("training", part="test")
        if at["rule"] in (rules.BASELINE, *rules.EXACT)
    ]
    late = {run[:2] for run in runs if run[2] is None or run[2] > 0.01}
    assert len(late) <= 0.05 * len({run[:2] for run in runs})


@pytest.mark.parametrize("task", training.TASKS)
@pytest.mark.parametrize("rule", rules.EXACT)
def test_exact_rules_stayed_on_the_trajectory_of_bp(rule, task):
    # Nobody promises this of another machine; the chapter says it of the stored runs.
    pairs = zip(
        rows("training", part="test", task=task, rule="bp"),
        rows("training", part="test", task=task, rule=rule),
        strict=True,
    )
    for (one, bp), (other, own) in pairs:
        assert one["seed"] == other["seed"]
        assert own["validation"] == bp["validation"] and own["test"] == bp["test"]


def test_trajectories_agree_at_a_small_rate_and_gradients_at_any():
    small = min(training.DRIFT_RATES)
    for at, found in rows("training", part="drift"):
        assert max(found["gradient"]) < 1e-12
        if at["rate"] == small:
            assert max(found["apart"]) < 1e-13
    assert all(a < b for a, b in pairwise(training.DRIFT_RATES))
