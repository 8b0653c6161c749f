"""What is cut, what it is called, and how the vertices hang together."""

import pytest
import torch
from torch import nn
from zoo import ZOO

import pcnotes as pc


def vertices(name, at=None):
    model, closure = ZOO[name]()
    return pc.cut(model, closure, at)


def test_innermost_owners_of_parameters_are_the_vertices():
    graph = vertices("transformer_with_tied_embeddings")
    block = ["norm", "attend[0]", "up", "down"]
    expected = ["embed", *(f"blocks.{k}.{n}" for k in (0, 1) for n in block), "out"]
    assert list(graph.vertices) == expected


def test_a_module_called_several_times_is_a_vertex_per_call():
    graph = vertices("module_called_three_times")
    assert graph.vertices == ("0@1", "0@2", "0@3", "1")
    assert graph.parents["0@3"] == ("0@2",)
    assert graph.levels == {"0@1": 3, "0@2": 2, "0@3": 1, "1": 0}


def test_a_layer_by_layer_chain_has_one_level_less_than_layers():
    graph = vertices("perceptron")
    assert (graph.depth, graph.hidden, graph.outputs) == (2, ("0", "2"), ("4",))


def test_names_of_nested_outputs():
    graph = vertices("nested_outputs", at=["encoder", "decoder"])
    assert graph.vertices == (
        "encoder['parts'].mean",  # returned twice, one vertex
        "encoder['parts'].spread",
        "decoder[0]",
        "decoder[1]",
    )
    assert vertices("lstm").vertices[1:4] == ("lstm[0]", "lstm[1][0]", "out@1")


def test_a_list_of_models_puts_the_index_first():
    graph = vertices("two_models_two_losses")
    assert graph.vertices == ("0", "1.0@1", "1.1@1", "1.0@2", "1.1@2")


def test_the_root_itself_is_a_dot():
    assert vertices("one_layer").vertices == (".",)


def test_dead_ends_are_pruned():
    graph = vertices("dead_end_and_deep_supervision")
    assert graph.unreached == ("aside",)
    assert "aside" not in graph.vertices
    # a feeds c directly and through b; its own loss edge does not shorten its level
    assert graph.levels == {"a": 2, "b": 1, "c": 0}
    assert graph.parents == {"a": (), "b": ("a",), "c": ("a", "b")}


def test_a_hidden_vertex_that_only_dead_ends_hang_on_is_an_output():
    a, aside = nn.Linear(2, 2), nn.Linear(2, 2)
    x = torch.ones(1, 2)

    def closure():
        h = a(x)
        aside(h)
        return h.sum()

    graph = pc.cut([a, aside], closure)
    assert (graph.outputs, graph.unreached) == (("0",), ("1",))


def test_what_does_not_require_grad_is_no_vertex():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    net[0].requires_grad_(False)
    x = torch.ones(1, 2)

    def closure():
        with torch.no_grad():
            h = net[1](net[0](x))
        return net[2](h).sum()

    assert pc.cut(net, closure).vertices == ("2",)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (nn.Tanh, ("1",)),
        ("0", ("0",)),
        ("*", ("0", "1", "2", "3", "4")),
        ([nn.Linear, "1"], ("0", "1", "2", "4")),
        (lambda name, module: isinstance(module, nn.ReLU), ("3",)),
    ],
)
def test_at_chooses(at, expected):
    assert vertices("perceptron", at).vertices == expected


def test_one_star_stays_inside_a_component_and_two_cross_dots():
    name = "transformer_with_tied_embeddings"
    assert vertices(name, "blocks.*").vertices == ("blocks.0", "blocks.1")
    assert len(vertices(name, "blocks.**").vertices) == 10
    assert vertices(name, "**.up").vertices == ("blocks.0.up", "blocks.1.up")


def test_a_module_itself_can_be_chosen():
    model, closure = ZOO["perceptron"]()
    assert pc.cut(model, closure, at=model[2]).vertices == ("2",)


def test_parametrizations_count_as_their_owner():
    assert vertices("parametrized").vertices == ("0", "1")


def test_wrappers_leave_no_trace_in_names():
    class DataParallel(nn.Module):  # stands for torch's, which wants several devices
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x):
            return self.module(x)

    net = DataParallel(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)))
    x = torch.ones(1, 2)
    assert pc.cut(net, lambda: net(x).sum()).vertices == ("0", "1")
    table = pc.compare(net, lambda: net(x).sum(), [pc.FixedPrediction()])
    assert set(table.rows[0]["parameters"]) == {
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
    }


