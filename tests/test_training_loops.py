"""Training loops as people write them: the weights after N steps are those of BP.

Every loop runs twice on the same model, once with `loss.backward()` and once with
`pc.backward` in its place, in float64.
"""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from every_rule import EVERY, go_back
from torch import nn

import pcnotes as pc

pytestmark = pytest.mark.usefixtures("double")
STEPS = 4


def network():
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 6), nn.Linear(6, 3)
    )


def batches(count=STEPS, rows=6):
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(rows, 4, generator=draw), torch.arange(rows) % 3)
        for _ in range(count)
    ]


def assert_same_weights(train, exact, tolerance=1e-9):
    """`train(net, backward)` twice, from the same weights and random state."""
    ours, theirs = network(), network()
    for net, rule in ((ours, exact), (theirs, None)):
        torch.manual_seed(0)
        train(net, lambda *a, rule=rule, **k: go_back(*a, rule=rule, **k))
    for a, b in zip(weights(theirs), weights(network()), strict=True):
        assert float((a - b).norm()) > 1e-6  # there was something to learn
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def weights(net):
    return [p.detach() for p in net.parameters()]


def plain_loop(make_optimizer, before_step=lambda net: None, after=lambda *a: None):
    def train(net, backward):
        optimizer = make_optimizer(net.parameters())
        for x, y in batches():
            optimizer.zero_grad()
            loss = backward(net, lambda x=x, y=y: F.cross_entropy(net(x), y))
            before_step(net)
            optimizer.step()
            after(optimizer, loss)

    return train


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(
        p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01
    ),
    "Adam": lambda p: torch.optim.Adam(p, 0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01, foreach=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.01),
    "Adadelta": lambda p: torch.optim.Adadelta(p, 0.1),
    "Adamax": lambda p: torch.optim.Adamax(p, 0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, 0.01),
    "ASGD": lambda p: torch.optim.ASGD(p, 0.1),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_take_the_same_steps(exact, name):
    assert_same_weights(plain_loop(OPTIMIZERS[name]), exact)


def test_lbfgs_calls_us_in_its_own_closure(exact):
    """LBFGS's closure clears, goes back and returns the loss; ours is inside of it."""

    def train(net, backward):
        net.eval()
        optimizer = torch.optim.LBFGS(
            net.parameters(), 0.5, max_iter=5, line_search_fn="strong_wolfe"
        )
        ((x, y),) = batches(1)

        def evaluate():
            optimizer.zero_grad()
            return backward(net, lambda: F.cross_entropy(net(x), y))

        for _ in range(STEPS):
            optimizer.step(evaluate)

    assert_same_weights(train, exact, 1e-7)


def test_sparse_adam_moves_only_the_rows_that_were_looked_up(exact):
    def train(rule):
        torch.manual_seed(7)
        embed, last = nn.Embedding(9, 4, sparse=True), nn.Linear(4, 2)
        before = embed.weight.detach().clone()
        optimizer = torch.optim.SparseAdam(embed.parameters(), 0.01)
        for tokens in torch.tensor([[1, 2, 2], [2, 5, 1]]):
            optimizer.zero_grad()
            go_back([embed, last], lambda t=tokens: last(embed(t)).cos().sum(), rule)
            optimizer.step()
        moved = (embed.weight != before).any(1).nonzero().flatten().tolist()
        assert moved == [1, 2, 5]
        return embed.weight.detach()

    torch.testing.assert_close(train(exact), train(None), rtol=1e-9, atol=1e-12)


def test_an_optimizer_that_steps_inside_backward(exact):
    """Post-accumulate hooks: each parameter learns once, as soon as it has its all."""

    def train(net, backward):
        own = {p: torch.optim.SGD([p], 0.1) for p in net.parameters()}

        def learn(p):
            own[p].step()
            own[p].zero_grad()

        for p in own:
            p.register_post_accumulate_grad_hook(learn)
        for x, y in batches():
            backward(net, lambda x=x, y=y: F.cross_entropy(net(x), y))
        assert all(p.grad is None for p in net.parameters())

    assert_same_weights(train, exact)


