"""What PyTorch lets people wrap around models: compilation, checkpoints, hooks, views.

And what a closure may do with autograd by itself. Where pcnotes cannot follow, it must
say so. As in test_things_that_break: one step of every rule against one of BP.
"""

import gc
import threading
import weakref

import oracle
import pytest
import torch
from every_rule import (
    EQUAL_TO_BP,
    EVERY,
    OTHERS,
    assert_step_is_backprops,
    chain,
    go_back,
    linear,
    step,
)
from torch import nn
from torch.autograd import forward_ad
from torch.autograd import grad as grad_under_a_name
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import pcnotes as pc

pytestmark = pytest.mark.usefixtures("double")
cutting = pytest.fixture(params=EVERY[1:], ids=str)(lambda request: request.param)


# Compiled models (test_graph has names, whole models and blocks)


@pytest.mark.parametrize("what", ["model", "block", "function", "closure"])
def test_compiled_code_runs_as_it_was_written_and_is_used_again_afterwards(rule, what):
    """PyTorch promises the same numbers; what was compiled would skip the hooks."""
    torch.compiler.reset()
    runs = []

    def backend(graph, inputs):
        return lambda *args: runs.append(1) or graph.forward(*args)

    def make():
        net = nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1)
        )
        x = torch.randn(5, 4)
        compiled, loss = net, lambda z: net(z).square().mean()
        if what == "model":
            compiled = torch.compile(net, backend=backend, fullgraph=True)
            return compiled, lambda: compiled(x).square().mean()
        if what == "block":
            net[0] = torch.compile(net[0], backend=backend)
            return net, lambda: loss(x)
        if what == "function":
            loss = torch.compile(loss, backend=backend)
            return net, lambda: loss(x)
        return net, torch.compile(lambda: loss(x), backend=backend)

    assert_step_is_backprops(make, rule)
    assert len(runs) == 1  # of backpropagation's step
    model, closure = make()
    pc.backward(model, closure, rule)
    assert len(runs) == 1
    closure()
    assert len(runs) == 2


def test_a_model_that_inductor_would_compile_draws_as_the_one_as_written(exact):
    def make(compile_it):
        net = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 1))
        run = torch.compile(net) if compile_it else net
        x = torch.randn(5, 4)
        return run, lambda: run(x).square().mean()

    ours, theirs = step(lambda: make(True), exact), step(lambda: make(False), None)
    assert torch.equal(ours.loss, theirs.loss)
    oracle.assert_same(ours.gradients, theirs.gradients)


# Activation checkpoints


