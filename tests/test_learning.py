"""backward, infer, compare: PyTorch's conventions, and the states of inference."""

import copy
import json
import math
import random
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo import ZOO

import pcnotes as pc

HALF = pc.FixedPrediction(step_size=0.5, steps=6)


@dataclass(frozen=True)
class TopDown:
    """A rule as a reader writes it: one Gauss–Seidel sweep, children first."""

    def run(self, graph):
        graph.evaluate()
        errors = graph.zeros()
        yield errors
        for i in reversed(graph.hidden):
            errors = {**errors, i: graph.pull(errors)[i]}
        yield errors


@dataclass(frozen=True)
class Halves:
    """A rule with live values: every error is half of what the children ask."""

    steps: int = 3

    def run(self, graph):
        start = graph.evaluate()
        errors = graph.zeros()
        yield errors
        for _ in range(self.steps):
            errors = {i: e / 2 for i, e in graph.pull(errors).items()}
            at = graph.evaluate({i: start.values[i] - errors[i] for i in errors})
            errors = {i: at.predictions[i] - at.values[i] for i in errors}
            yield errors


def test_grad_accumulates_as_pytorch_promises():
    model, closure = ZOO["perceptron"]()
    _, truth = oracle.autograd(model, closure)
    pc.backward(model, closure)
    first = model[0].weight.grad
    pc.backward(model, closure)
    assert model[0].weight.grad is first
    oracle.assert_same(oracle.gradients(model), [2 * g for g in truth])


@pytest.mark.parametrize("factor", [0.25, torch.tensor(0.25)])
def test_gradient_multiplies_what_is_added_and_nothing_else(factor):
    model, closure = ZOO["perceptron"]()
    loss, truth = oracle.autograd(model, closure)
    assert torch.equal(pc.backward(model, closure, gradient=factor), loss)
    oracle.assert_same(oracle.gradients(model), [g / 4 for g in truth])


def test_parameter_hooks_run_once_with_the_whole_gradient():
    model, closure = ZOO["module_called_three_times"]()
    _, truth = oracle.autograd(model, closure)
    seen, after = [], []
    model[0].weight.register_hook(seen.append)
    model[0].weight.register_post_accumulate_grad_hook(after.append)
    pc.backward(model, closure)
    assert len(seen) == len(after) == 1
    torch.testing.assert_close(seen[0], truth[0], rtol=1e-12, atol=1e-14)


def test_inputs_that_require_grad_get_theirs():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    net(x).sum().backward()
    truth, x.grad = x.grad, None
    pc.backward(net, lambda: net(x).sum())
    torch.testing.assert_close(x.grad, truth, rtol=1e-12, atol=0)


def test_hooks_of_the_user_run_and_their_change_is_the_prediction():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).double()
    net[0].register_forward_hook(lambda m, a, out: 3 * out)
    x = torch.ones(2, 3, dtype=torch.float64)
    _, truth = oracle.autograd(net, lambda: net(x).square().sum())
    pc.backward(net, lambda: net(x).square().sum())
    oracle.assert_same(oracle.gradients(net), truth)
    assert oracle.hooks(net) == 1


def test_a_training_loop_follows_backprop():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    theirs = copy.deepcopy(ours)
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.arange(20) % 3
    first = None
    adam = torch.optim.Adam(ours.parameters()), torch.optim.Adam(theirs.parameters())
    for step in range(50):
        adam[0].zero_grad()
        a = pc.backward(ours, lambda: F.cross_entropy(ours(x), y))
        adam[0].step()
        adam[1].zero_grad()
        b = F.cross_entropy(theirs(x), y)
        b.backward()
        adam[1].step()
        torch.testing.assert_close(a, b.detach(), rtol=1e-10, atol=0)
        first = a if step == 0 else first
    assert a < first - 0.05


@pytest.mark.parametrize("rule", [TopDown(), Halves()], ids=str)
def test_a_readers_rule_works_everywhere(rule):
    model, closure = ZOO["residual_stack"]()
    pc.backward(model, closure, rule)
    assert all(p.grad is not None for p in model.parameters())
    assert len(list(pc.infer(model, closure, rule))) == getattr(rule, "steps", 1) + 1
    table = pc.compare(model, closure, [rule])
    exact = isinstance(rule, TopDown)
    assert (table.rows[0]["relative_error"] < 1e-12) == exact


