"""What PyTorch promises of losses, batches, number formats, and calls in a row.

As in test_things_that_break: one step of every rule against one of `loss.backward()`.
"""

import copy

import oracle
import pytest
import torch
import torch.nn.functional as F
from every_rule import (
    OTHERS,
    assert_step_is_backprops,
    chain,
    go_back,
    linear,
    step,
)
from torch import nn

import pcnotes as pc

pytestmark = pytest.mark.usefixtures("double")


# Losses


def test_a_functional_loss_of_several_outputs(rule):
    def make():
        trunk, left, right = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)
        x = torch.randn(6, 4)

        def closure():
            h = torch.tanh(trunk(x))
            a, b = left(h), right(h)
            similar = F.cosine_embedding_loss(a, b, torch.ones(6))
            return similar + F.kl_div(a.log_softmax(1), b.softmax(1), reduction="sum")

        return [trunk, left, right], closure

    assert_step_is_backprops(make, rule)


def test_several_losses_add_up(exact):
    def make():
        trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6))
        heads = nn.ModuleList(nn.Linear(6, 3) for _ in range(3))
        x, y = torch.randn(6, 4), torch.arange(6) % 3

        def closure():
            h = trunk(x)
            losses = [F.cross_entropy(head(h), y) for head in heads]
            return sum(losses) + 0.1 * h.abs().mean()

        return [trunk, heads], closure

    assert_step_is_backprops(make, exact)
    model, closure = make()
    pc.backward(model, closure, exact)
    summed = oracle.gradients(model)
    _, truth = oracle.autograd(model, closure)
    oracle.assert_same(summed, truth)


def test_losses_one_after_the_other_add_up_in_grad(exact):
    torch.manual_seed(7)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = torch.randn(6, 4), torch.arange(6) % 3
    losses = [lambda: F.cross_entropy(net(x), y), lambda: net(x).square().mean()]
    _, truth = oracle.autograd(net, lambda: losses[0]() + losses[1]())
    for loss in losses:
        pc.backward(net, loss, exact)
    oracle.assert_same(oracle.gradients(net), truth)


def test_a_loss_of_one_element_is_a_scalar(exact):
    assert_step_is_backprops(
        chain(linear(4, 5), nn.Tanh, linear(5, 1), loss=lambda y: y[:1].cos(), rows=1),
        exact,
    )


def test_a_second_call_with_other_data_in_the_same_closure_forgets_the_first(exact):
    torch.manual_seed(7)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    batch = {"x": torch.randn(6, 4)}
    closure = lambda: net(batch["x"]).square().mean()  # noqa: E731
    for x in (batch["x"], torch.randn(2, 4), torch.randn(9, 4)):
        batch["x"] = x
        _, truth = oracle.autograd(net, closure)
        pc.backward(net, closure, exact)
        oracle.assert_same(oracle.gradients(net), truth)


# Batches and number formats


def test_a_batch_of_one(rule):
    assert_step_is_backprops(chain(linear(4, 5), nn.Tanh, linear(5, 2), rows=1), rule)


def test_an_empty_batch_has_a_sum_with_zero_gradient(rule):
    make = chain(linear(4, 5), nn.Tanh, linear(5, 2), loss=torch.sum, rows=0)
    ours, _ = assert_step_is_backprops(make, rule)
    assert all(g is not None and not g.any() for g in ours.gradients)


def test_the_mean_of_an_empty_batch_is_refused(rule):
    make = chain(linear(4, 5), nn.Tanh, linear(5, 2), loss=torch.mean, rows=0)
    with pytest.raises(FloatingPointError, match="not finite"):
        step(make, rule)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)],
)
def test_gradients_come_in_the_format_of_their_parameters(rule, dtype, tolerance):
    """To the format's own precision: errors are carried through the same roundings."""

    def make():
        net = nn.Sequential(
            nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 2)
        )
        x = torch.randn(5, 4, dtype=dtype)
        return net.to(dtype), lambda: net(x).square().mean()

    ours, _ = assert_step_is_backprops(make, rule, tolerance=tolerance)
    assert {g.dtype for g in ours.gradients} == {dtype}


@pytest.mark.parametrize("cached", [True, False])
def test_autocast_runs_layers_in_bfloat16_and_keeps_gradients_in_float32(rule, cached):
    def make():
        tied = nn.Linear(8, 8)
        net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), tied, nn.Tanh(), tied)
        x = torch.randn(5, 4, dtype=torch.float32)

        def closure():
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
                y = net(x)
            assert y.dtype == torch.bfloat16
            return y.float().square().mean()

        return net.float(), closure

    ours, _ = assert_step_is_backprops(make, rule, tolerance=2e-2)
    assert {g.dtype for g in ours.gradients} == {torch.float32}


