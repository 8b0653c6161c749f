"""What each rule computes, held against the energy written out by hand.

That `Exact`, `ZIL` and `FixedPrediction()` equal autograd is tested on every model in
test_any_model.py and on random graphs in test_properties.py.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import oracle
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo import ZOO

import pcnotes as pc
from pcnotes import levelling
from pcnotes.models import Shortcut
from pcnotes.rules import label


def chain(depth=3, width=4, loss="sum"):
    """Linear, tanh, …, Linear with a squared loss; one value per hidden layer."""
    torch.manual_seed(1)
    layers = [nn.Linear(width, width) for _ in range(depth)]
    net = nn.Sequential(
        *[m for layer in layers[:-1] for m in (layer, nn.Tanh())], layers[-1]
    ).double()
    x, y = torch.randn(5, width).double(), torch.randn(5, width).double()
    return net, lambda: F.mse_loss(net(x), y, reduction=loss) / 2, (x, y)


def energy_by_hand(net, x, y, values, beta=1.0, local=None):
    """E_β of a chain, the definition: hidden predictions against values, and the loss.

    Returns also the predictions; parameters and values may require grad.
    """
    local = local or (lambda mu, v: (mu - v).square().sum() / 2)
    linear = [m for m in net if isinstance(m, nn.Linear)]
    predictions = [linear[0](x)]
    for layer, v in zip(linear[1:], values, strict=True):
        predictions.append(layer(torch.tanh(v)))
    hidden = sum(local(mu, v) for mu, v in zip(predictions, values, strict=False))
    loss = F.mse_loss(predictions[-1], y, reduction="sum") / 2
    return hidden + beta * loss, predictions


def descended_by_hand(net, x, y, step_size, steps, **options):
    """Values after so many steps of gradient descent from the feed-forward pass."""
    values = []
    h = x
    for m in net:
        h = m(h)
        if isinstance(m, nn.Linear):
            values.append(h.detach())
    values = values[:-1]
    for _ in range(steps):
        leaves = [v.clone().requires_grad_() for v in values]
        energy, _ = energy_by_hand(net, x, y, leaves, **options)
        slopes = torch.autograd.grad(energy, leaves)
        values = [v - step_size * s for v, s in zip(values, slopes, strict=True)]
    return values


# ---- strict --------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [1.0, 0.01, 7.0])
def test_strict_is_gradient_descent_of_the_energy_and_then_its_gradient(beta):
    net, closure, (x, y) = chain()
    rule = pc.Strict(step_size=0.05, steps=6, scale=beta)
    values = descended_by_hand(net, x, y, 0.05, 6, beta=beta)
    energy, predictions = energy_by_hand(net, x, y, values, beta)
    truth = torch.autograd.grad(energy / beta, list(net.parameters()))
    *_, last = pc.infer(net, closure, rule)
    for v, (name, ours) in zip(values, last.values.items(), strict=True):
        torch.testing.assert_close(ours, v, rtol=1e-12, atol=1e-14)
        mu = predictions[list(last.values).index(name)]
        torch.testing.assert_close(
            last.errors[name], (mu - v).detach(), rtol=1e-9, atol=1e-12
        )
    assert float(last.energy) == pytest.approx(energy.item(), rel=1e-12)
    pc.backward(net, closure, rule)
    oracle.assert_same(oracle.gradients(net), list(truth), 1e-10)


@pytest.mark.parametrize(
    ("options", "local"),
    [
        ({"precision": 3.0}, lambda mu, v: 3 * (mu - v).square().sum() / 2),
        (
            {"precision": torch.tensor([1.0, 2.0, 3.0, 4.0]).double()},
            lambda mu, v: (
                (torch.tensor([1.0, 2.0, 3.0, 4.0]) * (mu - v).square()).sum() / 2
            ),
        ),
        (
            {"energy": lambda mu, v: (torch.cosh(mu - v) - 1).sum()},
            lambda mu, v: (torch.cosh(mu - v) - 1).sum(),
        ),
        (
            {"energy": lambda mu, v: F.huber_loss(v, mu, reduction="sum", delta=0.1)},
            lambda mu, v: F.huber_loss(v, mu, reduction="sum", delta=0.1),
        ),
    ],
    ids=["precision", "one precision per unit", "cosh", "huber"],
)
def test_other_local_energies_are_descended_as_they_are_written(options, local):
    net, closure, (x, y) = chain()
    rule = pc.Strict(step_size=0.02, steps=5, **options)
    values = descended_by_hand(net, x, y, 0.02, 5, local=local)
    energy, _ = energy_by_hand(net, x, y, values, local=local)
    truth = torch.autograd.grad(energy, list(net.parameters()))
    *_, last = pc.infer(net, closure, rule)
    assert float(last.energy) == pytest.approx(energy.item(), rel=1e-12)
    pc.backward(net, closure, rule)
    oracle.assert_same(oracle.gradients(net), list(truth), 1e-10)


def test_a_mapping_gives_some_vertices_an_energy_of_their_own():
    net, closure, _ = chain(depth=4)
    whole = {"0": 2.0, "2": 2.0, "4": 2.0}
    for precision in (2.0, whole, {"*": 2.0}, {"0": 5.0, "**": 2.0}):
        oracle.clear(net)
        pc.backward(net, closure, pc.Strict(0.05, 4, precision=precision))
        expected = oracle.gradients(net)
        oracle.clear(net)
        pc.backward(net, closure, pc.Strict(0.05, 4, precision=2.0))
        oracle.assert_same(oracle.gradients(net), expected, 1e-14)
    oracle.clear(net)
    pc.backward(net, closure, pc.Strict(0.05, 4, precision={"0": 5.0}))
    with pytest.raises(AssertionError):
        oracle.assert_same(oracle.gradients(net), expected, 1e-3)


def test_the_nudge_limit_is_backpropagation_and_the_learning_rate_stays():
    net, closure, _ = chain()
    found = []
    for beta in (1e-1, 1e-2, 1e-3):
        rule = pc.Strict(0.3, 400, scale=beta, tolerance=1e-10)
        found.append(pc.compare(net, closure, [rule]).rows[0]["relative_error"])
    slopes = [math.log10(a / b) for a, b in pairwise(found)]
    assert all(0.9 < s < 1.1 for s in slopes), found


def test_tolerance_stops_early_and_steps_is_the_most():
    net, closure, _ = chain()
    states = list(pc.infer(net, closure, pc.Strict(0.2, 500, tolerance=1e-3)))
    assert 5 < len(states) < 501
    assert states[-1].learned == ("0", "2", "4") and states[-2].learned == ()
    assert len(list(pc.infer(net, closure, pc.Strict(0.2, 3, tolerance=1e-9)))) == 4


def test_scale_undoes_the_mean_of_a_loss():
    net, summed, (x, _) = chain()
    mean = lambda: summed() / len(x)  # noqa: E731
    pc.backward(net, summed, pc.Strict(0.1, 5))
    expected = [g / len(x) for g in oracle.gradients(net)]
    oracle.clear(net)
    pc.backward(net, mean, pc.Strict(0.1, 5, scale=len(x)))
    oracle.assert_same(oracle.gradients(net), expected, 1e-12)


def test_small_errors_keep_their_digits_in_float32():
    """The displacement is integrated: μ - v of two numbers of order one is not."""
    net, _, (x, y) = chain()
    net, x, y = net.float(), x.float(), y.float()
    closure = lambda: 1e-6 * F.mse_loss(net(x), y, reduction="sum")  # noqa: E731
    graph = pc.Graph(net, closure)
    graph.evaluate()
    adjoints = graph.uncut().adjoints()
    for state in pc.infer(net, closure, pc.ZIL()):
        for i in state.learned:
            off = (state.errors[i] - adjoints[i]).norm() / adjoints[i].norm()
            assert float(off) < 1e-6


# ---- divergence ----------------------------------------------------------------------


def hessian(net, x, y, values, beta=1.0):
    sizes = [v.numel() for v in values]
    flat = torch.cat([v.flatten() for v in values])

    def energy(z):
        parts = [p.view_as(values[0]) for p in z.split(sizes)]
        return energy_by_hand(net, x, y, parts, beta)[0]

    return torch.autograd.functional.hessian(energy, flat)


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_the_step_size_is_two_over_the_largest_eigenvalue(beta):
    net, closure, (x, y) = chain()
    values = descended_by_hand(net, x, y, 0.1, 0)
    largest = float(torch.linalg.eigvalsh(hessian(net, x, y, values, beta))[-1])
    step = pc.cut(net, closure).step_size(pc.Strict(scale=beta))
    assert 2 / largest <= step * (1 + 1e-6)  # approached from below
    assert step < 1.05 * 2 / largest


def test_steps_below_the_limit_descend_and_steps_above_it_do_not():
    net, closure, _ = chain()
    limit = pc.cut(net, closure).step_size()
    energies = [
        float(s.energy) for s in pc.infer(net, closure, pc.Strict(0.8 * limit, 60))
    ]
    assert all(b <= a for a, b in pairwise(energies))
    energies = [
        float(s.energy) for s in pc.infer(net, closure, pc.Strict(1.3 * limit, 60))
    ]
    assert energies[-1] > energies[0]


@pytest.mark.parametrize(
    "rule", [pc.Strict(1.5, 200), pc.ErrorOptimisation(2.5, 200)], ids=label
)
def test_divergence_is_an_exception_and_leaves_no_trace(rule):
    net, closure, _ = chain(depth=6)
    net[0].weight.grad = torch.ones_like(net[0].weight)
    with pytest.raises(FloatingPointError, match=r"diverged: E .* after \d+ steps"):
        pc.backward(net, closure, rule)
    assert net[2].weight.grad is None
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    assert oracle.hooks(net) == 0


def test_the_exception_names_the_step_that_theory_allows():
    net, closure, _ = chain()
    limit = pc.cut(net, closure).step_size()
    with pytest.raises(FloatingPointError, match=f"about {limit:.2g}"):
        pc.backward(net, closure, pc.Strict(30.0, 300))


def test_a_loss_unbounded_below_is_noticed():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).double()
    x = torch.ones(2, 3).double()
    with pytest.raises(FloatingPointError, match="unbounded below"):
        pc.backward(net, lambda: -net(x).square().sum(), pc.Strict(0.1, 200, scale=9.0))


def test_infer_shows_a_divergence_until_it_overflows():
    net, closure, _ = chain()
    energies = []
    with pytest.raises(FloatingPointError, match="E is not finite"):
        for state in pc.infer(net, closure, pc.Strict(30.0, 5000)):
            energies.append(float(state.energy))
    assert max(energies) > 1e100


# ---- incremental ---------------------------------------------------------------------


def test_incremental_moves_values_and_parameters_at_once():
    net, closure, (x, y) = chain()
    twin, _, _ = chain()
    eta, lr, steps = 0.1, 0.05, 4
    values = descended_by_hand(twin, x, y, eta, 0)
    for n in range(steps + 1):
        leaves = [v.clone().requires_grad_() for v in values]
        energy, _ = energy_by_hand(twin, x, y, leaves)
        parameters = list(twin.parameters())
        slopes = torch.autograd.grad(energy, [*leaves, *parameters])
        if n < steps:
            values = [v - eta * s for v, s in zip(values, slopes, strict=False)]
        with torch.no_grad():
            for p, s in zip(parameters, slopes[len(leaves) :], strict=True):
                p -= lr * s
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    seen = []
    for state in pc.infer(net, closure, pc.Incremental(eta, steps)):
        seen.append(state.learned)
        optimizer.step()
        optimizer.zero_grad()
    assert seen == [("0", "2", "4")] * (steps + 1)
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def test_incremental_is_refused_where_one_gradient_is_asked_for():
    net, closure, _ = chain()
    with pytest.raises(TypeError, match=r"pcnotes\.fit or infer"):
        pc.backward(net, closure, pc.Incremental())
    with pytest.raises(TypeError, match=r"pcnotes\.fit or infer"):
        pc.compare(net, closure, [pc.Incremental()])
    with pytest.raises(TypeError, match=r"pcnotes\.fit or infer"):
        pc.compare(net, closure, [pc.Incremental()], own_steps=True)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    "rule", [pc.Strict(0.1, 3), pc.FixedPrediction(0.5, 3), pc.ZIL()], ids=label
)
def test_parameters_changed_between_states_are_refused(rule):
    net, closure, _ = chain()
    with pytest.raises(RuntimeError, match=r"finish inference first"):
        for _ in pc.infer(net, closure, rule):
            with torch.no_grad():
                net[0].weight.mul_(0.9)
    assert oracle.hooks(net) == 0


# ---- error optimisation --------------------------------------------------------------


def test_the_first_unit_step_in_the_errors_is_backpropagation():
    net, closure, _ = chain(depth=5)
    graph = pc.Graph(net, closure)
    graph.evaluate()
    adjoints = graph.uncut().adjoints()
    _, first, *_ = pc.infer(net, closure, pc.ErrorOptimisation(1.0, 2))
    for i in graph.hidden:
        torch.testing.assert_close(first.errors[i], adjoints[i], rtol=1e-12, atol=1e-14)
        # the values are those of the forward pass with these shifts
        torch.testing.assert_close(
            first.values[i], first.predictions[i] - first.errors[i]
        )


@pytest.mark.parametrize("beta", [1.0, 0.2])
def test_errors_and_values_have_the_same_equilibrium(beta):
    net, closure, _ = chain()
    *_, strict = pc.infer(net, closure, pc.Strict(0.3, 3000, beta, tolerance=1e-13))
    *_, errors = pc.infer(
        net, closure, pc.ErrorOptimisation(0.3, 3000, beta, tolerance=1e-13)
    )
    for i, e in strict.errors.items():
        torch.testing.assert_close(errors.errors[i], e, rtol=1e-8, atol=1e-10)
    assert float(strict.energy) == pytest.approx(float(errors.energy), rel=1e-12)


# ---- zero divergence -----------------------------------------------------------------


def test_values_move_when_their_level_is_reached_and_not_before():
    for name in ("perceptron", "recurrent_loop", "residual_stack"):
        model, closure = ZOO[name]()
        levels = pc.cut(model, closure).levels
        start = None
        for state in pc.infer(model, closure, pc.ZIL()):
            start = start or state.values
            for i, v in state.values.items():
                if "+" in i:
                    continue
                assert torch.equal(v, start[i]) == (state.step < levels[i]), i


def test_every_vertex_learns_once_at_its_level():
    model, closure = ZOO["recurrent_loop"]()
    graph = pc.cut(model, closure)
    learned = {}
    for state in pc.infer(model, closure, pc.ZIL()):
        assert not learned.keys() & set(state.learned)
        learned |= dict.fromkeys(state.learned, state.step)
    assert learned == graph.levels


def test_identity_vertices_carry_delayed_values_and_errors():
    """The smallest graph that is not graded: first → second → loss, first → loss."""
    net = Shortcut()
    x = torch.ones(2, 4).double()
    graph = pc.cut(net, lambda: net(x).square().sum())
    assert graph.identity_vertices == {"first": 1}
    states = list(pc.infer(net, lambda: net(x).square().sum(), pc.ZIL()))
    assert set(states[0].values) == {"first", "first+1", "second"}
    assert not states[0].errors["first+1"].any()
    assert states[1].errors["first+1"].any()  # its copy is told first
    assert not states[1].errors["first"].any()
    torch.testing.assert_close(
        states[1].predictions["first+1"], states[1].values["first"]
    )


def test_without_identity_vertices_the_strict_dynamics_are_never_right():
    net = Shortcut()
    x = torch.ones(2, 4).double()
    closure = lambda: net(x).square().sum()  # noqa: E731
    graph = pc.Graph(net, closure)
    graph.evaluate()
    delta = graph.uncut().adjoints()["first"]
    for state in pc.infer(net, closure, pc.Strict(1.0, 4)):
        assert float((state.errors["first"] - delta).norm() / delta.norm()) > 0.05


def test_too_many_identity_vertices_are_refused_under_infer_only(monkeypatch):
    monkeypatch.setattr(levelling, "MOST_IDENTITY_VERTICES", 5)
    model, closure = ZOO["residual_stack"]()
    with pytest.raises(ValueError, match=r"takes 6 identity vertices, more than 5"):
        next(pc.infer(model, closure, pc.ZIL()))
    pc.backward(model, closure, pc.ZIL())
    assert model[0].weight.grad is not None


# ---- rules of one's own --------------------------------------------------------------


@dataclass(frozen=True)
class Twice:
    """Learns twice: the lessons add up."""

    def run(self, graph):
        graph.evaluate()
        errors = graph.zeros()
        yield errors
        errors = graph.pull(errors)
        graph.learn(errors, loss=True)
        graph.learn(errors)
        yield errors


@dataclass(frozen=True)
class Forgetful:
    """Lets the outputs learn and forgets the hidden vertices."""

    def run(self, graph):
        graph.evaluate()
        graph.learn({}, loss=True)
        yield graph.zeros()


def test_a_rule_may_say_when_its_parameters_learn():
    net, closure, _ = chain(depth=2)
    _, truth = oracle.autograd(net, closure)
    pc.backward(net, closure, Twice())
    found = oracle.gradients(net)
    oracle.assert_same(found, [2 * truth[0], 2 * truth[1], *truth[2:]])


def test_a_rule_that_never_lets_a_vertex_learn_is_told_so():
    net, closure, _ = chain(depth=3)
    with pytest.raises(KeyError, match="never let 0, 2 learn"):
        pc.backward(net, closure, Forgetful())
    assert net[4].weight.grad is None


# ---- arguments -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: pc.Strict(0), ValueError, "step_size must be positive"),
        (lambda: pc.Strict("a"), TypeError, "step_size must be a positive number"),
        (lambda: pc.Strict(steps=0), ValueError, "steps must be at least 1"),
        (lambda: pc.Strict(steps=2.5), TypeError, "steps must be a whole number"),
        (lambda: pc.Strict(scale=-1), ValueError, "scale must be positive"),
        (lambda: pc.Strict(scale=math.inf), ValueError, "scale must be positive"),
        (lambda: pc.Strict(tolerance=0), ValueError, "tolerance must be positive"),
        (lambda: pc.Strict(precision=0.0), ValueError, "precision must be positive"),
        (
            lambda: pc.Strict(precision=torch.tensor([1.0, -1.0])),
            ValueError,
            "precision must be positive",
        ),
        (lambda: pc.Strict(energy=3), TypeError, "energy must be a function"),
        (lambda: pc.ZIL(step_size=-1), ValueError, "step_size must be positive"),
        (lambda: pc.ZIL(step_size=True), TypeError, "step_size must be a positive"),
        (lambda: pc.Incremental(steps=-1), ValueError, "steps must be at least 1"),
        (lambda: pc.ErrorOptimisation(scale=0), ValueError, "scale must be positive"),
    ],
)
def test_arguments_are_checked_when_the_rule_is_made(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"precision": {"no": 1.0}}, ValueError, "'no' names no hidden vertex"),
        (
            {"precision": 2.0, "energy": lambda mu, v: (mu - v).square().sum()},
            ValueError,
            "both precision and energy",
        ),
        ({"energy": lambda mu, v: mu - v}, TypeError, "must be a scalar tensor"),
        ({"energy": lambda mu, v: 1.0}, TypeError, "must be a scalar tensor"),
        (
            {"energy": lambda mu, v: mu.square().sum()},
            RuntimeError,
            "does not depend on both",
        ),
    ],
)
def test_what_does_not_fit_the_graph_is_said_and_nothing_is_left(options, error, words):
    net, closure, _ = chain()
    with pytest.raises(error, match=words):
        pc.backward(net, closure, pc.Strict(0.1, 3, **options))
    assert oracle.hooks(net) == 0 and net[0].weight.grad is None


def test_a_rule_is_printed_as_one_would_write_it():
    assert label(pc.Strict()) == "Strict()"
    assert label(pc.Strict(0.1, scale=0.5)) == "Strict(scale=0.5)"
    assert (
        label(pc.FixedPrediction(0.5, 3)) == "FixedPrediction(step_size=0.5, steps=3)"
    )
    assert label(pc.Strict(precision=torch.ones(2))).startswith("Strict(precision=")