@pytest.mark.parametrize(
    "clip",
    [
        lambda net: nn.utils.clip_grad_norm_(net.parameters(), 0.1),
        lambda net: nn.utils.clip_grad_value_(net.parameters(), 0.01),
    ],
    ids=["norm", "value"],
)
def test_gradients_can_be_clipped_before_the_step(exact, clip):
    assert_same_weights(plain_loop(OPTIMIZERS["SGD"], before_step=clip), exact)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.3, total_steps=STEPS),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    ],
    ids=["StepLR", "OneCycleLR", "CosineAnnealingWarmRestarts"],
)
def test_learning_rates_can_be_scheduled(exact, schedule):
    def train(net, backward):
        optimizer = OPTIMIZERS["momentum"](net.parameters())
        scheduler = schedule(optimizer)
        for x, y in batches():
            optimizer.zero_grad()
            backward(net, lambda x=x, y=y: F.cross_entropy(net(x), y))
            optimizer.step()
            scheduler.step()

    assert_same_weights(train, exact)


def test_a_scheduler_may_watch_the_loss_that_is_returned(exact):
    def train(net, backward):
        optimizer = OPTIMIZERS["SGD"](net.parameters())
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, patience=0, threshold=0.5
        )
        for x, y in batches():
            optimizer.zero_grad()
            loss = backward(net, lambda x=x, y=y: F.cross_entropy(net(x), y))
            optimizer.step()
            plateau.step(loss)
        assert optimizer.param_groups[0]["lr"] < 0.1

    assert_same_weights(train, exact)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_cleared_gradients_start_again_from_zero(exact, set_to_none):
    def train(net, backward):
        optimizer = OPTIMIZERS["momentum"](net.parameters())
        for x, y in batches():
            backward(net, lambda x=x, y=y: F.cross_entropy(net(x), y))
            optimizer.step()
            optimizer.zero_grad(set_to_none=set_to_none)

    assert_same_weights(train, exact)


@pytest.mark.parametrize("place", ["in the closure", "gradient="])
def test_gradients_of_small_batches_accumulate_to_that_of_the_joined_one(exact, place):
    net, k = network().eval(), 4
    ((x, y),) = batches(1, rows=12)
    F.cross_entropy(net(x), y).backward()
    truth = [p.grad for p in net.parameters()]
    net.zero_grad()
    inside, outside = (1 / k, None) if place == "in the closure" else (1, 1 / k)
    for part, label in zip(x.chunk(k), y.chunk(k), strict=True):

        def loss(part=part, label=label):
            return F.cross_entropy(net(part), label) * inside

        pc.backward(net, loss, exact, gradient=outside)
    for p, g in zip(net.parameters(), truth, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-12, atol=1e-15)


