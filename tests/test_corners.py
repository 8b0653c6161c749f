"""Corners that a stranger found: names, buffers, aliases, copies, what is returned."""

import copy
from itertools import pairwise

import oracle
import pytest
import torch
from torch import nn

import pcnotes as pc

EQUAL = [pc.Exact(), pc.ZIL(), pc.FixedPrediction()]
X = torch.linspace(-1, 1, 12).reshape(4, 3).double()


def linear(*widths):
    torch.manual_seed(0)
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    return [layer.double() for layer in layers]


def equals_backpropagation(model, closure):
    _, truth = oracle.autograd(model, closure)
    for rule in EQUAL:
        oracle.clear(model)
        torch.manual_seed(0)
        pc.backward(model, closure, rule)
        oracle.assert_same(oracle.gradients(model), truth)


@pytest.mark.parametrize("name", ["a@2", "o[0]"])
def test_vertices_of_one_name_are_refused(name):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            (self.layer,) = linear(3, 3)

        def forward(self, x):
            return self.layer(x), x.sum()

    a, other, o = *linear(3, 3, 3), Two()
    net = nn.ModuleDict({"a": a, name: other, "o": o})
    closure = lambda: o(other(torch.tanh(a(a(X)))))[0].square().sum()  # noqa: E731
    with pytest.raises(ValueError, match="two vertices would be called"):
        pc.backward(
            net, closure, at=["a", name.replace("[", "?").replace("]", "?"), "o"]
        )
    assert oracle.hooks(net) == 0 and a.weight.grad is None


def test_a_module_named_like_a_copy_is_refused_where_copies_are_made():
    a, b, c = linear(3, 3, 3, 3)
    net = nn.ModuleDict({"a": a, "a+1": b, "c": c})

    def closure():
        h = torch.tanh(a(X))
        return c(h + torch.tanh(b(h))).square().sum()

    equals_backpropagation(net, closure)
    with pytest.raises(ValueError, match="are taken by modules"):
        next(pc.infer(net, closure, pc.ZIL()))


@pytest.mark.parametrize("number", [0, 1])
def test_outputs_that_share_memory_are_not_changed_in_place_unnoticed(number):
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            (self.layer,) = linear(3, 4)

        def forward(self, x):
            h = self.layer(x)
            return h, h[:, :2]

    net = Parts()

    def closure():
        parts = net(X)
        parts[number].mul_(2)
        return parts[0].square().sum() + parts[1].sum()

    with pytest.raises(RuntimeError, match="shares memory"):
        pc.backward(net, closure, pc.Exact(), at=".")
    plain = lambda: sum(p.square().sum() for p in net(X))  # noqa: E731
    _, truth = oracle.autograd(net, plain)
    pc.backward(net, plain, pc.Exact(), at=".")
    oracle.assert_same(oracle.gradients(net), truth)


class Returns(nn.Module):
    """A layer, and then a function of its output."""

    def __init__(self, function):
        super().__init__()
        (self.layer,) = linear(3, 4)
        self.function = function

    def forward(self, x):
        return self.function(self.layer(x))


class Pile(list):
    """A list of its own kind."""


RETURNED = {
    "torch.return_types": (lambda h: h.max(1), lambda m: m.values.square().sum()),
    "svd": (lambda h: torch.linalg.svd(h, False), lambda s: s.S.square().sum()),
    "a list subclass": (lambda h: Pile([h, h + 1]), lambda p: (p[0] * p[1]).sum()),
    "sparse": (lambda h: h.to_sparse(), lambda s: s.to_dense().square().sum()),
}


@pytest.mark.parametrize("name", RETURNED)
def test_what_a_module_returns_keeps_its_kind(name):
    function, loss = RETURNED[name]
    net = nn.Sequential(Returns(function))
    equals_backpropagation(net, lambda: loss(net(X)))
    seen = []

    def closure():
        seen.append(net(X))
        return loss(seen[-1])

    if name != "sparse":
        oracle.clear(net)
        pc.backward(net, closure, at="0")
        assert type(seen[0]) is type(net(X))


def test_a_copy_of_the_model_made_in_the_closure_works_then_and_later():
    a, b = linear(3, 4, 2)
    net, copies = nn.Sequential(a, nn.Tanh(), b), []

    def closure():
        twin = copy.deepcopy(net)
        copies.append(twin)
        return (net(X) - twin(X).detach() + 1).square().sum()

    equals_backpropagation(net, closure)
    assert torch.equal(copies[0](X), net(X))


