"""Models and closures that break a naive version; the name says what PyTorch promises.

Every rule takes one step on a fresh model and is held against one of `loss.backward()`:
loss, buffers, random states and missing gradients must be the same for all rules, the
gradient for those that equal backpropagation. Elsewhere: models of every kind
(test_any_model), refusals (test_bad_input), states and conventions of the calls
(test_learning), what is a vertex (test_graph), loops and optimizers
(test_training_loops), compilation, checkpoints, hooks and views (test_wrapped_models),
several processes (test_distributed).
"""

import random

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
from every_rule import (
    assert_step_is_backprops,
    chain,
    go_back,
    linear,
    step,
)
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, rnn

import pcnotes as pc

pytestmark = pytest.mark.usefixtures("double")


# Random numbers and buffers


def test_dropout_draws_one_mask_a_step(rule):
    layers = linear(4, 40), nn.Dropout, linear(40, 40), nn.Dropout, linear(40, 2)
    make = chain(*layers, rows=1)
    ours, theirs = assert_step_is_backprops(make, rule)
    dropped = theirs.gradients[0].norm(dim=1) == 0
    assert 0 < int(dropped.sum()) < 40
    assert torch.equal(ours.gradients[0].norm(dim=1) == 0, dropped)


def test_stochastic_depth_skips_the_same_blocks_in_every_evaluation(rule):
    def make():
        blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(8))
        x = torch.randn(5, 4)

        def closure():
            h = x
            for block in blocks:
                if torch.rand(()) < 0.6:
                    h = h + torch.tanh(block(h))
            return h.square().mean()

        return blocks, closure

    ours, _ = assert_step_is_backprops(make, rule)
    skipped = sum(g is None for g in ours.gradients)
    assert 0 < skipped < 16


def test_noise_is_drawn_once_whoever_draws_it(rule):
    """In every evaluation the numbers of the first, as if they had been constants."""

    def noisy(drawn_each_time):
        first, last = nn.Linear(4, 6), nn.Linear(6, 1)
        x = torch.randn(5, 4)

        def closure():
            own = random.Random(0), np.random.RandomState(0), torch.Generator()
            own[2].manual_seed(0)
            python, numpy, generator = own
            if drawn_each_time:
                python, numpy, generator = random, np.random, None
            h = torch.tanh(first(x)) * (python.random() + numpy.rand())
            return last(h + torch.randn(5, 6, generator=generator)).square().mean()

        return [first, last], closure

    ours, _ = assert_step_is_backprops(lambda: noisy(True), rule)
    constant = step(lambda: noisy(False), rule)
    oracle.assert_same(ours.gradients, constant.gradients)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_statistics_move_once_a_step(rule, momentum):
    make = chain(
        linear(4, 6),
        lambda: nn.BatchNorm1d(6, momentum=momentum),
        nn.Tanh,
        linear(6, 1),
    )
    ours, _ = assert_step_is_backprops(make, rule)
    assert int(ours.buffers[2]) == 1


def test_instance_norm_statistics_move_once_a_step(rule):
    make = chain(
        linear(4, 6),
        lambda: nn.Unflatten(1, (2, 3)),
        lambda: nn.InstanceNorm1d(2, affine=True, track_running_stats=True),
        nn.Flatten,
        linear(6, 1),
    )
    assert_step_is_backprops(make, rule)


def test_batch_norm_in_eval_mode_moves_nothing(rule):
    def make():
        net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)).eval()
        x = torch.randn(5, 4)
        return net, lambda: net(x).square().mean()

    ours, _ = assert_step_is_backprops(make, rule)
    assert int(ours.buffers[2]) == 0


def test_batch_norm_called_twice_a_step_moves_twice(rule):
    def make():
        layer, norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        x = torch.randn(5, 4)
        return [layer, norm], lambda: norm(layer(norm(layer(x)).tanh())).cos().mean()

    ours, _ = assert_step_is_backprops(make, rule)
    assert int(ours.buffers[2]) == 2


