"""Bad input: a fitting exception that names the argument, and nothing left behind."""

import oracle
import pytest
import torch
from torch import nn

import pcnotes as pc

CALLS = {
    "backward": lambda *a, **k: pc.backward(*a, **k),
    "infer": lambda *a, **k: list(pc.infer(*a, **k)),
    "cut": lambda model, closure, rule=None, **k: pc.cut(model, closure, **k),
    "compare": lambda m, c, rule=None, **k: pc.compare(
        m, c, [pc.FixedPrediction()], **k
    ),
}


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)
    )
    model[0].weight.grad = torch.full_like(model[0].weight, 3.0)
    return model


@pytest.fixture
def x():
    return torch.randn(6, 3)


@pytest.fixture(params=CALLS)
def refuses(request, net):
    """Call, expect the exception, and hold the model to what it was."""

    def check(kind, words, closure, model=net, **options):
        buffers, gradients = oracle.buffers(net), oracle.gradients(net)
        grad, random_state = net[0].weight.grad, torch.get_rng_state()
        with pytest.raises(kind, match=words):
            CALLS[request.param](model, closure, **options)
        assert oracle.hooks(net) == 0
        assert net[0].weight.grad is grad
        for a, b in zip(oracle.gradients(net), gradients, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)
        for a, b in zip(oracle.buffers(net), buffers, strict=True):
            assert torch.equal(a, b)
        assert torch.equal(torch.get_rng_state(), random_state)

    return check


def test_closure_that_returns_nothing(refuses, net, x):
    refuses(
        TypeError,
        "closure must return the scalar loss.*NoneType",
        lambda: print(end=str(net(x))[:0]),
    )


def test_closure_that_returns_a_tuple(refuses, net, x):
    refuses(TypeError, "scalar loss.*tuple", lambda: (net(x).sum(), 0))


def test_closure_that_returns_a_number(refuses, net, x):
    refuses(TypeError, "scalar loss.*float", lambda: net(x).sum().item())


def test_closure_that_returns_a_vector(refuses, net, x):
    refuses(ValueError, r"scalar loss.*shape \(6,\)", lambda: net(x).sum(1))


def test_closure_that_returns_an_integer(refuses, net, x):
    refuses(TypeError, "floating-point.*int64", lambda: net(x).argmax())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite(refuses, net, x, value):
    refuses(FloatingPointError, f"not finite.*{value}", lambda: net(x).sum() * value)


def test_loss_without_gradient(refuses, net, x):
    refuses(RuntimeError, "does not require grad", lambda: net(x).sum().detach())


def test_closure_that_calls_backward(refuses, net, x):
    def closure():
        loss = net(x).sum()
        loss.backward(retain_graph=True)
        return loss

    refuses(RuntimeError, r"closure called backward\(\)", closure)


def test_closure_that_clears_the_gradients(refuses, net, x):
    def closure():
        net.zero_grad()
        return net(x).sum()

    refuses(RuntimeError, "closure changed .grad", closure)


def test_closure_that_clears_the_gradients_in_place(refuses, net, x):
    def closure():
        net.zero_grad(set_to_none=False)
        return net(x).sum()

    refuses(RuntimeError, "closure changed .grad", closure)


def test_closure_that_raises(refuses, net, x):
    def closure():
        net(x).sum()
        sum(p.sum() for p in net.parameters()).backward()
        raise KeyError("mine")

    refuses(KeyError, "mine", closure)


def test_model_that_is_never_called(refuses):
    w = torch.ones(3, requires_grad=True)
    refuses(RuntimeError, "no vertex was called", lambda: w.sum())


def test_closure_that_is_no_function(refuses):
    refuses(TypeError, "closure must be a function", torch.ones(1))


def test_model_that_is_no_module(refuses, net, x):
    refuses(
        TypeError, "model must be a torch.nn.Module", lambda: net(x).sum(), model="net"
    )
    refuses(TypeError, "empty list", lambda: net(x).sum(), model=[])


@pytest.mark.parametrize(
    ("at", "kind", "words"),
    [
        ("layer9", ValueError, "matches no module.*include"),
        (nn.Conv2d, ValueError, "matches no module"),
        (nn.Linear(1, 1), ValueError, "matches no module"),
        (lambda name, module: False, ValueError, "matches no module"),
        ([], ValueError, "empty list"),
        (3, TypeError, "at= takes module names"),
        (int, TypeError, "at= takes module names"),
        (["0", 3], TypeError, "at= takes module names"),
    ],
)
def test_at_that_matches_nothing_or_is_nothing(refuses, net, x, at, kind, words):
    refuses(kind, words, lambda: net(x).sum(), at=at)


