"""Corners that a stranger found: names, buffers, aliases, copies, what is returned."""

import copy
from fractions import Fraction
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


class Split(nn.Module):
    """Two outputs that one node of autograd makes."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 18).reshape(3, 6).double())

    def forward(self, x):
        return (x @ self.weight).chunk(2, -1)


@pytest.mark.parametrize("used", [[0], [1], [0, 1]], ids=str)
def test_outputs_that_come_from_one_node_of_autograd(used):
    first, last = linear(3, 3, 2)
    split = Split()
    net = nn.ModuleDict({"first": first, "split": split, "last": last})

    def closure():
        parts = split(torch.tanh(first(X)))
        return sum(last(torch.tanh(parts[k])).square().sum() for k in used)

    equals_backpropagation(net, closure)
    graph = pc.cut(net, closure)
    for k in used:
        assert graph.parents[f"split[{k}]"] == ("first",)
    *_, relaxed = pc.infer(net, closure, pc.FixedPrediction())
    *_, swept = pc.infer(net, closure, pc.Exact())
    for i, e in swept.errors.items():
        torch.testing.assert_close(relaxed.errors[i], e)


def test_two_generators_of_infer_may_take_turns():
    """Masks are those of each one's own first run, whenever that was."""

    def watched(seed):
        torch.manual_seed(seed)
        net = nn.Sequential(*linear(3, 6), nn.Dropout(0.5), *linear(6, 6, 2))
        return pc.infer(net, lambda: net(X).square().sum(), pc.Strict(1e-12, 2))

    *_, (left, right) = zip(watched(0), watched(1), strict=True)
    for state in (left, right):
        assert max(float(state.errors[i].abs().max()) for i in state.values) < 1e-9


def test_no_two_gradients_share_memory():
    """As under PyTorch: what is added to one later must not reach the other."""

    class Prefixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.prefix = nn.Parameter(torch.ones(1, 3).double())
            self.position = nn.Parameter(torch.ones(5, 3).double())
            self.out = linear(3, 2)[0]

        def forward(self, x):
            return self.out(torch.tanh(torch.cat([self.prefix, x]) + self.position))

    for rule in EQUAL:
        net = Prefixed()
        closure = lambda net=net: net(X).square().sum()  # noqa: E731
        closure().backward()
        closure().backward()
        truth = oracle.gradients(net)
        oracle.clear(net)
        pc.backward(net, closure, rule)
        pc.backward(net, closure, rule)
        oracle.assert_same(oracle.gradients(net), truth)


def test_lazy_layers_are_initialised_once_or_the_masks_would_differ():
    def make(dropout):
        torch.manual_seed(0)
        layers = [nn.LazyLinear(6), dropout, nn.Linear(6, 6), nn.Linear(6, 2)]
        net = nn.Sequential(*layers).double()
        return net, lambda: net(X).square().sum()

    pc.backward(*make(nn.Identity()), pc.Strict(0.01, 2))
    pc.backward(*make(nn.Dropout(0.5)), pc.Exact())
    net, closure = make(nn.Dropout(0.5))
    with pytest.raises(RuntimeError, match="run the model once before"):
        pc.backward(net, closure, pc.Strict(0.01, 2))
    pc.backward(net, closure, pc.Strict(0.01, 2))


def test_what_a_module_registers_in_its_first_run_is_there_in_the_next():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.built = linear(3, 3)[0], False

        def forward(self, x):
            if not self.built:
                self.register_buffer("mask", torch.ones(3).double())
                self.built = True
            return self.layer(x) * self.mask

    net = nn.Sequential(Masked(), *linear(3, 2))
    pc.cut(net, lambda: net(X).square().sum())
    pc.backward(net, lambda: net(X).square().sum(), pc.Strict(0.01, 3))
    assert [name for name, _ in net.named_buffers()] == ["0.mask"]


class Echo(nn.Module):
    """Returns its input among other things."""

    def __init__(self, what):
        super().__init__()
        self.weight, self.what = nn.Parameter(torch.ones(3).double()), what

    def forward(self, x):
        return self.what(self, x)