def test_a_gradient_scaler_unscales_clips_and_skips_what_overflowed(exact):
    """The third batch overflows on purpose: no step there, and the scale backs off.

    `scale` makes the factor: a scaler whose `scale` was never called refuses to go on.
    """

    def train(net, backward):
        net.float()
        optimizer = OPTIMIZERS["SGD"](net.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
        for k, (x, y) in enumerate(batches()):

            def loss(x=x, y=y, factor=1e38 if k == 2 else 1.0):
                return F.cross_entropy(net(x.float()), y) * factor

            optimizer.zero_grad()
            backward(net, loss, gradient=scaler.scale(torch.ones(())))
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() == 2.0**10  # grew after two, backed off after three

    assert_same_weights(train, exact, 1e-5)


def test_a_gradient_scaler_may_scale_the_loss_in_the_closure(exact):
    def train(net, backward):
        net.float()
        optimizer = OPTIMIZERS["SGD"](net.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        for x, y in batches():
            optimizer.zero_grad()

            def loss(x=x, y=y):
                return scaler.scale(F.cross_entropy(net(x.float()), y))

            backward(net, loss)
            scaler.step(optimizer)
            scaler.update()

    assert_same_weights(train, exact, 1e-5)


def test_batches_may_change_their_size(exact):
    def train(net, backward):
        optimizer = OPTIMIZERS["Adam"](net.parameters())
        for rows in (6, 1, 9, 3, 6):
            ((x, y),) = batches(1, rows)
            optimizer.zero_grad()
            backward(net, lambda x=x, y=y: F.cross_entropy(net(x), y))
            optimizer.step()

    assert_same_weights(train, exact)


def test_parameters_may_be_frozen_and_freed_on_the_way(exact):
    def train(net, backward):
        optimizer = OPTIMIZERS["momentum"](net.parameters())
        for k, (x, y) in enumerate(batches()):
            net[0].requires_grad_(k != 1)
            optimizer.zero_grad()
            backward(net, lambda x=x, y=y: F.cross_entropy(net(x), y))
            assert (net[0].weight.grad is None) == (k == 1)
            optimizer.step()

    assert_same_weights(train, exact)


def test_two_players_learn_in_turn_and_not_from_the_others_loss(exact):
    """Generator and critic: each call reaches only the models that are not frozen."""

    def train(rule):
        torch.manual_seed(7)
        generator, critic = nn.Linear(2, 4), network().eval()
        real = torch.randn(6, 4)
        optimizers = [OPTIMIZERS["Adam"](m.parameters()) for m in (generator, critic)]
        for _ in range(STEPS):
            noise = torch.randn(6, 2)
            for optimizer in optimizers:
                optimizer.zero_grad()

            def critics_loss(noise=noise):
                fake = critic(generator(noise).detach())
                return F.softplus(fake).mean() + F.softplus(-critic(real)).mean()

            go_back([generator, critic], critics_loss, rule)
            assert all(p.grad is None for p in generator.parameters())
            optimizers[1].step()
            critic.requires_grad_(False)

            def generators_loss(noise=noise):
                return F.softplus(-critic(generator(noise))).mean()

            go_back([generator, critic], generators_loss, rule)
            critic.requires_grad_(True)
            optimizers[0].step()
        return [*weights(generator), *weights(critic)]

    for a, b in zip(train(exact), train(None), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_averaged_weights_and_their_batch_norm(exact):
    def train(rule):
        torch.manual_seed(7)
        net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
        mean = torch.optim.swa_utils.AveragedModel(net)
        optimizer = OPTIMIZERS["SGD"](net.parameters())
        for x, y in batches():
            optimizer.zero_grad()
            go_back(net, lambda x=x, y=y: F.cross_entropy(net(x), y), rule)
            optimizer.step()
            mean.update_parameters(net)
        torch.optim.swa_utils.update_bn([x for x, _ in batches()], mean)
        return list(mean.state_dict().values())

    for a, b in zip(train(exact), train(None), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_rules_may_take_turns_on_one_model():
    """Nothing of one call is left for the next: any order gives the same gradients."""
    ((x, y),) = batches(1)
    net = network().eval()

    def gradients(rule):
        net.zero_grad()
        pc.backward(net, lambda: F.cross_entropy(net(x), y), rule)
        return [p.grad.clone() for p in net.parameters()]

    alone = [gradients(rule) for rule in EVERY]
    for first, second in itertools.permutations(range(len(EVERY)), 2):
        gradients(EVERY[first])
        assert all(map(torch.equal, gradients(EVERY[second]), alone[second]))


def test_a_model_that_was_trained_can_be_copied_and_saved(exact, tmp_path):
    ((x, y),) = batches(1)
    net = network().eval()
    pc.backward(net, lambda: F.cross_entropy(net(x), y), exact)
    torch.save(net, tmp_path / "net.pt")
    again = torch.load(tmp_path / "net.pt", weights_only=False)
    for other in (again, copy.deepcopy(net)):
        assert torch.equal(other(x), net(x))
        other.zero_grad()
        pc.backward(other, lambda other=other: F.cross_entropy(other(x), y), exact)
        for p, q in zip(other.parameters(), net.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)
