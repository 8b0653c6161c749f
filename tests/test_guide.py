"""What the guide (book/practice/your-model.md) says: its code runs, its tables hold.

The rows on other packages are checked where PCNOTES_PEERS names their checkouts.
"""

import importlib
import os
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

import pcnotes as pc

GUIDE = Path(__file__).resolve().parent.parent / "book/practice/your-model.md"
LINEAR = [
    pc.Backprop(),
    pc.Exact(),
    pc.ZIL(),
    pc.ZIL(step_size=0.7),
    pc.FixedPrediction(),
    pc.FixedPrediction(step_size=0.5, steps=4),
]
NOT_LINEAR = [pc.Strict, pc.ErrorOptimisation]
BATCH = 6


def chain():
    """Three layers, two of them hidden; x and y."""
    torch.manual_seed(0)
    layers = nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3)
    x, y = torch.randn(BATCH, 4), torch.randn(BATCH, 3)
    return nn.Sequential(*layers).double(), x.double(), y.double()


def squared(model, x, y, reduction="sum"):
    return lambda: nn.functional.mse_loss(model(x), y, reduction=reduction)


def gradient(model, closure, rule, **options):
    model.zero_grad()
    pc.backward(model, closure, rule, **options)
    return grads(model)


def grads(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def assert_close(ours, theirs, tolerance=1e-12):
    assert float((ours - theirs).norm() / theirs.norm()) < tolerance


def test_the_code_of_the_guide_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 4
    model, x, y = chain()
    names = {
        "pc": pc,
        "model": model,
        "x": x,
        "y": y,
        "rule": pc.Exact(),
        "loss_fn": nn.functional.mse_loss,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
        "batches": [(x, y)],
        "accuracy": lambda model: float((model(x) - y).abs().mean()),
        "closure": squared(model, x, y),
    }
    losses = []
    for block in blocks:
        exec(block, names)
        losses.append(float(names["loss"].detach()))
    assert losses[0] > losses[1]
    assert len(names["history"].epochs) == 5
    assert "{'0': 2, '2': 1, '4': 0}\n2 True" in capsys.readouterr().out


@pytest.mark.parametrize("rule", LINEAR, ids=str)
def test_a_factor_of_the_loss_is_a_factor_of_the_gradient_of_linear_rules(rule):
    model, x, y = chain()
    once = gradient(model, squared(model, x, y), rule)
    inside = gradient(model, lambda: 7 * squared(model, x, y)(), rule)
    outside = gradient(model, squared(model, x, y), rule, gradient=7)
    assert_close(inside, 7 * once)
    assert_close(outside, 7 * once)


@pytest.mark.parametrize("kind", NOT_LINEAR)
def test_a_factor_of_the_loss_is_a_scale_for_the_other_rules(kind):
    model, x, y = chain()
    inside = gradient(model, lambda: 3 * squared(model, x, y)(), kind(scale=0.5))
    apart = gradient(model, squared(model, x, y), kind(scale=1.5), gradient=3)
    assert_close(inside, apart)
    once = gradient(model, squared(model, x, y), kind(scale=0.5))
    assert float((inside - 3 * once).norm() / once.norm()) > 1e-2


def test_a_factor_of_the_loss_is_a_scale_under_incremental_too():
    model, x, y = chain()
    found = []
    for factor, scale in [(3, 0.5), (1, 1.5)]:
        closure, rule = squared(model, x, y), pc.Incremental(steps=3, scale=scale)
        model.zero_grad()
        for _ in pc.infer(model, lambda c=closure, f=factor: f * c(), rule):
            pass
        found.append(grads(model))
    assert_close(found[0], 3 * found[1])


@pytest.mark.parametrize("kind", NOT_LINEAR)
def test_a_mean_with_scale_b_is_a_sum_with_gradient_one_over_b(kind):
    model, x, y = chain()

    def mean():
        return squared(model, x, y)() / BATCH

    restored = gradient(model, mean, kind(scale=BATCH))
    summed = gradient(model, squared(model, x, y), kind(), gradient=1 / BATCH)
    assert_close(restored, summed)


def test_another_step_of_zil_is_a_power_level_by_level():
    model, x, y = chain()
    bp = gradient(model, squared(model, x, y), pc.Backprop())
    ours = gradient(model, squared(model, x, y), pc.ZIL(step_size=0.7))
    sizes = [sum(p.numel() for p in model[k].parameters()) for k in (0, 2, 4)]
    for level, a, b in zip((2, 1, 0), ours.split(sizes), bp.split(sizes), strict=True):
        assert_close(a, 0.7**level * b)


# The rule, and who learns at which state on a chain of depth 2.
ALL = {"0", "2", "4"}
LEARNED = [
    (pc.Backprop(), [set(), ALL]),
    (pc.Exact(), [{"4"}, {"2"}, {"0"}]),
    (pc.ZIL(), [{"4"}, {"2"}, {"0"}]),
    (pc.FixedPrediction(), [set(), set(), ALL]),
    (pc.FixedPrediction(step_size=0.5, steps=3), [set(), set(), set(), ALL]),
    (pc.Strict(steps=3), [set(), set(), set(), ALL]),
    (pc.ErrorOptimisation(steps=3), [set(), set(), set(), ALL]),
    (pc.Incremental(steps=2), [ALL, ALL, ALL]),
]


@pytest.mark.parametrize(("rule", "learned"), LEARNED, ids=[str(r) for r, _ in LEARNED])
def test_states_and_who_learns_at_which(rule, learned):
    model, x, y = chain()
    states = list(pc.infer(model, squared(model, x, y), rule))
    assert [set(state.learned) for state in states] == learned
    assert not any(states[0].errors[i].any() for i in ("0", "2"))


@pytest.mark.parametrize(
    "rule", [r for r, _ in LEARNED if isinstance(r, pc.FixedPrediction | pc.Exact)]
)
def test_under_frozen_predictions_a_value_is_the_feedforward_one_less_its_error(rule):
    model, x, y = chain()
    for state in pc.infer(model, squared(model, x, y), rule):
        forward = {"0": model[0](x), "2": model[:3](x)}
        for i, v in state.values.items():
            assert torch.equal(v, forward[i].detach() - state.errors[i])


@pytest.mark.parametrize(
    "rule",
    [pc.ZIL(), pc.Strict(scale=0.3), pc.Incremental(), pc.ErrorOptimisation()],
    ids=str,
)
def test_under_live_predictions_an_error_is_prediction_at_these_values_less_value(rule):
    model, x, y = chain()
    for state in pc.infer(model, squared(model, x, y), rule):
        v = state.values
        live = {"0": model[0](x), "2": model[2](torch.tanh(v["0"]))}
        for i in v:
            assert_near(state.errors[i], live[i].detach() - v[i])


def assert_near(ours, theirs):
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", NOT_LINEAR)
def test_parameters_learn_from_the_energy_at_the_last_values(kind):
    model, x, y = chain()
    rule = kind(scale=0.3, steps=4)
    *_, state = pc.infer(model, squared(model, x, y), rule)
    first, second = state.values["0"], state.values["2"]
    local = (model[0](x) - first).square().sum()
    local = local + (model[2](torch.tanh(first)) - second).square().sum()
    loss = (model[4](torch.tanh(second)) - y).square().sum()
    truth = torch.autograd.grad(local / 2 / 0.3 + loss, list(model.parameters()))
    ours = gradient(model, squared(model, x, y), rule)
    assert_close(ours, torch.cat([g.flatten() for g in truth]))


def test_parameters_learn_at_the_feedforward_pass_under_fixed_prediction():
    model, x, y = chain()
    rule = pc.FixedPrediction(step_size=0.5, steps=3)
    *_, state = pc.infer(model, squared(model, x, y), rule)
    first, second = model[0](x), model[2](torch.tanh(model[0](x).detach()))
    loss = (model[4](torch.tanh(second.detach())) - y).square().sum()
    told = (first * state.errors["0"]).sum() + (second * state.errors["2"]).sum()
    truth = torch.autograd.grad(told + loss, list(model.parameters()))
    ours = gradient(model, squared(model, x, y), rule)
    assert_close(ours, torch.cat([g.flatten() for g in truth]))


def test_errors_taken_before_the_last_update_lag_by_one_step():
    """Why n steps in Torch2PC are n - 1 here: its order of operations, by hand."""
    model, x, y = chain()
    hats = [model[: k + 1](x) for k in range(5)]
    last = torch.autograd.grad((hats[4] - y).square().sum(), hats[4])[0]
    values, (eta, n) = [hat.detach() for hat in hats[:4]], (0.3, 6)
    for _ in range(n):
        errors = [h.detach() - v for h, v in zip(hats[:4], values, strict=True)]
        for k, error in enumerate(errors):
            parent = hats[k].detach().requires_grad_()
            child = (*errors, last)[k + 1]
            asked = torch.autograd.grad(model[k + 1](parent), parent, child)[0]
            values[k] = values[k] + eta * (error - asked)
    rule = pc.FixedPrediction(step_size=eta, steps=n - 1)
    *_, state = pc.infer(model, squared(model, x, y), rule, at="*")
    for k, error in enumerate(errors):
        assert_near(state.errors[str(k)], error)


def peer(marker, module):
    """A module of the checkout that has this file, or a skip."""
    paths = os.environ.get("PCNOTES_PEERS", "").split(os.pathsep)
    found = [path for path in paths if path and (Path(path) / marker).exists()]
    if not found:
        pytest.skip(f"PCNOTES_PEERS names no checkout with {marker}")
    sys.path.insert(0, found[0])
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(found[0])


def test_torch2pc_migrates():
    torch2pc = peer("TorchSeq2PC.py", "TorchSeq2PC")
    model, x, y = chain()

    def theirs(*arguments):
        model.zero_grad()
        torch2pc.PCInfer(model, nn.MSELoss(reduction="sum"), x, y, *arguments)
        return grads(model)

    def ours(rule):
        return gradient(model, squared(model, x, y), rule, at="*")

    assert_close(ours(pc.Exact()), theirs("Exact"))
    for eta, n in [(0.3, 7), (1.0, 5), (1.0, 3)]:
        assert_close(ours(pc.FixedPrediction(eta, n - 1)), theirs("FixedPred", eta, n))
    far = ours(pc.Strict(0.1, 20)) - theirs("Strict", 0.1, 20)
    near = ours(pc.Strict(0.1, 600)) - theirs("Strict", 0.1, 600)
    assert near.norm() < 1e-6 < 1e-3 < far.norm()


def test_preco_migrates():
    pcn = peer("PRECO/PCN.py", "PRECO.PCN")
    torch.manual_seed(0)
    widths = [4, 5, 5, 3]
    structure = pcn.PCN_AMB(f=pcn.tanh, use_bias=True, upward=True, layers=widths)
    net = pcn.PCnet(lr_x=0.1, T_train=12, structure=structure)
    net.set_optimizer(type("Idle", (), {"step": lambda self, *a, **options: None})())
    x, labels = torch.randn(BATCH, 4), torch.randint(3, (BATCH,))
    with torch.no_grad():
        net.train_supervised(x, labels)

    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    with torch.no_grad():
        for layer, w, b in zip(layers, net.w, net.b, strict=False):
            layer.weight.copy_(w.T)
            layer.bias.copy_(b)
    model = nn.Sequential(*(part for layer in layers for part in (nn.Tanh(), layer)))
    onehot = nn.functional.one_hot(labels, 3).float()

    def closure():
        return 0.5 * (model(x) - onehot).square().sum()

    pc.backward(model, closure, pc.Strict(step_size=0.1, steps=12))
    for layer, dw, db in zip(layers, net.dw, net.db, strict=False):
        assert_close(layer.weight.grad, dw.T, 1e-5)  # theirs is always float32
        assert_close(layer.bias.grad, db, 1e-5)