def test_spectral_norm_iterates_once_a_step(rule):
    make = chain(
        lambda: parametrizations.spectral_norm(nn.Linear(4, 6)), nn.Tanh, linear(6, 1)
    )
    assert_step_is_backprops(make, rule)


class Counting(nn.Module):
    """Counts its calls in a buffer that it binds anew."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls = self.calls + 1
        return x * self.weight / self.calls


def test_a_buffer_that_is_bound_anew_moves_once_a_step(rule):
    ours, _ = assert_step_is_backprops(chain(Counting, linear(4, 4), Counting), rule)
    assert [float(b) for b in ours.buffers] == [1, 1]


# Parameters


def test_tied_weights_get_the_sum_of_all_uses(rule):
    def make():
        tied = nn.Linear(4, 4, bias=False)
        last = nn.Linear(4, 4, bias=False)
        last.weight = tied.weight
        net = nn.Sequential(tied, nn.Tanh(), tied, nn.Tanh(), last)
        x = torch.randn(5, 4)
        return net, lambda: net(x).square().mean()

    ours, _ = assert_step_is_backprops(make, rule)
    assert len(ours.gradients) == 1


def test_frozen_parameters_are_untouched(rule):
    def make():
        net = nn.Sequential(
            nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 1)
        )
        net[2].requires_grad_(False)
        net[2].weight.grad = torch.full((5, 5), 3.0)
        net[3].bias.requires_grad_(False)
        x = torch.randn(5, 4)
        return net, lambda: net(x).square().mean()

    ours, _ = assert_step_is_backprops(make, rule)
    assert torch.equal(ours.gradients[2], torch.full((5, 5), 3.0))
    assert ours.gradients[3] is ours.gradients[5] is None


def test_a_backbone_under_no_grad_gets_nothing(rule):
    def make():
        backbone = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh())
        head = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
        x = torch.randn(5, 4)

        def closure():
            with torch.no_grad():
                features = backbone(x)
            return head(features).square().mean()

        return [backbone, head], closure

    ours, _ = assert_step_is_backprops(make, rule)
    assert [g is None for g in ours.gradients] == [True] * 4 + [False] * 4


def test_parameters_the_loss_does_not_depend_on_keep_none(rule):
    def make():
        used, spare, aside = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        last = nn.Linear(4, 1)
        x = torch.randn(5, 4)

        def closure():
            h = used(x)
            aside(h)
            return last(h.tanh()).square().mean()

        return [used, spare, aside, last], closure

    ours, _ = assert_step_is_backprops(make, rule)
    assert [g is None for g in ours.gradients[2:6]] == [True] * 4


def test_a_loss_times_zero_gives_zeros_and_not_none(rule):
    make = chain(linear(4, 5), nn.Tanh, linear(5, 1), loss=lambda y: y.sum() * 0)
    ours, _ = assert_step_is_backprops(make, rule)
    assert all(g is not None and not g.any() for g in ours.gradients)


@pytest.mark.parametrize(
    "wrap",
    [
        parametrizations.weight_norm,
        parametrizations.orthogonal,
        parametrizations.spectral_norm,
        lambda m: prune.l1_unstructured(m, "weight", 0.4),
        lambda m: prune.random_structured(m, "weight", 0.5, dim=0),
    ],
    ids=["weight_norm", "orthogonal", "spectral_norm", "pruned", "pruned_rows"],
)
def test_reparametrised_weights_get_the_gradient_of_their_own_parameters(exact, wrap):
    make = chain(lambda: wrap(nn.Linear(4, 5)), nn.Tanh, lambda: wrap(nn.Linear(5, 4)))
    assert_step_is_backprops(make, exact)


def test_a_parametrization_that_is_cached_serves_every_call(rule):
    def make():
        layer = parametrizations.weight_norm(nn.Linear(4, 4))
        x = torch.randn(5, 4)

        def closure():
            with parametrize.cached():
                return layer(layer(x).tanh()).square().mean()

        return layer, closure

    assert_step_is_backprops(make, rule)


def test_parameters_that_come_from_outside_the_module_get_theirs(exact):
    """functional_call: the vertex reads tensors that depend on the parameters."""

    def make():
        net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
        x = torch.randn(5, 4)

        def closure():
            scaled = {name: p * 2 for name, p in net.named_parameters()}
            return torch.func.functional_call(net, scaled, (x,)).square().mean()

        return net, closure

    assert_step_is_backprops(make, exact)


# In-place operations


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.relu_(),
        lambda h: h.mul_(h.detach().clone()),
        lambda h: h.masked_fill_(h < 0, 0.5),
        lambda h: F.dropout(h, 0.5, inplace=True),
        lambda h: h[:, :2].mul_(3),
        lambda h: h.t()[1].zero_(),
    ],
    ids=["relu_", "mul_", "masked_fill_", "dropout", "slice", "transposed"],
)
def test_outputs_may_be_changed_in_place(rule, change):
    def make():
        first, second, last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 1)
        x = torch.randn(5, 4)

        def closure():
            h = first(x)
            change(h)
            k = second(h)
            k += h
            change(k)
            return last(k).square().mean()

        return [first, second, last], closure

    assert_step_is_backprops(make, rule)


def test_an_in_place_activation_may_be_a_vertex_of_its_own(exact):
    make = chain(linear(4, 6), lambda: nn.ReLU(inplace=True), linear(6, 1))
    assert_step_is_backprops(make, exact, at=["0", "2"])


# Inputs and outputs of modules


class NothingOrAll(nn.Module):
    """Returns None, its input, indices, a tensor of its own and two that are one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x, *, scale=1.0):
        y = x * self.weight * scale
        return None, x, y.argmax(1), y, {"same": y, "text": "done", "flag": y > 0}