class Thrifty(nn.Module):
    """Keeps nothing of its forward pass."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        return checkpoint(self._run, x, use_reentrant=False)

    def _run(self, x):
        return self.drop(torch.tanh(x @ self.weight))


def test_checkpoints_inside_a_vertex(rule):
    norm = lambda: nn.BatchNorm1d(4)  # noqa: E731
    assert_step_is_backprops(chain(Thrifty, norm, Thrifty, linear(4, 1)), rule)


def blocks(use_checkpoint, normed=False):
    """Two blocks of two layers, with or without a checkpoint around each."""

    def make():
        net = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Linear(4, 4),
                    nn.BatchNorm1d(4) if normed else nn.Identity(),
                    nn.Tanh(),
                    nn.Dropout(0.3),
                    nn.Linear(4, 4),
                )
                for _ in range(2)
            ),
            nn.Linear(4, 1),
        )
        x = torch.randn(5, 4)

        def closure():
            h = x
            for block in net:
                h = (
                    checkpoint(block, h, use_reentrant=False)
                    if use_checkpoint
                    else block(h)
                )
            return h.square().mean()

        return net, closure

    return make


@pytest.mark.parametrize("at", [None, ["0", "1", "2"]], ids=["layers", "blocks"])
def test_checkpoints_around_vertices_change_nothing(rule, at):
    """What is computed anew for backward must see the values, not the predictions."""
    with_checkpoint = step(blocks(True), rule, at)
    without = step(blocks(False), rule, at)
    assert torch.equal(with_checkpoint.loss, without.loss)
    assert with_checkpoint.random == without.random
    oracle.assert_same(with_checkpoint.gradients, without.gradients)


def test_a_sequence_in_checkpointed_segments(exact):
    def make():
        net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
        x = torch.randn(5, 4)
        run = lambda: checkpoint_sequential(net, 2, x, use_reentrant=False)  # noqa: E731
        return net, lambda: run().square().mean()

    assert_step_is_backprops(make, exact)


def test_under_a_checkpoint_batch_norm_moves_no_more_often_than_under_bp(rule):
    """BP moves it twice: when it runs, and when backward runs it again."""
    theirs, ours = step(blocks(True, normed=True), None), step(blocks(True, True), rule)
    counts = [[int(b) for b in s.buffers if b.dim() == 0] for s in (theirs, ours)]
    assert counts[0] == [2, 2]
    assert all(n in (1, 2) for n in counts[1])
    if rule in EQUAL_TO_BP:
        oracle.assert_same(ours.gradients, theirs.gradients)


@pytest.mark.parametrize("watched", [*EQUAL_TO_BP, *OTHERS], ids=str)
def test_batch_norm_under_a_checkpoint_moves_no_further_from_state_to_state(
    watched,
):
    torch.manual_seed(0)
    net, closure = blocks(True, normed=True)()
    moved = [
        [int(b) for b in net.buffers() if b.dim() == 0]
        for _ in pc.infer(net, closure, watched)
    ]
    assert all(n in (1, 2) for state in moved for n in state)
    assert len({tuple(state) for state in moved}) == 1


def test_reentrant_checkpoints_are_refused(exact):
    """They call backward() in backward, which knows no `inputs=`; PyTorch says so."""
    first, block, last = (nn.Linear(4, 4) for _ in range(3))
    x = torch.randn(5, 4)

    def closure():
        return last(checkpoint(block, first(x), use_reentrant=True)).square().mean()

    with pytest.raises(RuntimeError, match="use_reentrant"):
        pc.backward([first, block, last], closure, exact)
    assert all(p.grad is None for m in (first, block, last) for p in m.parameters())


# The user's own hooks


def test_parameter_hooks_run_once_and_see_the_whole_gradient(rule):
    """Also for a weight that three calls share."""
    tied, last = nn.Linear(4, 4), nn.Linear(4, 1)
    x, seen, after = torch.randn(5, 4), [], []
    for p in (tied.weight, last.bias):
        p.register_hook(seen.append)
        p.register_post_accumulate_grad_hook(lambda p: after.append(p.grad.clone()))
    closure = lambda: last(tied(tied(tied(x).tanh()).tanh())).square().mean()  # noqa: E731
    pc.backward([tied, last], closure, rule)
    assert len(seen) == len(after) == 2
    for grads in (seen, after):
        found = {g.shape: g for g in grads}
        assert torch.equal(found[tied.weight.shape], tied.weight.grad)
        assert torch.equal(found[last.bias.shape], last.bias.grad)


def test_a_parameter_hook_may_change_the_gradient_once(rule):
    make = chain(linear(4, 5), nn.Tanh, linear(5, 1))
    plain = step(make, rule).gradients
    torch.manual_seed(7)
    model, closure = make()
    model[0].weight.register_hook(lambda g: 3 * g)
    model[2].bias.register_hook(lambda g: -g)
    pc.backward(model, closure, rule)
    factors = [3, 1, 1, -1]
    changed = [f * g for f, g in zip(factors, plain, strict=True)]
    oracle.assert_same(oracle.gradients(model), changed)


HOOKS = {
    "forward": lambda m: m.register_forward_hook(lambda m, x, y: 2 * y),
    "forward_pre": lambda m: m.register_forward_pre_hook(lambda m, x: (x[0] + 1,)),
    "forward_kwargs": lambda m: m.register_forward_hook(
        lambda m, x, k, y: y.sin(), with_kwargs=True, always_call=True
    ),
    "full_backward": lambda m: m.register_full_backward_hook(
        lambda m, before, after: (3 * before[0],)
    ),
    "full_backward_pre": lambda m: m.register_full_backward_pre_hook(
        lambda m, after: (3 * after[0],)
    ),
    "global": lambda m: nn.modules.module.register_module_forward_hook(
        lambda m, x, y: 2 * y
    ),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_module_hooks_are_obeyed(exact, kind):
    handles = []

    def make():
        net = nn.Sequential(
            nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 1)
        )
        x = torch.randn(5, 4)
        handles.append(HOOKS[kind](net[2]))
        return net, lambda: net(x).square().mean()

    try:
        plain = step(chain(linear(4, 5), nn.Tanh, linear(5, 5), linear(5, 1)), None)
        ours = []
        for chosen in (exact, None):
            ours.append(step(make, chosen))
            if kind == "global":
                handles.pop().remove()
    finally:
        for handle in handles:
            handle.remove()
    oracle.assert_same(ours[0].gradients, ours[1].gradients)
    with pytest.raises(AssertionError):
        oracle.assert_same(ours[1].gradients, plain.gradients)


@pytest.mark.parametrize("place", [0, 1], ids=["on a vertex", "between vertices"])
def test_tensor_hooks_are_obeyed(exact, place):
    def make():
        net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
        x = torch.randn(5, 4)

        def closure():
            h = x
            for k, layer in enumerate(net):
                h = layer(h)
                if k == place:
                    h.register_hook(lambda g: 3 * g)
            return h.square().mean()

        return net, closure

    assert_step_is_backprops(make, exact)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_retained_gradients_are_those_of_backpropagation(exact, place):
    def retained(rule):
        torch.manual_seed(7)
        net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
        x, kept = torch.randn(5, 4), []

        def closure():
            h = x
            for k, layer in enumerate(net):
                h = layer(h)
                if k == place:
                    h.retain_grad()
                    kept[:] = [h]
            return h.square().mean()

        go_back(net, closure, rule)
        return [kept[0].grad]

    oracle.assert_same(retained(exact), retained(None))


def test_hooks_that_raise_leave_no_trace(cutting):
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    x = torch.randn(5, 4)

    def fails(module, before, after):
        raise KeyError("mine")

    handle = net[2].register_full_backward_hook(fails)
    with pytest.raises(KeyError, match="mine"):
        pc.backward(net, lambda: net(x).square().mean(), cutting)
    handle.remove()
    assert all(p.grad is None for p in net.parameters())
    assert oracle.hooks(net) == 0
    pc.backward(net, lambda: net(x).square().mean(), cutting)


def test_saved_tensors_may_be_packed_elsewhere(exact):
    def make():
        net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
        x = torch.randn(5, 4)

        def closure():
            with torch.autograd.graph.save_on_cpu():
                return net(x).square().mean()

        return net, closure

    assert_step_is_backprops(make, exact)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_anomaly_detection_stays_quiet(exact):
    with torch.autograd.set_detect_anomaly(True):
        assert_step_is_backprops(chain(linear(4, 5), nn.Tanh, linear(5, 1)), exact)


# Autograd inside the closure


def slope_under_another_name(net, x):
    z = x.clone().requires_grad_()
    y = net(z) + z.square().sum(1, keepdim=True)
    return grad_under_a_name(y.sum(), z, create_graph=True)[0]


def slope_by_backward(net, x):
    z = x.clone().requires_grad_()
    y = net(z) + z.square().sum(1, keepdim=True)
    y.sum().backward(inputs=[z], create_graph=True)
    return z.grad


def slope_by_jacobian(net, x):
    run = lambda z: net(z).sum(0)  # noqa: E731
    return torch.autograd.functional.jacobian(run, x, create_graph=True)


def slope_by_functorch(net, x):
    return torch.func.grad(lambda z: net(z).sum())(x)


def slope_forward(net, x):
    with forward_ad.dual_level():
        y = net(forward_ad.make_dual(x, torch.ones_like(x)))
        return forward_ad.unpack_dual(y).tangent


def slope_forward_by_functorch(net, x):
    return torch.func.jvp(net, (x,), (torch.ones_like(x),))[1]


def vectorised(net, x):
    return torch.vmap(net)(x)


def penalised(slope):
    """A loss that holds how steep the model is."""

    def make():
        net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
        x = torch.randn(5, 4)
        return net, lambda: net(x).square().mean() + slope(net, x).square().mean()

    return make


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize(
    "slope", [slope_under_another_name, slope_by_backward, slope_by_jacobian]
)
def test_derivatives_that_would_end_at_a_cut_are_refused(cutting, slope):
    torch.manual_seed(7)
    model, closure = penalised(slope)()
    with pytest.raises(RuntimeError, match="the closure call"):
        pc.backward(model, closure, cutting)
    assert all(p.grad is None for p in model.parameters())
    assert oracle.hooks(model) == 0


TRANSFORMS = [
    slope_by_functorch,
    slope_forward,
    slope_forward_by_functorch,
    vectorised,
]


@pytest.mark.parametrize("slope", TRANSFORMS)
def test_calls_under_a_transform_are_differentiated_uncut(rule, slope):
    assert_step_is_backprops(penalised(slope), rule)


@pytest.mark.parametrize("slope", TRANSFORMS)
def test_a_model_that_is_only_called_under_a_transform_has_no_vertices(rule, slope):
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    x = torch.randn(5, 4)
    with pytest.raises(RuntimeError, match="no vertex was called"):
        pc.backward(net, lambda: slope(net, x).square().mean(), rule)


def test_derivatives_of_something_else_are_the_closures_own_business(exact):
    def make():
        net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
        x = torch.randn(5, 4)

        def closure():
            z = x.clone().requires_grad_()
            (slope,) = grad_under_a_name(z.cos().sum(), z)
            return net(x + slope).square().mean()

        return net, closure

    assert_step_is_backprops(make, exact)


# One memory under two names


class View(nn.Module):
    def forward(self, x):
        return x.view(-1, 4)


def shared(change):
    """A layer's output h, a view y of it from a module, and what `change` does."""

    def make():
        first, view, last = nn.Linear(4, 4), View(), nn.Linear(4, 1)
        x = torch.randn(5, 4)

        def closure():
            h = first(x)
            y = view(h)
            return change(h, y, last).square().mean()

        return nn.ModuleList([first, view, last]), closure

    return make