@pytest.mark.parametrize(
    "what",
    [
        lambda self, xs: [*xs, torch.tanh(xs[-1]) * self.weight],
        lambda self, xs: {"x": xs[0], "y": torch.tanh(xs[-1]) * self.weight},
    ],
    ids=["list", "dict"],
)
def test_an_input_that_is_returned_inside_a_container_is_not_changed_in_place(what):
    first, last = linear(3, 3, 2)
    echo = Echo(what)

    def closure():
        xs = [first(X)]
        found = echo(xs)
        returned, new = found.values() if isinstance(found, dict) else found
        returned.add_(2)
        return last(new + xs[0]).square().sum()

    net = nn.ModuleList([first, echo, last])
    with pytest.raises(RuntimeError, match="shares memory with what went into"):
        pc.backward(net, closure)


def test_an_output_that_is_returned_detached_too_is_not_changed_in_place():
    def twice(self, x):
        y = x * self.weight
        return y, y.detach()

    echo, (last,) = Echo(twice), linear(3, 2)

    def closure():
        y, same = echo(X)
        y.relu_()
        return (last(y) * same.sum()).square().sum()

    with pytest.raises(RuntimeError, match="another of its outputs"):
        pc.backward(nn.ModuleList([echo, last]), closure)


def test_what_a_module_writes_on_its_output_is_handed_on():
    def marked(self, x):
        y = x * self.weight
        y.factor = 3.0
        return y

    echo, (last,) = Echo(marked), linear(3, 2)

    def closure():
        y = echo(X)
        return y.factor * last(y).square().sum()

    equals_backpropagation(nn.ModuleList([echo, last]), closure)


def test_tuples_that_take_other_arguments_than_their_items():
    class Pair(tuple):
        def __new__(cls, left, right):
            made = super().__new__(cls, (left, right))
            made.note = "kept"
            return made

    echo, (last,) = Echo(lambda self, x: Pair(x * self.weight, None)), linear(3, 2)

    def closure():
        pair = echo(X)
        assert type(pair) is Pair and pair.note == "kept"
        return last(pair[0]).square().sum()

    equals_backpropagation(nn.ModuleList([echo, last]), closure)


def test_a_comparison_sees_the_imaginary_parts():
    class Turn(nn.Module):
        def __init__(self):
            super().__init__()
            self.by = nn.Parameter(torch.tensor([1 + 1j, 2j, 1.0]).to(torch.cdouble))

        def forward(self, x):
            return (x * self.by).imag

    net = nn.Sequential(*linear(3, 3), Turn(), *linear(3, 3), nn.Tanh(), *linear(3, 2))
    closure = lambda: net(X).square().sum()  # noqa: E731
    closure().backward()
    truth = net[1].by.grad.clone()
    oracle.clear(net)
    rule = pc.Strict(0.05, 5)
    pc.backward(net, closure, rule)
    error = float((net[1].by.grad - truth).norm() / truth.norm())
    (row,) = pc.compare(net, closure, [rule]).rows
    assert row["parameters"]["1.by"]["relative_error"] == pytest.approx(error, rel=1e-9)
    assert error > 0.01


def test_a_rule_may_yield_errors_of_outputs_too():
    net = nn.Sequential(*linear(3, 3), nn.Tanh(), *linear(3, 3, 2))

    class Twice:
        def __init__(self, tell):
            self.tell = tell

        def run(self, graph):
            errors = graph.evaluate().zeros()
            yield errors
            graph.evaluate({i: graph.predictions[i] for i in errors})
            yield {**errors, **(graph.last.output_errors if self.tell else {})}

    found = []
    for tell in (False, True):
        oracle.clear(net)
        pc.backward(net, lambda: net(X).square().sum(), Twice(tell))
        found.append(oracle.gradients(net))
    oracle.assert_same(*found)


def test_a_rule_may_change_what_it_pulled():
    net = nn.Sequential(*linear(3, 3), nn.Tanh(), *linear(3, 3, 2))

    class Relaxes:
        def run(self, graph):
            errors = graph.evaluate().zeros()
            yield errors
            for _ in range(3):
                pulled = graph.pull(errors)
                errors = {
                    i: p.mul_(0.5).add_(0.5 * errors[i]) for i, p in pulled.items()
                }
                yield errors

    closure = lambda: net(X).square().sum()  # noqa: E731
    rows = pc.compare(net, closure, [Relaxes(), pc.FixedPrediction(0.5, 3)]).rows
    assert rows[0]["relative_error"] == pytest.approx(rows[1]["relative_error"])