@pytest.mark.parametrize("whole", [True, False])
def test_compiled_models_and_blocks(whole):
    torch.manual_seed(0)
    torch.compiler.reset()
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    net(x).square().sum().backward()
    truth = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    if whole:
        run = torch.compile(net, backend="aot_eager")
    else:
        net[0] = torch.compile(net[0], backend="aot_eager")
        run = net
    graph = pc.cut(run, lambda: run(x).square().sum())
    assert graph.vertices == ("0", "2")
    pc.backward(run, lambda: run(x).square().sum())
    for p, g in zip(run.parameters(), truth, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-12, atol=1e-14)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_modules_take_no_hooks_and_are_part_of_what_reads_them():
    torch.manual_seed(0)
    middle = torch.jit.script(nn.Linear(3, 3))
    net = nn.Sequential(nn.Linear(2, 3), middle, nn.Tanh(), nn.Linear(3, 1))
    x = torch.ones(4, 2)
    net(x).square().sum().backward()
    truth = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    assert pc.cut(net, lambda: net(x).square().sum()).vertices == ("0", "3")
    pc.backward(net, lambda: net(x).square().sum())
    for p, g in zip(net.parameters(), truth, strict=True):
        torch.testing.assert_close(p.grad, g)


def test_values_are_handed_downstream_and_predictions_follow():
    model, closure = ZOO["perceptron"]()
    graph = pc.cut(model, closure)
    before = graph.evaluate().predictions
    values = {i: torch.randn_like(graph.predictions[i]) for i in graph.hidden}
    at = graph.evaluate(values)
    assert torch.equal(at.predictions["0"], before["0"])
    torch.testing.assert_close(at.predictions["2"], model[2](values["0"].tanh()))
    torch.testing.assert_close(at.predictions["4"], model[4](values["2"].relu()))
    assert graph.evaluate() is graph.feedforward


def test_pull_is_local_vjp_plus_the_losses_own_gradient():
    model, closure = ZOO["dead_end_and_deep_supervision"]()
    graph = pc.cut(model, closure)
    a, b = (model[i] for i in "ab")
    errors = {"b": torch.randn(3, 4, dtype=torch.float64)}
    v_a = graph.evaluate().values["a"]
    h = torch.tanh(v_a)
    through_b = ((1 - h**2) * (errors["b"] @ b.weight)).detach()
    only = graph.last.vjp(errors)
    assert list(only) == ["a"]
    torch.testing.assert_close(only["a"], through_b)
    pulled = graph.pull(errors)
    assert list(pulled) == ["a", "b"]
    torch.testing.assert_close(pulled["a"], through_b + graph.last.loss_gradient["a"])
    assert torch.equal(graph.pull({}, loss=0.0)["a"], torch.zeros_like(v_a))
    assert a.weight.grad is None


def test_no_local_graph_reaches_past_the_parents():
    """Locality is a property of the data structure: there is no other path."""
    for name in ("transformer_with_tied_embeddings", "recurrent_loop", "perceptron"):
        model, closure = ZOO[name]()
        graph = pc.cut(model, closure)
        evaluation = graph.last
        owner = {id(v): i for i, v in evaluation._values.items()}
        for i in graph.vertices:
            found = {
                owner[id(leaf)]
                for leaf in leaves_below(evaluation._predictions[i].grad_fn)
                if id(leaf) in owner
            }
            assert found == set(graph.parents[i])


def leaves_below(node):
    below = [n for n, _ in node.next_functions if n is not None]
    own = [node.variable] if hasattr(node, "variable") else []
    return own + [leaf for n in below for leaf in leaves_below(n)]


def test_half_precision_errors_are_kept_in_float32():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).bfloat16()
    x = torch.ones(2, 3, dtype=torch.bfloat16)
    graph = pc.cut(net, lambda: net(x).float().square().sum())
    assert graph.zeros()["0"].dtype == torch.float32
    assert graph.pull(graph.zeros())["0"].dtype == torch.float32
    pc.backward(net, lambda: net(x).float().square().sum())
    assert net[0].weight.grad.dtype == torch.bfloat16


def test_plot_names_every_vertex_and_the_copies_it_needs():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    graph = vertices("residual_stack")
    labels = [text.get_text().split("  ") for text in graph.plot().texts]
    named = {name: copies for name, *copies in labels if name}
    assert set(named) == set(graph.vertices)
    copies = {i: int(n[0]) for i, n in named.items() if n}
    assert copies == graph.identity_vertices == {"0": 3, "1": 2, "2": 1}
    assert "depth 4" in repr(graph) and "not graded" in repr(graph)


def test_no_two_vertices_of_fifty_share_a_row():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    cell, out = nn.Linear(2, 2), nn.Linear(2, 1)

    def closure():
        h, loss = torch.zeros(1, 2), 0
        for _ in range(25):
            h = cell(h)
            loss = loss + out(h).sum()
        return loss

    axes = pc.cut([cell, out], closure).plot()
    heights = [text.xy[1] for text in axes.texts if text.get_text()]
    assert len(heights) == len(set(heights)) == 50


def test_a_graph_sees_parameters_that_changed_since():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).double()
    x = torch.ones(3, 2).double()
    graph = pc.cut(net, lambda: net(x).square().sum())
    before = graph.step_size()
    with torch.no_grad():
        net[1].weight.mul_(10)
    after = graph.step_size()
    assert after < before / 10
    fresh = pc.cut(net, lambda: net(x).square().sum()).step_size()
    assert after == pytest.approx(fresh, rel=1e-6)