def test_views_that_a_layer_returns_may_be_changed(rule):
    """Both names are downstream of the cut as long as the view is no vertex."""

    def change(h, y, last):
        y.add_(1)
        h[:, 0].mul_(2)
        return last(y) + h.sum(1, keepdim=True)

    assert_step_is_backprops(shared(change), rule)


def test_changing_the_input_of_a_vertex_that_is_a_view_of_it_is_refused(cutting):
    def change(h, y, last):
        h.add_(1)
        return last(y)

    with pytest.raises(RuntimeError, match="'1' was modified in place"):
        step(shared(change), cutting, at="*")


def test_changing_a_vertex_that_is_a_view_of_what_is_used_later_is_refused(cutting):
    def change(h, y, last):
        y.add_(1)
        return last(h)

    with pytest.raises(RuntimeError, match="'1' was modified in place"):
        step(shared(change), cutting, at="*")


def test_changing_a_vertex_that_works_in_place_itself_is_harmless(exact):
    layers = lambda: nn.Dropout(0.5, inplace=True), lambda: nn.ReLU(inplace=True)
    assert_step_is_backprops(chain(linear(4, 6), *layers, linear(6, 1)), exact, at="*")


# Threads, memory, lazy modules


def test_threads_with_models_of_their_own_do_not_meet():
    """What is patched while a closure runs must be whole when all are done."""
    plain, failed = torch.autograd.grad, []

    def train(seed):
        net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
        x = torch.ones(5, 4)
        try:
            for _ in range(40):
                pc.backward(net, lambda: net(x).square().mean(), pc.Exact())
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=train, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    try:
        assert torch.autograd.grad is plain
        assert not failed
    finally:
        torch.autograd.grad = plain