def test_a_backward_that_returns_nothing_leaves_none_as_under_backpropagation():
    class Stop(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, g):
            return None

    a, b = linear(3, 4, 2)
    net = nn.Sequential(a, b)
    equals_backpropagation(net, lambda: b(Stop.apply(a(X))).square().sum())
    pc.backward(net, lambda: b(Stop.apply(a(X))).square().sum(), pc.Exact())
    assert a.weight.grad is None


def test_a_loss_that_is_a_parameter():
    net = nn.Sequential(*linear(3, 2))
    net.scale = nn.Parameter(torch.tensor(2.0).double())

    def closure():
        net(X)
        return net.scale

    pc.backward(net, closure, pc.Exact(), at="0")
    assert float(net.scale.grad) == 1 and net[0].weight.grad is None


# ---- buffers -------------------------------------------------------------------------


class Moving(nn.Module):
    """A layer whose output depends on a buffer that its forward pass moves."""

    def __init__(self, kind):
        super().__init__()
        (self.layer,) = linear(3, 3)
        self.kind = kind
        if kind == "none at first":
            self.register_buffer("state", None)
        elif kind == "a view of another":
            self.register_buffer("all", torch.zeros(6).double())
            self.register_buffer("state", self.all[:3])
        elif kind == "expanded":
            self.register_buffer("state", torch.zeros(1, 1).double().expand(1, 3))
        else:
            self.register_buffer("state", torch.zeros(3).double())

    def forward(self, x):
        h = self.layer(x)
        if self.kind == "expanded":
            return h + self.state
        if self.kind == "a view of another":
            self.all += 1
            return h * (1 + self.state)
        if self.state is None or self.kind == "rebound":
            now = 0.0 if self.state is None else self.state
            self.state = now + h.detach().mean(0)
        else:
            self.state += h.detach().mean(0)
        return h + self.state


