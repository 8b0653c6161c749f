"""fit: PyTorch's own loop, with a rule's gradients."""

import json
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pcnotes as pc


def problem(dropout=0.0):
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2)
    )
    x = torch.randn(32, 4)
    return net.double(), x.double(), (x[:, :2] * x[:, 2:]).double()


def pairs(x, y):
    return list(zip(x.split(8), y.split(8), strict=True))


def by_hand(net, batches, make, epochs):
    optimizer = make(net.parameters())
    losses = []
    for _ in range(epochs):
        found = []
        for x, y in batches:

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = F.mse_loss(net(x), y)
                loss.backward()
                return loss

            found.append(float(optimizer.step(closure).detach()))
        losses.append(sum(found) / len(found))
    return losses


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fit_is_the_loop_one_would_write(name):
    net, x, y = problem()
    losses = by_hand(net, pairs(x, y), OPTIMIZERS[name], 3)
    twin, x, y = problem()
    optimizer = OPTIMIZERS[name](twin.parameters())
    history = pc.fit(
        twin, pairs(x, y), F.mse_loss, optimizer, rule=pc.Exact(), epochs=3,
        progress=False,
    )  # fmt: skip
    assert history["epoch"] == [1, 2, 3]
    assert history["loss"] == pytest.approx(losses, rel=1e-10)
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)


def test_the_seed_decides_shuffling_and_dropout_and_is_put_back():
    found = []
    for _ in range(2):
        net, x, y = problem(dropout=0.5)
        loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[2]
        history = pc.fit(
            net, loader, F.mse_loss, torch.optim.SGD(net.parameters(), lr=0.1),
            rule=pc.ZIL(), epochs=2, seed=5, progress=False,
        )  # fmt: skip
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (random.getstate(), np.random.get_state()[2]) == before[1:]
        found.append(history["loss"])
        torch.randn(3)
    assert found[0] == found[1]


def test_patience_stops_when_nothing_gets_better():
    net, x, y = problem()
    values = iter([3.0, 1.0, 2.0, 2.0, 0.5, 0.1])
    options = {"rule": pc.Exact(), "epochs": 6, "patience": 2, "progress": False}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    history = pc.fit(
        net, pairs(x, y), F.mse_loss, optimizer,
        evaluate=lambda model: {"error": next(values)}, **options,
    )  # fmt: skip
    assert history["error"] == [3.0, 1.0, 2.0, 2.0]
    assert (history.best, history.stopped) == (2, True)
    assert "stopped by patience" in str(history)
    values = iter([1.0, 2.0, 3.0, 1.0, 1.0, 9.0])
    history = pc.fit(
        net, pairs(x, y), F.mse_loss, optimizer,
        evaluate=lambda model: next(values), maximize=True, **options,
    )  # fmt: skip
    assert history["evaluation"] == [1.0, 2.0, 3.0, 1.0, 1.0]
    assert history.best == 3
    assert json.loads(json.dumps(history.to_dict()))["best"] == 3


def test_evaluation_runs_in_its_own_mode_and_modes_are_put_back():
    net, x, y = problem(dropout=0.5)
    net[0].eval()
    seen = []

    def evaluate(model):
        seen.append((model.training, model[0].training, torch.is_grad_enabled()))
        return torch.tensor(1.0)

    def loss_fn(prediction, y):
        seen.append((net.training, net[0].training, torch.is_grad_enabled()))
        return F.mse_loss(prediction, y)

    pc.fit(
        net, pairs(x, y)[:1], loss_fn, torch.optim.SGD(net.parameters(), lr=0.1),
        rule=pc.Exact(), epochs=1, evaluate=evaluate, progress=False,
    )  # fmt: skip
    assert seen == [(True, True, True), (False, False, False)]
    assert not net[0].training and net.training


def test_incremental_steps_the_optimizer_at_every_state():
    net, x, y = problem()
    steps = []

    class Counted(torch.optim.SGD):
        def step(self, closure=None):
            steps.append(1)
            return super().step(closure)

    optimizer = Counted(net.parameters(), lr=0.05)
    history = pc.fit(
        net, pairs(x, y), F.mse_loss, optimizer, rule=pc.Incremental(0.1, 4),
        epochs=2, progress=False,
    )  # fmt: skip
    assert len(steps) == 2 * 4 * 5
    assert history["loss"][1] < history["loss"][0]
    assert all(p.grad is None for p in net.parameters())


def test_a_progress_bar_shows_the_epoch(capsys):
    net, x, y = problem()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    pc.fit(net, pairs(x, y), F.mse_loss, optimizer, rule=pc.Exact(), epochs=2)
    captured = capsys.readouterr()
    assert "epoch 2/2" in captured.err and captured.out == ""


BAD = {
    "a list of models": (
        {"model": [nn.Linear(1, 1)]}, TypeError, "fit trains one module",
    ),
    "no rule": ({"rule": pc.Exact}, TypeError, "rule must be a rule"),
    "no optimizer": ({"optimizer": 3}, TypeError, "one of torch.optim"),
    "no epochs": ({"epochs": 0}, ValueError, "epochs must be at least 1"),
    "half an epoch": ({"epochs": 0.5}, TypeError, "epochs must be a whole number"),
    "no batches": ({"batches": 3}, TypeError, "batches must be an iterable"),
    "empty batches": ({"batches": []}, ValueError, "nothing in epoch 1: it is empty"),
    "triples": ({"batches": [(1, 2, 3)]}, TypeError, "one of them has '3 parts'"),
    "patience alone": ({"patience": 2}, ValueError, "give evaluate="),
    "a word for a number": (
        {"evaluate": lambda m: "good"}, TypeError, "'good' for 'evaluation'",
    ),
    "nan": ({"evaluate": lambda m: float("nan")}, FloatingPointError, "nan"),
    "a name that is taken": (
        {"evaluate": lambda m: {"loss": 1.0}}, ValueError, "other than epoch and loss",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    options, error, words = BAD[name]
    net, x, y = problem()
    arguments = {
        "model": net,
        "batches": pairs(x, y),
        "loss_fn": F.mse_loss,
        "optimizer": torch.optim.SGD(net.parameters(), lr=0.1),
        "rule": pc.Exact(),
        "epochs": 1,
        "progress": False,
    }
    with pytest.raises(error, match=words):
        pc.fit(**{**arguments, **options})


def test_a_generator_that_is_used_up_is_named():
    net, x, y = problem()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="epoch 2: it is empty, or a generator"):
        pc.fit(
            net, iter(pairs(x, y)), F.mse_loss, optimizer, rule=pc.Exact(), epochs=2,
            progress=False,
        )  # fmt: skip


def test_lbfgs_is_refused_for_incremental():
    net, x, y = problem()
    optimizer = torch.optim.LBFGS(net.parameters())
    with pytest.raises(TypeError, match="LBFGS needs one gradient"):
        pc.fit(net, pairs(x, y), F.mse_loss, optimizer, rule=pc.Incremental(), epochs=1)