def test_modules_may_return_none_their_input_or_what_has_no_gradient(rule):
    def make():
        first, middle, last = nn.Linear(4, 4), NothingOrAll(), nn.Linear(4, 1)
        x = torch.randn(5, 4)

        def closure():
            _, same, index, y, named = middle(x=first(x), scale=0.5)
            mixed = y + named["same"] * named["flag"] + same * index[:, None]
            return last(mixed).square().mean()

        return nn.ModuleList([first, middle, last]), closure

    assert_step_is_backprops(make, rule)


def test_inputs_that_require_grad_get_theirs_and_it_is_added(exact):
    def gradients(rule):
        torch.manual_seed(7)
        net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4))
        x = torch.randn(5, 4, requires_grad=True)
        direct = torch.randn(5, 4, requires_grad=True)
        x.grad = torch.ones_like(x)
        go_back(net, lambda: (net(x) * direct).square().sum(), rule)
        return [x.grad, direct.grad]

    oracle.assert_same(gradients(exact), gradients(None))


@pytest.mark.parametrize("options", [{}, {"sparse": True}, {"padding_idx": 2}])
def test_embeddings_of_integers_get_their_rows(rule, options):
    def make():
        embed, last = nn.Embedding(9, 4, **options), nn.Linear(4, 2)
        tokens = torch.tensor([[1, 2, 2], [5, 1, 0]])
        return [embed, last], lambda: last(embed(tokens).tanh()).square().mean()

    ours, _ = assert_step_is_backprops(make, rule)
    rows = ours.gradients[0].norm(dim=1) > 0
    expected = {0, 1, 5} if "padding_idx" in options else {0, 1, 2, 5}
    assert set(rows.nonzero().flatten().tolist()) == expected


def test_sparse_gradients_stay_sparse(rule):
    embed, last = nn.Embedding(9, 4, sparse=True), nn.Linear(4, 2)
    tokens = torch.tensor([1, 2, 2])
    for _ in range(2):
        pc.backward([embed, last], lambda: last(embed(tokens)).cos().sum(), rule)
        assert embed.weight.grad.is_sparse