def test_gradients_disabled(refuses, net, x):
    with torch.no_grad():
        refuses(RuntimeError, "gradients are disabled", lambda: net(x).sum())
    with torch.inference_mode():
        refuses(RuntimeError, "gradients are disabled", lambda: net(x).sum())


def test_nested_calls(refuses, net, x):
    def closure():
        pc.backward(net, lambda: net(x).sum())
        return net(x).sum()

    refuses(RuntimeError, "from inside a closure", closure)


def test_after_a_refusal_the_next_call_works(net, x):
    with pytest.raises(TypeError):
        pc.backward(net, lambda: None)
    pc.backward(net, lambda: net(x).sum())


@pytest.mark.parametrize("rule", [None, 0.1, pc.FixedPrediction, "FixedPrediction"])
@pytest.mark.parametrize("call", [pc.backward, pc.infer])
def test_what_is_no_rule(net, x, rule, call):
    if rule is None:
        return  # the default
    with pytest.raises(TypeError, match="rule must be a rule"):
        call(net, lambda: net(x).sum(), rule)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": -1}, ValueError, "steps must be at least 1, got -1"),
        ({"steps": 1.5}, TypeError, "steps must be a whole number, got 1.5"),
        ({"steps": True}, TypeError, "steps must be a whole number"),
        ({"step_size": 0}, ValueError, "step_size must be positive and finite, got 0"),
        ({"step_size": -0.1}, ValueError, "step_size must be positive"),
        ({"step_size": float("nan")}, ValueError, "step_size must be positive"),
        ({"step_size": float("inf")}, ValueError, "step_size must be positive"),
        ({"step_size": "1"}, TypeError, "step_size must be a positive number"),
        ({"step_size": None}, TypeError, "step_size must be a positive number"),
        ({"step_size": [0.5, 0]}, ValueError, "step_size must be positive"),
        ({"step_size": []}, ValueError, "one step size per step"),
        ({"step_size": [0.5, 1], "steps": 3}, ValueError, "one step size per step"),
    ],
)
def test_settings_of_fixed_prediction(options, kind, words):
    with pytest.raises(kind, match=words):
        pc.FixedPrediction(**options)


def test_steps_that_blow_up_are_refused_with_the_reason():
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    net[0].weight.grad = torch.ones(2, 2)
    x = torch.ones(1, 2)
    with pytest.raises(FloatingPointError, match="fp-stability"):
        pc.backward(net, lambda: net(x).sum(), pc.FixedPrediction(2.5, 60))
    assert torch.equal(net[0].weight.grad, torch.ones(2, 2))


def test_errors_that_overflow_are_refused():
    class Explodes:
        def run(self, graph):
            graph.evaluate()
            yield {i: e + float("inf") for i, e in graph.zeros().items()}

    net, x = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), torch.ones(1, 2)
    with pytest.raises(FloatingPointError, match="errors of 0 are not finite"):
        pc.backward(net, lambda: net(x).sum(), Explodes())
    assert net[0].weight.grad is None


def test_a_rule_that_yields_nothing_or_wrong_names_or_shapes():
    net, x = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), torch.ones(1, 2)

    def rule(yields):
        class Bad:
            def run(self, graph):
                graph.evaluate()
                yield from yields

        return Bad()

    for yields, kind, words in [
        ([], ValueError, "yielded no errors"),
        ([{"7": torch.ones(1, 2)}], KeyError, "'7' is no vertex"),
        ([{"0": torch.ones(3)}], ValueError, r"error of '0' has shape \(3,\)"),
        ([{}], KeyError, "no error for hidden vertices 0"),
    ]:
        with pytest.raises(kind, match=words):
            pc.backward(net, lambda: net(x).sum(), rule(yields))
        with pytest.raises(kind, match=words):
            list(pc.infer(net, lambda: net(x).sum(), rule(yields)))


def test_values_that_do_not_fit():
    net, x = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), torch.ones(1, 2)
    graph = pc.cut(net, lambda: net(x).sum())
    with pytest.raises(KeyError, match="'1' has no free value"):
        graph.evaluate({"1": torch.ones(1, 2)})
    with pytest.raises(ValueError, match="shape"):
        graph.evaluate({"0": torch.ones(5)})