def test_infer_yields_one_state_more_than_steps_and_starts_feed_forward():
    model, closure = ZOO["residual_stack"]()
    states = list(pc.infer(model, closure, HALF))
    assert [s.step for s in states] == list(range(7))
    graph = pc.cut(model, closure)
    start = states[0]
    assert all(not start.errors[i].any() for i in graph.hidden)
    assert set(start.errors) == set(graph.vertices)
    assert set(start.values) == set(graph.hidden)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("rule", [HALF, Halves(), pc.Backprop()], ids=str)
def test_in_every_state_error_is_prediction_minus_value(rule):
    model, closure = ZOO["residual_stack"]()
    for s in pc.infer(model, closure, rule):
        for i, v in s.values.items():
            torch.testing.assert_close(s.errors[i], s.predictions[i] - v)


@pytest.mark.parametrize("rule", [HALF, Halves()], ids=str)
def test_energy_and_loss_belong_to_the_values_of_the_state(rule):
    """Worked out by hand on a chain: E = Σ ½‖f(v_below) - v‖² + loss(v_top)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    for s in pc.infer(net, lambda: net(x).square().sum(), rule):
        a, b = s.values["0"], s.values["1"]
        loss = net[2](b).square().sum()
        energy = ((net[0](x) - a).square() + (net[1](a) - b).square()).sum() / 2 + loss
        torch.testing.assert_close(s.loss, loss.detach())
        torch.testing.assert_close(s.energy, energy.detach())


def test_a_state_stays_valid_and_says_what_it_can_no_longer_tell():
    model, closure = ZOO["residual_stack"]()
    states = []
    for s in pc.infer(model, closure, HALF):
        states.append((s, copy.deepcopy(s.errors), copy.deepcopy(s.values)))
    for s, errors, values in states:
        assert all(torch.equal(s.errors[i], e) for i, e in errors.items())
        assert all(torch.equal(s.values[i], v) for i, v in values.items())
    assert states[0][0].energy.isfinite()  # feed-forward: nothing to evaluate
    assert states[-1][0].energy.isfinite()  # the newest
    with pytest.raises(RuntimeError, match="step 3 need an evaluation"):
        _ = states[3][0].energy


def test_energy_after_a_parameter_moved_is_refused():
    model, closure = ZOO["residual_stack"]()
    *_, last = pc.infer(model, closure, HALF)
    with torch.no_grad():
        next(iter(model.parameters())).add_(1)
    with pytest.raises(RuntimeError, match="parameters unchanged"):
        _ = last.loss


def test_a_rule_that_works_in_place_does_not_rewrite_old_states():
    class InPlace:
        def run(self, graph):
            graph.evaluate()
            errors = graph.zeros()
            for _ in range(3):
                yield errors
                for e in errors.values():
                    e.add_(1)

    model, closure = ZOO["perceptron"]()
    states = list(pc.infer(model, closure, InPlace()))
    assert [float(s.errors["0"].mean()) for s in states] == [0.0, 1.0, 2.0]


def test_a_generator_that_is_dropped_leaves_nothing_behind():
    model, closure = ZOO["convolution_with_batch_norm"]()
    states = pc.infer(model, closure, HALF)
    next(states)
    assert oracle.hooks(model) == 0
    states.close()
    assert oracle.hooks(model) == 0
    assert int(model[1].num_batches_tracked) == 1


def test_reading_energy_does_not_change_what_follows():
    model, closure = ZOO["dropout"]()
    torch.manual_seed(0)
    plain = [s.errors for s in pc.infer(model, closure, HALF)]
    torch.manual_seed(0)
    read = [(s.energy, s.errors)[1] for s in pc.infer(model, closure, HALF)]
    for a, b in zip(plain, read, strict=True):
        assert all(torch.equal(a[i], b[i]) for i in a)


def test_compare_names_the_layers_that_were_not_reached():
    model, closure = ZOO["perceptron"]()
    table = pc.compare(model, closure, [pc.FixedPrediction(steps=1), HALF])
    first, second = table.rows
    assert first["untouched"] == ["0"] and second["untouched"] == []
    assert first["parameters"]["0.weight"]["relative_error"] == 1.0
    assert math.isnan(first["parameters"]["0.weight"]["cosine"])
    assert first["parameters"]["4.weight"]["relative_error"] < 1e-12
    assert "leaves 0 untouched" in str(table)
    assert "NaN" not in json.dumps(table.to_dict(), allow_nan=False)
    assert "<table>" in table._repr_html_()


def test_a_comparison_tells_error_and_cost_of_each_vertex_and_parameter():
    model, closure = ZOO["module_called_three_times"]()
    table = pc.compare(model, closure, [pc.Exact(), pc.Strict(0.1, 5), pc.Backprop()])
    exact, strict, whole = table.rows
    assert list(exact["vertices"]) == ["0@1", "0@2", "0@3"]
    costs = {i: (v["vjps"], v["lessons"]) for i, v in exact["vertices"].items()}
    assert costs == {"0@1": (0, 1), "0@2": (1, 1), "0@3": (1, 1)}
    assert exact["vjps"] == 3 and exact["lessons"] == 4  # with the output
    assert exact["parameters"]["0.weight"]["lessons"] == 3
    assert strict["evaluations"] == 6
    assert strict["vertices"]["0@3"]["vjps"] == 5
    assert strict["vertices"]["0@3"]["relative_error"] > 1e-3
    assert (whole["vjps"], whole["lessons"]) == (0, 0) and "–" in str(table)
    for part, names in [
        (table.by_vertex(), exact["vertices"]),
        (table.by_parameter(), exact["parameters"]),
    ]:
        assert all(name in str(part) for name in names)
        assert str(part).count("Exact()") == len(names)
        assert "<table>" in part._repr_html_()


def test_compare_by_own_steps_takes_no_shorter_road():
    """What `infer` shows, at its price; the gradient is that of the shortcut."""
    model, closure = ZOO["perceptron"]()
    rules = [pc.FixedPrediction(), HALF, pc.ZIL(), pc.ZIL(0.5), pc.Exact()]
    short = pc.compare(model, closure, rules).rows
    own = pc.compare(model, closure, rules, own_steps=True).rows
    assert all(row["evaluations"] == 1 for row in short)
    depth = pc.cut(model, closure).depth
    assert [row["evaluations"] for row in own] == [1, 1, depth + 1, depth + 1, 1]
    assert own[0]["vjps"] > short[0]["vjps"] and own[1]["vjps"] > short[1]["vjps"]
    for a, b in zip(short, own, strict=True):
        near = pytest.approx(a["relative_error"], rel=1e-9, abs=1e-12)
        assert b["relative_error"] == near, a["rule"]


def test_work_is_counted():
    """One evaluation, one Jacobian per vertex: the outputs' and the hidden ones'."""
    model, closure = ZOO["residual_stack"]()  # chain with skips: depth 4, 5 vertices
    for rule, vjps in [
        (pc.FixedPrediction(), 1 + 4),
        (pc.FixedPrediction(0.1, 1000), 1 + sum((4, 3, 2, 1))),
    ]:
        row = pc.compare(model, closure, [rule]).rows[0]
        assert row["evaluations"] == 1
        assert row["vjps"] <= vjps, rule


def test_importing_pcnotes_is_light():
    code = (
        "import sys, pcnotes; "
        "loaded = {m.split('.')[0] for m in sys.modules}; "
        "print({'matplotlib', 'sklearn', 'scipy'} & loaded)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stdout + done.stderr


def test_python_and_numpy_draw_the_same_numbers_in_every_evaluation():
    net, x = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), torch.ones(3, 2)

    def closure():
        noise = random.random() + np.random.rand()
        return (net(x) * noise).square().sum()

    table = pc.compare(net, closure, [pc.FixedPrediction()])
    assert table.rows[0]["relative_error"] < 1e-6


def test_many_steps_cost_no_more_than_few():
    net, x = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), torch.ones(3, 2)
    for steps in (10, 100_000):
        row = pc.compare(
            net, lambda: net(x).square().sum(), [pc.FixedPrediction(0.5, steps)]
        ).rows[0]
        assert (row["evaluations"], row["vjps"]) == (1, 1)


def test_a_step_size_may_be_a_scalar_tensor_or_an_array():
    assert pc.FixedPrediction(torch.tensor(0.5)).schedule(2) == (0.5, 0.5)
    assert pc.FixedPrediction(np.array([0.5, 1.0])).schedule(9) == (0.5, 1.0)


def test_energy_can_be_read_where_gradients_are_off():
    model, closure = ZOO["residual_stack"]()
    with_grad = [float(s.energy) for s in pc.infer(model, closure, HALF)]
    without = []
    for s in pc.infer(model, closure, HALF):
        with torch.no_grad():
            without.append(float(s.energy))
    assert with_grad == without


def test_what_a_reader_does_to_a_state_does_not_reach_later_ones():
    model, closure = ZOO["residual_stack"]()
    clean = [s.errors for s in pc.infer(model, closure, HALF)]
    for s, expected in zip(pc.infer(model, closure, HALF), clean, strict=True):
        for i, e in s.errors.items():
            assert torch.equal(e, expected[i])
            e.mul_(7)