def test_an_embedding_that_renormalises_its_rows_does_so_once(rule):
    def weight(rule):
        torch.manual_seed(7)
        embed, last = nn.Embedding(9, 4, max_norm=0.5), nn.Linear(4, 2)
        tokens = torch.tensor([1, 2, 2])
        go_back([embed, last], lambda: last(embed(tokens)).square().mean(), rule)
        return embed.weight.detach()

    torch.testing.assert_close(weight(rule), weight(None), rtol=1e-14, atol=0)


@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_modules_over_packed_sequences(rule, cell):
    def make():
        embed, out = nn.Linear(4, 4), nn.Linear(10, 2)
        options = {"num_layers": 2, "dropout": 0.4, "bidirectional": True}
        recurrent = cell(4, 5, batch_first=True, **options)
        x = torch.randn(3, 5, 4)

        def closure():
            packed = rnn.pack_padded_sequence(embed(x), [5, 3, 2], batch_first=True)
            hidden, last = recurrent(packed)
            states = last[1] if isinstance(last, tuple) else last
            padded, _ = rnn.pad_packed_sequence(hidden, batch_first=True)
            return out(padded).square().mean() + states.cos().mean()

        return [embed, recurrent, out], closure

    assert_step_is_backprops(make, rule)


def test_attention_gives_its_output_and_its_weights(rule):
    def make():
        attend = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True)
        first, last = nn.Linear(4, 8), nn.Linear(8, 2)
        x = torch.randn(3, 5, 4)
        mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)

        def closure():
            h = first(x)
            mixed, weights = attend(h, h, h, attn_mask=mask)
            return last(mixed).square().mean() + weights.square().sum()

        return [first, attend, last], closure

    assert_step_is_backprops(make, rule)


def test_encoder_and_decoder_of_a_transformer(rule):
    def make():
        net = nn.Transformer(8, 2, 1, 2, 16, dropout=0.1, batch_first=True)
        source, target = torch.randn(3, 5, 8), torch.randn(3, 4, 8)
        return net, lambda: net(source, target).square().mean()

    assert_step_is_backprops(make, rule)


def test_complex_numbers_inside_a_vertex_and_between_vertices(exact):
    class Filter(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, dtype=torch.complex128))

        def forward(self, x):
            return torch.fft.rfft(x) * self.weight

    def make():
        first, filtered, last = nn.Linear(4, 4), Filter(), nn.Linear(3, 1)
        x = torch.randn(5, 4)

        def closure():
            return last(filtered(first(x)).abs()).square().mean()

        return [first, filtered, last], closure

    assert_step_is_backprops(make, exact)


class Straight(torch.autograd.Function):
    """Rounds forward, passes gradients straight through."""

    @staticmethod
    def forward(context, x):
        context.set_materialize_grads(False)
        return x.round(), x.sign()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, rounded, sign):
        assert sign is None
        return rounded


def test_functions_with_a_backward_of_their_own(exact):
    def make():
        first, last = nn.Linear(4, 6), nn.Linear(6, 1)
        x = torch.randn(5, 4)

        def closure():
            rounded, _ = Straight.apply(3 * first(x))
            return last(rounded).square().mean()

        return [first, last], closure

    assert_step_is_backprops(make, exact)


def test_outputs_that_are_hidden_in_an_object_are_differentiated_uncut(exact):
    class Gaussian(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.spread = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return torch.distributions.Normal(self.mean(x), self.spread(x).exp())

    def make():
        encoder, decoder = Gaussian(), nn.Linear(3, 4)
        x, prior = torch.randn(5, 4), torch.distributions.Normal(0.0, 1.0)

        def closure():
            posterior = encoder(x)
            fit = F.mse_loss(decoder(posterior.rsample()), x)
            return fit + torch.distributions.kl_divergence(posterior, prior).mean()

        return nn.ModuleList([encoder, decoder]), closure

    assert_step_is_backprops(make, exact)
    assert_step_is_backprops(make, exact, at=[Gaussian, "1"])