def test_a_rule_that_fails_in_its_first_state_leaves_the_model_as_it_was():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), *linear(3, 3, 2)).double()
    before = torch.get_rng_state()

    class Wrong:
        def run(self, graph):
            graph.evaluate()
            yield {"0": torch.zeros(1), "2": torch.zeros(1)}

    with pytest.raises(ValueError, match="its prediction"):
        next(pc.infer(net, lambda: net(X).square().sum(), Wrong()))
    assert int(net[0].num_batches_tracked) == 0
    assert torch.equal(torch.get_rng_state(), before)


def test_a_parameter_that_is_exchanged_between_states_is_noticed():
    net = nn.Sequential(*linear(3, 3, 2))
    states = pc.infer(net, lambda: net(X).square().sum(), pc.Strict(0.01, 3))
    next(states)
    net[0].weight = nn.Parameter(net[0].weight.detach() * 2)
    with pytest.raises(RuntimeError, match="changed between two states"):
        next(states)


def test_a_linearisation_has_no_numbers_to_look_at():
    net = nn.Sequential(*linear(3, 3, 2))
    graph = pc.Graph(net, lambda: net(X).square().sum())
    found = graph.linearise()
    for what in ("values", "predictions"):
        with pytest.raises(RuntimeError, match=r"graph\.evaluate"):
            getattr(found, what)
    exact = graph.evaluate().adjoints()["0"]
    torch.testing.assert_close(graph.linearise().adjoints()["0"], exact)


# ---- arguments -----------------------------------------------------------------------


def test_words_about_rules_and_what_they_yield():
    net = nn.Sequential(*linear(3, 3, 2))
    closure = lambda: net(X).square().sum()  # noqa: E731

    def ruled(run):
        return type("Mine", (), {"run": run})()

    with pytest.raises(TypeError, match="must yield mappings"):
        pc.backward(net, closure, ruled(lambda self, g: iter([{"0": 1.0}])))
    with pytest.raises(TypeError, match="must be a generator"):
        pc.backward(net, closure, ruled(lambda self, g: None))
    with pytest.raises(TypeError, match="rule must be a rule"):
        pc.backward(net, closure, ruled(5))
    with pytest.raises(TypeError, match="step_size takes a rule"):
        pc.cut(net, closure).step_size(pc.Strict)
    with pytest.raises(TypeError, match=r"mappings \{hidden vertex: tensor\}"):
        pc.cut(net, closure).evaluate(torch.ones(3))
    with pytest.raises(ValueError, match="give at least one rule"):
        pc.compare(net, closure, [])
    with pytest.raises(TypeError, match="rules must be a list of rules"):
        pc.compare(net, closure, "Exact")
    with pytest.raises(FloatingPointError, match="floats do not hold"):
        pc.backward(net, closure, pc.ZIL(1e60))


def test_words_about_energies_and_factors():
    net = nn.Sequential(*linear(3, 3, 2))
    closure = lambda: net(X).square().sum()  # noqa: E731
    wide = pc.Strict(precision={"0": torch.ones(7).double()})
    with pytest.raises(ValueError, match=r"precision of '0' has shape \(7,\)"):
        pc.backward(net, closure, wide)
    with pytest.raises(TypeError, match="energy must be a function"):
        pc.Strict(energy=nn.MSELoss)
    with pytest.raises(TypeError, match="step_size must be a positive number"):
        pc.FixedPrediction(step_size=b"ab")
    with pytest.raises(ValueError, match="larger than floats"):
        pc.backward(net, closure, gradient=10**400)
    with pytest.raises(TypeError, match="dense tensor"):
        pc.backward(net, lambda: net(X).sum().reshape(1).to_sparse())
    third = Fraction(1, 3)
    pc.backward(net, closure, gradient=third)
    once = oracle.gradients(net)
    oracle.clear(net)
    pc.backward(net, closure, gradient=1 / 3)
    oracle.assert_same(oracle.gradients(net), once)


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
        pc.Strict(precision={3: 1.0})
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