KINDS = ["in place", "rebound", "none at first", "a view of another", "expanded"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_buffer_of_any_kind_moves_once_and_every_run_sees_the_same(kind):
    def make():
        net = nn.Sequential(Moving(kind), *linear(3, 2))
        return net, lambda: net(X).square().sum()

    net, closure = make()
    closure()
    after = net[0].state.clone()
    net, closure = make()
    energies = [float(s.energy) for s in pc.infer(net, closure, pc.Strict(1e-9, 3))]
    assert energies == pytest.approx([energies[0]] * 4, rel=1e-6)
    torch.testing.assert_close(net[0].state, after)
    if kind == "a view of another":
        assert net[0].state._base is net[0].all or net[0].state.data_ptr() == (
            net[0].all.data_ptr()
        )
    net, closure = make()
    before = None if net[0].state is None else net[0].state.clone()
    pc.cut(net, closure)
    pc.compare(net, closure, [pc.Exact(), pc.Strict(0.01, 2)])
    now = net[0].state
    assert (now is None and before is None) or torch.equal(now, before)


def test_buffers_made_in_inference_mode():
    net = nn.Sequential(nn.BatchNorm1d(3, affine=False), *linear(3, 2)).double()
    with torch.inference_mode():
        net[0].running_mean = torch.zeros(3).double()
    net.eval()
    net(X).square().sum().backward()
    truth = oracle.gradients(net)
    oracle.clear(net)
    pc.backward(net, lambda: net(X).square().sum(), pc.Exact())
    oracle.assert_same(oracle.gradients(net), truth)


def test_a_later_failure_of_infer_leaves_what_the_user_did_meanwhile():
    net = nn.Sequential(nn.BatchNorm1d(3), *linear(3, 3, 2)).double()
    turns = []

    def closure():
        turns.append(1)
        if len(turns) == 4:
            raise KeyError("mine")
        return net(X).square().sum()

    with pytest.raises(KeyError, match="mine"):
        for state in pc.infer(net, closure, pc.Strict(0.01, 9)):
            if state.step == 0:
                net[0].num_batches_tracked.fill_(40)
    assert int(net[0].num_batches_tracked) == 40
    assert oracle.hooks(net) == 0


def test_a_forward_pass_may_move_parameters_of_its_own():
    table = nn.Embedding(5, 3, max_norm=0.1).double()
    net = nn.Sequential(table, *linear(3, 3, 2))
    tokens = torch.tensor([0, 1, 2])
    states = list(pc.infer(net, lambda: net(tokens).square().sum(), pc.Strict(0.1, 3)))
    assert len(states) == 4


# ---- arguments -----------------------------------------------------------------------


@pytest.mark.parametrize("gradient", [torch.tensor(1j), torch.tensor(True), True, "1"])
def test_a_factor_is_a_real_number(gradient):
    net = nn.Sequential(*linear(3, 2))
    with pytest.raises(TypeError, match="gradient must be a number"):
        pc.backward(net, lambda: net(X).sum(), gradient=gradient)
    assert net[0].weight.grad is None


@pytest.mark.parametrize("rule", [pc.Strict, pc.ErrorOptimisation])
def test_a_tolerance_is_a_share(rule):
    with pytest.raises(ValueError, match="tolerance must be below 1"):
        rule(tolerance=2.0)


def test_words_about_precisions_energies_and_steps():
    net = nn.Sequential(*linear(3, 3, 2))
    closure = lambda: net(X).square().sum()  # noqa: E731
    with pytest.raises(TypeError, match="make a tensor of"):
        pc.Strict(precision=[1.0, 2.0])
    with pytest.raises(TypeError, match="real tensor"):
        pc.Strict(precision=torch.ones(2, dtype=torch.complex64))
    with pytest.raises(TypeError, match="names of vertices are words, got 3"):
        pc.backward(net, closure, pc.Strict(precision={3: 1.0}))
    detached = pc.Strict(energy=lambda mu, v: (mu - v).detach().square().sum())
    with pytest.raises(RuntimeError, match="does not depend on both"):
        pc.backward(net, closure, detached)
    with pytest.raises(TypeError, match="step_size takes a rule"):
        pc.cut(net, closure).step_size(3)
    with pytest.raises(TypeError, match="rules must be a list of rules, got None"):
        pc.compare(net, closure, None)
    with pytest.raises(ValueError, match="meta device"):
        pc.backward(net.to("meta"), lambda: net(X.to("meta")).sum())


def test_the_step_that_is_quoted_is_the_rules_own():
    net = nn.Sequential(*linear(3, 3, 3, 2))
    closure = lambda: net(X).square().sum()  # noqa: E731
    rule = pc.Strict(3.0, 50, scale=50.0)
    limit = pc.cut(net, closure).step_size(rule)
    assert limit < pc.cut(net, closure).step_size() / 2
    with pytest.raises(FloatingPointError, match=f"about {limit:.2g}") as raised:
        pc.backward(net, closure, rule)
    assert "precision=None" not in str(raised.value)


def test_routing_that_depends_on_values_is_named():
    experts = nn.ModuleList(linear(3, 3, 3))
    gate, out = linear(3, 3, 1)

    def closure():
        h = torch.tanh(gate(X))
        first = h.sum(1) > h.sum(1).median() - 0.05
        mixed = torch.zeros_like(h)
        mixed[first] = experts[0](h[first])
        mixed[~first] = experts[1](h[~first])
        return 50 * out(mixed).square().sum()

    net = nn.ModuleList([gate, experts, out])
    with pytest.raises(ValueError, match="routing that depends on them"):
        pc.backward(net, closure, pc.Strict(0.01, 400))


def test_buffers_of_scripted_modules_move_once_too():
    def make():
        torch.manual_seed(0)
        norm = torch.jit.script(nn.BatchNorm1d(3))
        net = nn.Sequential(norm, nn.Linear(3, 3), nn.Linear(3, 2)).double()
        return net, lambda: net(X).square().sum()

    net, closure = make()
    closure()
    after = [b.clone() for b in net.buffers()]
    net, closure = make()
    pc.backward(net, closure, pc.Strict(0.01, 3))
    assert all(map(torch.equal, net.buffers(), after))


@pytest.mark.parametrize("rule", [*EQUAL, pc.Strict(step_size=0.1, steps=2)])
def test_cut_at_a_dead_end_alone_the_loss_learns_once(rule):
    body, dead_end = linear(3, 2, 1)

    def closure():
        h = body(X)
        dead_end(h)
        return h.square().sum()

    _, truth = oracle.autograd(body, closure)
    oracle.clear(body)
    pc.backward([body, dead_end], closure, rule, at="1")
    oracle.assert_same(oracle.gradients(body), truth)