def test_a_closure_that_does_something_else_each_time(x):
    net, turns = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), []

    def closure():
        turns.append(1)
        return net(x).sum() if len(turns) == 1 else net[1](x).sum()

    graph = pc.cut(net, closure)
    with pytest.raises(RuntimeError, match="other modules than in its first"):
        graph.evaluate({"0": torch.ones(6, 3)})


def test_digits_say_what_is_missing(monkeypatch):
    from pcnotes import data

    with pytest.raises(ValueError, match=r"1\.\.1797"):
        data.digits(0)
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pcnotes\[data\]"):
        data.digits()


def test_an_output_that_is_modified_under_another_name():
    """h and y are one tensor to PyTorch; after a cut they would drift apart."""
    first, same, last = nn.Linear(2, 2), nn.Identity(), nn.Linear(2, 1)
    x = torch.ones(1, 2)

    def closure():
        h = first(x)
        y = same(h)
        h.mul_(2)
        return last(y).square().sum()

    net = nn.Sequential(first, same, last)
    with pytest.raises(RuntimeError, match="'1' was modified in place under another"):
        pc.backward(net, closure, at="*")
    _, truth = oracle.autograd(net, closure)
    pc.backward(net, closure)  # cut at the linear layers nothing drifts
    oracle.assert_same(oracle.gradients(net), truth, 1e-6)


def test_gradients_inside_the_closure_are_refused_where_they_would_end_at_a_cut(
    refuses,
):
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.ones(3, 2)

    def penalty():
        z = x.clone().requires_grad_()
        y = (net(z) + z.square().sum(-1, keepdim=True)).sum()
        (g,) = torch.autograd.grad(y, z, create_graph=True)
        return (g.norm(dim=-1) - 1).square().mean()

    refuses(RuntimeError, "double backward is not supported", penalty, model=net)
    # a gradient of something else is the closure's own business
    pc.backward(net, lambda: net(x).sum() + _slope_of_a_square(x).sum())


def _slope_of_a_square(x):
    z = x.clone().requires_grad_()
    return torch.autograd.grad(z.square().sum(), z)[0]


def test_an_interrupt_leaves_the_model_as_it_was(net, x):
    before, random_state = oracle.buffers(net), torch.get_rng_state()

    def closure():
        net(x)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pc.backward(net, closure)
    assert oracle.hooks(net) == 0
    for a, b in zip(oracle.buffers(net), before, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("gradient", ["2", [1.0], torch.ones(3), True, 1j])
def test_gradient_that_is_no_number(net, x, gradient):
    with pytest.raises(TypeError, match="gradient must be a number or a 0-d tensor"):
        pc.backward(net, lambda: net(x).sum(), gradient=gradient)


@pytest.mark.parametrize("model", [None, lambda: 0, nn.Linear, iter([])])
def test_models_that_are_none(model):
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        pc.backward(model, lambda: torch.ones((), requires_grad=True))


def test_infer_refuses_what_is_not_finite_too():
    net, x = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3))), torch.ones(1, 2)
    with pytest.raises(FloatingPointError, match="not finite: inference diverged"):
        list(pc.infer(net, lambda: net(x).sum(), pc.FixedPrediction(3.0, 400)))


def test_a_rule_that_forgets_to_evaluate_or_yields_no_mapping():
    class Hasty:
        def run(self, graph):
            yield graph.zeros()

    class Silent:
        def run(self, graph):
            graph.evaluate()
            yield None

    net, x = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), torch.ones(1, 2)
    with pytest.raises(RuntimeError, match=r"call graph.evaluate\(\) first"):
        pc.backward(net, lambda: net(x).sum(), Hasty())
    with pytest.raises(TypeError, match=r"must yield mappings .* it yielded None"):
        pc.backward(net, lambda: net(x).sum(), Silent())


@pytest.mark.parametrize("option", ["static_graph", "find_unused_parameters"])
def test_distributed_wrappers_that_walk_the_graph_are_refused(x, option):
    class DistributedDataParallel(nn.Module):  # stands for torch's
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(3, 2)
            setattr(self, option, True)

    wrapped = DistributedDataParallel()
    with pytest.raises(ValueError, match="would not be synchronised"):
        pc.backward(wrapped, lambda: wrapped.module(x).sum())