@pytest.mark.parametrize("call", ["backward", "infer", "compare"])
def test_activations_are_freed_at_once_without_the_garbage_collector(rule, call):
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    x, alive = torch.randn(5, 4), []
    for module in net:
        module.register_forward_hook(lambda m, a, y: alive.append(weakref.ref(y)))
    closure = lambda: net(x).square().mean()  # noqa: E731
    gc.collect()
    gc.disable()
    try:
        if call == "backward":
            pc.backward(net, closure, rule)
        elif call == "infer":
            assert all(s.step >= 0 for s in pc.infer(net, closure, rule))
        else:
            pc.compare(net, closure, [rule])
        assert alive
        assert all(ref() is None for ref in alive)
    finally:
        gc.enable()


def test_lazy_layers_find_their_shape_in_the_first_step(exact):
    layers = lambda: nn.LazyLinear(5), nn.Tanh, lambda: nn.LazyLinear(1)
    assert_step_is_backprops(chain(*layers), exact)


def test_a_lazy_batch_norm_must_have_run_once(exact):
    layers = lambda: nn.LazyLinear(5), nn.LazyBatchNorm1d, lambda: nn.LazyLinear(1)
    with pytest.raises(ValueError, match="uninitialized"):
        step(chain(*layers), exact)
    torch.manual_seed(7)
    model, closure = chain(*layers)()
    closure()
    pc.backward(model, closure, exact)


@pytest.mark.parametrize("inexact", OTHERS, ids=str)
def test_checkpoints_are_tested_where_values_differ_from_predictions(inexact):
    """Else the tests above would pass with values that nobody replays."""
    model, closure = blocks(True)()
    *_, last = pc.infer(model, closure, inexact)
    assert any(bool(last.errors[i].any()) for i in last.values)