def test_autocast_around_the_call_holds_in_every_evaluation(rule):
    def make():
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).float()
        x = torch.randn(5, 4, dtype=torch.float32)
        return net, lambda: net(x).float().square().mean()

    with torch.autocast("cpu", torch.bfloat16):
        assert_step_is_backprops(make, rule, tolerance=2e-2)


def test_a_loss_scale_saves_small_errors_from_underflow(exact):
    """AMP's reason to scale: in float16 what is below 6e-8 is zero."""

    def gradients(rule):
        torch.manual_seed(7)
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).half()
        x = torch.randn(5, 4, dtype=torch.float16)
        go_back(net, lambda: net(x).float().sum() * 2e-8, rule, gradient=2.0**16)
        return [p.grad.double() for p in net.parameters()]

    oracle.assert_same(gradients(exact), gradients(None), 2e-3)


def test_the_factor_reaches_the_gradients_unharmed_by_every_rule(rule):
    make = chain(linear(4, 5), nn.Tanh, linear(5, 2))
    plain = step(make, rule).gradients
    torch.manual_seed(7)
    model, closure = make()
    pc.backward(model, closure, rule, gradient=-0.25)
    oracle.assert_same(oracle.gradients(model), [-g / 4 for g in plain])


# Calls that follow, and calls that fail


def test_every_call_adds_to_grad_in_place(rule):
    torch.manual_seed(7)
    model, closure = chain(linear(4, 5), nn.Tanh, linear(5, 2))()
    pc.backward(model, closure, rule)
    once, kept = oracle.gradients(model), [p.grad for p in model.parameters()]
    pc.backward(model, closure, rule)
    oracle.assert_same(oracle.gradients(model), [2 * g for g in once])
    assert all(p.grad is g for p, g in zip(model.parameters(), kept, strict=True))


def test_two_calls_give_the_same_bits(rule):
    make = chain(linear(4, 20), nn.Dropout, nn.Tanh, linear(20, 2))
    first, second = step(make, rule), step(make, rule)
    assert all(map(torch.equal, first.gradients, second.gradients))


def test_what_is_drawn_between_states_is_drawn_once(rule):
    """Inference goes back to its own random numbers, not to those of its reader."""
    model, closure = chain(linear(4, 20), nn.Dropout, nn.Tanh, linear(20, 2))()
    torch.manual_seed(0)
    closure()
    expected = [float(torch.rand(())) for _ in range(9)]
    torch.manual_seed(0)
    found = [float(torch.rand(())) for _ in pc.infer(model, closure, rule)]
    assert len(found) > 1
    assert found == expected[: len(found)]


def test_what_is_kept_of_a_call_dies_with_it(rule):
    """A model can be copied and pickled afterwards: no hook, no graph hangs on it."""
    model, closure = chain(linear(4, 5), lambda: nn.BatchNorm1d(5), linear(5, 2))()
    before = {name: set(vars(m)) for name, m in model.named_modules()}
    pc.backward(model, closure, rule)
    assert {name: set(vars(m)) for name, m in model.named_modules()} == before
    twin = copy.deepcopy(model)
    assert all(map(torch.equal, oracle.buffers(twin), oracle.buffers(model)))


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_after_an_exception_all_is_as_before(rule, turn):
    """Also when it comes in a later evaluation; rules with fewer just finish."""
    torch.manual_seed(7)
    net = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 1)
    )
    x, turns = torch.randn(5, 4), []
    net[0].weight.grad = torch.full((6, 4), 3.0)

    def closure():
        turns.append(1)
        loss = net(x).square().mean()
        if len(turns) == turn:
            raise KeyError("mine")
        return loss

    buffers, random_state = oracle.buffers(net), torch.get_rng_state()
    try:
        pc.backward(net, closure, rule)
    except KeyError:
        assert torch.equal(net[0].weight.grad, torch.full((6, 4), 3.0))
        assert all(p.grad is None for p in list(net.parameters())[1:])
        assert all(map(torch.equal, oracle.buffers(net), buffers))
        assert torch.equal(torch.get_rng_state(), random_state)
    else:
        assert len(turns) < turn
    assert oracle.hooks(net) == 0
    assert torch.is_grad_enabled()
    pc.backward(net, lambda: net(x).square().mean(), rule)


@pytest.mark.parametrize("inexact", OTHERS, ids=str)
def test_the_other_rules_really_differ_from_backpropagation(inexact):
    """Else the conventions above would be tested on backpropagation under a name."""
    ours, theirs = assert_step_is_backprops(
        chain(linear(4, 6), nn.Tanh, linear(6, 6), nn.Tanh, linear(6, 1)), inexact
    )
    with pytest.raises(AssertionError, match="relative error"):
        oracle.assert_same(ours.gradients, theirs.gradients, 1e-6)
