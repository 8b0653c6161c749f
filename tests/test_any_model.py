"""`backward` puts autograd's gradient into `.grad` of models of every kind."""

import random

import oracle
import pytest
import torch
from zoo import ZOO

import pcnotes as pc
from pcnotes.evaluation import Evaluation
from pcnotes.lessons import Lessons
from pcnotes.rules import teach

EQUAL_TO_BP = [pc.FixedPrediction(), pc.Backprop(), pc.Exact(), pc.ZIL()]


def errors_of_backward(rule, graph):
    """What each vertex learns from, by the rule's own shortcut."""
    graph.lessons = Lessons(keep_errors=True)
    teach(rule, graph)
    return graph.lessons.errors


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("rule", EQUAL_TO_BP, ids=str)
def test_gradient_and_loss_are_those_of_autograd(name, rule):
    model, closure = ZOO[name]()
    loss, truth = oracle.autograd(model, closure)
    torch.manual_seed(0)
    assert torch.equal(pc.backward(model, closure, rule), loss)
    oracle.assert_same(oracle.gradients(model), truth)
    assert oracle.hooks(model) == 0


@pytest.mark.parametrize("name", ZOO)
def test_one_pass_or_one_a_level_give_the_same(name, monkeypatch):
    """On a GPU, and where it cannot tell the order, the sweep goes level by level."""
    model, closure = ZOO[name]()
    _, truth = oracle.autograd(model, closure)
    at_once = pc.cut(model, closure).evaluate().adjoints()
    monkeypatch.setattr(Evaluation, "_in_order", False)
    by_level = pc.cut(model, closure).evaluate().adjoints()
    for i, e in at_once.items():
        torch.testing.assert_close(by_level[i], e, rtol=1e-12, atol=1e-14)
    torch.manual_seed(0)
    pc.backward(model, closure, pc.Exact())
    oracle.assert_same(oracle.gradients(model), truth)


@pytest.mark.parametrize("name", ZOO)
def test_all_of_the_zoo_can_be_swept_in_one_pass(name):
    model, closure = ZOO[name]()
    assert pc.cut(model, closure).evaluate()._in_order


@pytest.mark.parametrize("name", ZOO)
def test_backprop_is_autograd_bit_for_bit(name):
    model, closure = ZOO[name]()
    _, truth = oracle.autograd(model, closure)
    torch.manual_seed(0)
    pc.backward(model, closure, pc.Backprop())
    for ours, theirs in zip(oracle.gradients(model), truth, strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("seed", range(3))
def test_half_of_the_modules_chosen_at_random(name, seed):
    model, closure = ZOO[name]()
    owners = list(pc.graph.select(model, None))
    chosen = random.Random(seed).sample(owners, max(1, len(owners) // 2))
    _, truth = oracle.autograd(model, closure)
    torch.manual_seed(0)
    pc.backward(model, closure, pc.FixedPrediction(), at=chosen)
    oracle.assert_same(oracle.gradients(model), truth)


@pytest.mark.parametrize("name", ZOO)
def test_every_module_nested_ones_too(name):
    model, closure = ZOO[name]()
    _, truth = oracle.autograd(model, closure)
    torch.manual_seed(0)
    pc.backward(model, closure, at=lambda name, module: True)
    oracle.assert_same(oracle.gradients(model), truth)


@pytest.mark.parametrize("name", ZOO)
def test_the_synchronous_steps_end_where_backward_does(name):
    """The shortcut of backward and the dynamics of infer are two computations."""
    model, closure = ZOO[name]()
    for rule in [
        pc.FixedPrediction(),
        pc.FixedPrediction(0.3, 7),
        pc.FixedPrediction((0.5, 1.0, 1.3, 0.2)),
        pc.FixedPrediction(1.0, 2),
    ]:
        torch.manual_seed(0)
        graph = pc.cut(model, closure)
        torch.manual_seed(0)
        *_, last = pc.infer(model, closure, rule)
        shortcut = errors_of_backward(rule, graph)
        for i in graph.hidden:
            scale = 1 + float(last.errors[i].abs().max())
            torch.testing.assert_close(
                shortcut[i], last.errors[i], rtol=1e-12, atol=1e-13 * scale
            )


@pytest.mark.parametrize("name", ZOO)
def test_two_calls_give_the_same_bits(name):
    model, closure = ZOO[name]()
    found = []
    for _ in range(2):
        oracle.clear(model)
        torch.manual_seed(0)
        pc.backward(model, closure)
        found.append(oracle.gradients(model))
    assert all(a is None or torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("function", ["backward", "infer", "backprop"])
def test_random_state_and_buffers_move_as_in_one_evaluation(name, function):
    model, closure = ZOO[name]()
    torch.manual_seed(0)
    closure()
    after, moved = torch.get_rng_state(), oracle.buffers(model)
    model, closure = ZOO[name]()
    torch.manual_seed(0)
    if function == "backward":
        pc.backward(model, closure, pc.FixedPrediction(0.5, 4))
    elif function == "backprop":
        list(pc.infer(model, closure, pc.Backprop()))
    else:
        for state in pc.infer(model, closure, pc.FixedPrediction(0.5, 4)):
            assert state.energy.isfinite()
    assert torch.equal(torch.get_rng_state(), after)
    for ours, theirs in zip(oracle.buffers(model), moved, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ZOO)
def test_cut_and_compare_leave_everything_as_it_was(name):
    model, closure = ZOO[name]()
    before, random_state = oracle.buffers(model), torch.get_rng_state()
    pc.cut(model, closure)
    table = pc.compare(model, closure, EQUAL_TO_BP)
    assert torch.equal(torch.get_rng_state(), random_state)
    for ours, theirs in zip(oracle.buffers(model), before, strict=True):
        assert torch.equal(ours, theirs)
    assert all(p.grad is None for p in oracle.parameters(model))
    assert all(row["relative_error"] < 1e-12 for row in table.rows)


@pytest.mark.parametrize("steps", [30, 200])
def test_long_relaxations_beyond_unit_step(steps):
    """The closed form is summed where little cancels: (2η - 1)ⁿ must not show."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(4))).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    rule = pc.FixedPrediction(1.9, steps)
    *_, last = pc.infer(net, lambda: net(x).square().sum(), rule)
    shortcut = errors_of_backward(rule, pc.cut(net, lambda: net(x).square().sum()))
    for i, error in shortcut.items():
        torch.testing.assert_close(error, last.errors[i], rtol=1e-8, atol=1e-10)
