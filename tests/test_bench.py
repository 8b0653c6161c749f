"""bench: counts against formulas, bytes of known graphs, order of rounds, peers."""

import gc
import json
import re
from dataclasses import replace

import jsonschema
import pytest
import torch
from torch import nn

import bench.__main__ as program
from bench import clock, contest, memory, models, peers, report, scaling
from bench.counting import FORMULAS, products
from bench.rules import Entry, entries

ONCE = contest.Effort(least=1, most=1, budget=0)

SPREAD = {
    "type": ["object", "null"],
    "required": ["median", "low", "high"],
    "additionalProperties": {"type": "number", "minimum": 0},
}
NUMBER, COUNT = {"type": ["number", "null"]}, {"type": ["integer", "null"]}
PRODUCTS = {
    "type": "object",
    "required": ["forward", "transpose", "weight"],
    "additionalProperties": {"type": "integer", "minimum": 0},
}
SCHEMA = {
    "type": "object",
    "required": ["schema", "quick", "machine", "peers", "rows", "scaling", "seconds"],
    "properties": {
        "schema": {"const": 1},
        "machine": {
            "type": "object",
            "required": ["date", "commit", "cpu", "cores", "load", "clock", "threads"],
            "properties": {"threads": {"const": 1}, "device": {"const": "cpu"}},
        },
        "peers": {"type": "object", "additionalProperties": {"type": "string"}},
        "rows": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["model", "label", "rule", "way", "error"],
                "properties": {
                    "way": {"enum": ["baseline", "backward", "infer", "peer"]},
                    "error": {"type": ["string", "null"]},
                    **dict.fromkeys(["ratio", "seconds"], SPREAD),
                    **dict.fromkeys(["depth", "vertices", "evaluations"], COUNT),
                    **dict.fromkeys(["vjps", "repetitions", "saved", "peak"], COUNT),
                    **dict.fromkeys(["target", "saved_ratio", "peak_ratio"], NUMBER),
                    **dict.fromkeys(["saved_target", "relative_error"], NUMBER),
                },
            },
        },
        "scaling": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["label", "layers", "width", "batch", "steps", "ratio"],
                "properties": {
                    "ratio": SPREAD,
                    "equal": {"type": "boolean"},
                    **dict.fromkeys(["counted", "formula", "book"], PRODUCTS),
                },
            },
        },
    },
}


@pytest.fixture(autouse=True)
def no_peers(monkeypatch):
    monkeypatch.delenv(peers.VARIABLE, raising=False)


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the program: (exit status, what it printed, the results)."""

    def call(*arguments):
        threads, file = torch.get_num_threads(), tmp_path / "results.json"
        try:
            status = program.main(["--quick", "--json", str(file), *arguments])
        finally:
            torch.set_num_threads(threads)
        return status, capsys.readouterr().out, json.loads(file.read_text("utf-8"))

    return call


def refusal(capsys, *arguments):
    """What a wrong call prints; its exit status must be 2."""
    with pytest.raises(SystemExit) as raised:
        program.main(list(arguments))
    assert raised.value.code == 2
    return capsys.readouterr().err


def small(layers=3):
    return models.perceptron(layers, 8, 4)


# Counts


@pytest.mark.parametrize("layers", [2, 3, 5, 9])
@pytest.mark.parametrize("label", [k for k in FORMULAS if k != "bp"])
def test_matrix_products_equal_the_formula(label, layers):
    case = models.perceptron(layers, 8, 4)
    entry = entries(steps=7)[label]
    steps = getattr(entry.rule, "steps", None) or layers - 1
    found = products(case.model, entry.call(case))
    assert found == FORMULAS[label].ours(layers, steps)


@pytest.mark.parametrize("label", [k for k in FORMULAS if k not in ("bp", "backprop")])
def test_what_a_rule_says_of_its_work_is_what_pytorch_did(label):
    entry, layers = entries(steps=7)[label], 5
    steps = getattr(entry.rule, "steps", None) or layers - 1
    due = FORMULAS[label].ours(layers, steps)
    # On a chain an evaluation is a product a layer, a vertex's pullback is one product.
    assert entry.work(models.perceptron(layers, 8, 4)) == {
        "evaluations": due.forward / layers,
        "vjps": due.transpose,
    }


def test_bp_costs_one_product_of_each_kind_a_layer_but_the_first_transposed():
    case = small(5)
    found = products(case.model, lambda: case.closure().backward())
    assert found == (5, 4, 5) == FORMULAS["bp"].ours(5, 0)


def test_products_are_told_apart_by_what_they_are():
    layer = nn.Linear(6, 6, bias=False)
    x = torch.randn(3, 6)
    error = torch.randn(3, 6)
    assert products(layer, lambda: layer(x)) == (1, 0, 0)
    assert products(layer, lambda: error @ layer.weight) == (0, 1, 0)
    assert products(layer, lambda: error.T @ x) == (0, 0, 1)


def test_the_book_s_table_gives_its_printed_numbers():
    assert FORMULAS["bp"].book(5, 0)[:2] == (5, 4)
    assert FORMULAS["strict"].book(5, 10)[:2] == (59, 40)
    assert FORMULAS["fixed"].book(5, 4)[:2] == (5, 16)


def test_no_rule_needs_more_products_than_the_book_writes_down():
    for label, formula in FORMULAS.items():
        # Incremental learns in its first state too: one lesson more than steps.
        lessons = 9 if label == "incremental" else 8
        pairs = zip(formula.ours(9, 8), formula.book(9, lessons), strict=True)
        assert all(ours <= book for ours, book in pairs), label


# Models


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_is_the_same_twice_and_exact_on_it_is_bp(name):
    first, second = models.MODELS[name]("cpu"), models.MODELS[name]("cpu")
    assert torch.equal(first.closure(), second.closure())
    _, _, exact = contest.contest(name, first, {"exact": entries()["exact"]}, ONCE)
    assert exact["error"] is None
    assert exact["relative_error"] < 1e-6
    assert all(p.grad is None for p in first.model.parameters())


# Bytes


class One(nn.Module):
    """A parameter of 100 floats."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(100))


def saved(model, call):
    return memory.measure(model, call, lambda: None).saved


def test_a_storage_that_is_saved_twice_counts_once():
    model = One()

    def call():
        h = model.weight.exp()  # exp saves its result, both products save it as well
        return (h * h + h.T * h.detach()).sum().backward()

    with pytest.warns(UserWarning, match="T.*dimension"):
        assert saved(model, call) == 400


def test_what_is_freed_makes_room():
    model = One()

    def twice():
        for _ in range(2):
            model.weight.exp().sum().backward()

    def both():
        (model.weight.exp().sum() + (2 * model.weight).exp().sum()).backward()

    assert saved(model, twice) == 400
    assert saved(model, both) == 800


def test_parameters_do_not_count_as_saved():
    model = One()
    assert saved(model, lambda: (model.weight * model.weight).sum().backward()) == 0


def test_the_peak_counts_what_is_alive_and_no_views():
    model = One()

    def call():
        with torch.no_grad():
            a = model.weight + 1
            b = a[:50].view(5, 10)
            a.mul_(2)
            del a  # b keeps its storage
            c = b + 1
            del b
            c = c + 1  # 200 bytes twice, after 400 are gone
            assert c.shape == (5, 10)

    assert memory.measure(model, call, lambda: None).peak == 600


@pytest.mark.parametrize("label", ["strict", "error", "incremental", "fixed-dynamics"])
def test_memory_does_not_grow_with_the_steps(label):
    case = small()
    gc.collect()
    gc.disable()  # nothing may wait for the collector: it can be long in coming
    try:
        used = [
            memory.measure(case.model, entries(n)[label].call(case), case.clear)
            for n in (8, 32)
        ]
    finally:
        gc.enable()
    assert used[0] == used[1]


# Time


def test_rounds_interleave_and_the_warm_up_is_thrown_away():
    log = []
    calls = {"bp": lambda: 1.0, "rule": lambda: 2.0}

    def seconds(call):
        log.append(call())
        return float(len(log))

    taken = list(clock.rounds(calls, lambda: log.append("clear"), seconds, 9.0, 2, 3))
    assert log == ["clear", 1.0, "clear", 2.0] * 4
    assert [sorted(r.values()) for r in taken] == [[6, 8], [10, 12], [14, 16]]


def test_slow_calls_join_in_one_round_of_several():
    costs = {"bp": 1.0, "quick": clock.SLOW, "slow": clock.SLOW + 1}
    calls = {k: (lambda c=c: c) for k, c in costs.items()}
    taken = list(clock.rounds(calls, lambda: None, lambda call: call(), 9.0, 2, 9))
    assert ["slow" in r for r in taken] == [
        True,
        True,
        *[False, False, True, False] * 2,
    ][:9]
    assert all("quick" in r for r in taken)
    assert clock.ratios(taken, "bp")["slow"].median == clock.SLOW + 1


def test_no_round_begins_once_the_budget_is_spent():
    rounds = clock.rounds({"bp": lambda: 0}, lambda: 0, lambda call: 1.0, -1.0, 3, 9)
    assert len(list(rounds)) == 3


def test_ratios_are_taken_within_a_round():
    taken = [{"bp": 1.0, "rule": 2.0}, {"bp": 10.0, "rule": 20.0}, {"bp": 2, "rule": 8}]
    found = clock.ratios(taken, "bp")["rule"]
    assert (found.low, found.median, found.high) == (2, 2, 3)


def test_an_aim_that_is_missed_is_said():
    row = contest.blank("m", "exact") | {"target": 1.5, "saved_target": 2.0}
    slow = {"median": 1.6, "low": 1.4, "high": 1.7}
    assert report.missed(row) == []
    assert report.missed(row | {"ratio": slow}) == ["slower than aimed at"]
    assert report.missed(row | {"ratio": slow, "target": 1.6}) == []
    assert report.missed(row | {"saved_ratio": 2.1}) == ["saves more than 2×"]


# The program


def test_a_quick_run_prints_a_table_and_writes_results_and_figures(run, tmp_path):
    figure = tmp_path / "ratios.svg"
    status, out, results = run(
        *("--models", "gru,scaling", "--rules", "exact,zil-dynamics"),
        *("--figure", str(figure)),
    )
    assert status == 0
    jsonschema.validate(results, SCHEMA)
    rows = {r["label"]: r for r in results["rows"]}
    assert list(rows) == ["bp", "forward", "exact", "zil-dynamics"]
    assert rows["exact"]["repetitions"] == 2
    assert "not graded" in rows["zil-dynamics"]["error"]
    assert re.search(r"^gru: 40 vertices, depth 20; BP [\d.]+ ms", out, re.M)
    assert re.search(r"^  exact +\d+\.\d\d +[\d.]+ to [\d.]+ +≤ 1.8 ", out, re.M)
    assert {r["label"] for r in results["scaling"]} == {"bp", "exact", "zil-dynamics"}
    assert all(r["equal"] for r in results["scaling"])
    count = len(results["scaling"])
    assert f"{count} of {count} counts equal their formulas" in out
    for file in (figure, tmp_path / "ratios-scaling.svg"):
        picture = file.read_text("utf-8")
        assert picture.startswith("<?xml")
        assert "#ffffff" not in picture  # no ground of its own: it is read on dark too
        assert "<dc:date>" not in picture


def test_a_count_that_differs_from_its_formula_fails_the_run(run, monkeypatch):
    wrong = FORMULAS["exact"]._replace(ours=FORMULAS["strict"].ours)
    monkeypatch.setitem(scaling.FORMULAS, "exact", wrong)
    monkeypatch.setattr(scaling, "WIDTHS", [])
    monkeypatch.setattr(scaling, "DEPTHS", [(4, 8)])
    status, out, _ = run("--models", "scaling", "--rules", "exact")
    assert status == 1
    assert "differs from the formula" in out


def test_a_rule_that_fails_has_a_row_that_says_how(monkeypatch):
    class Broken:
        def run(self, graph):
            raise ValueError("no such luck")

    rules = {"broken": Entry(Broken()), "exact": entries()["exact"]}
    rows = contest.contest("small", small(), rules, ONCE)
    assert rows[2]["error"] == "ValueError: no such luck"
    assert rows[3]["ratio"]["median"] > 0
    assert "ValueError: no such luck" in report.table(rows)


def test_only_a_full_run_replaces_the_results_of_a_full_run():
    everything, rules = program.EVERYTHING, list(entries())

    def name(arguments, models=everything, rules=rules):
        options = program._parser().parse_args(arguments)
        return program._default(options, models, rules).name

    assert name([]) == "cpu.json"
    assert name(["--device", "cuda"]) == "cuda.json"
    others = [name(["--quick"]), name([], models=["cnn"]), name([], rules=["exact"])]
    assert others == ["cpu-quick.json", "cpu-part.json", "cpu-part.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", "perceptron-wid"], "did you mean perceptron-wide"),
        (["--models", ","], "--models is empty; known are perceptron-wide"),
        (["--rules", "ext"], "--rules: no 'ext'; did you mean exact"),
        (["--json", "/nowhere/at/all.json"], "there is no folder /nowhere/at"),
        (["--figure", "/nowhere/at/all.svg"], "there is no folder /nowhere/at"),
        (["--figure", "picture.jpeg2"], "picture.jpeg2: figures are .svg"),
        (["--device", "tpu"], "invalid choice"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_measured(capsys, arguments, said):
    assert said in refusal(capsys, *arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_cuda_without_a_device_is_refused(capsys):
    assert "finds no CUDA device" in refusal(capsys, "--device", "cuda")


# Peers


def checkout(folder, body):
    """A checkout that looks like Torch2PC's."""
    folder.mkdir()
    (folder / "TorchSeq2PC.py").write_text(body, encoding="utf-8")
    return str(folder)


@pytest.fixture
def forgotten(monkeypatch):
    """The fake module is imported anew, and forgotten afterwards."""
    import sys

    monkeypatch.delitem(sys.modules, "TorchSeq2PC", raising=False)
    yield
    sys.modules.pop("TorchSeq2PC", None)


FAKE = """
print("a greeting that belongs into no table")

def PCInfer(model, LossFun, X, Y, ErrType, eta=.1, n=20, vinit=None):
    if ErrType == "Strict":
        raise RuntimeError("strict is broken today")
    (LossFun(model(X), Y) * (1 if ErrType == "Exact" else 2)).backward()
"""


def test_a_peer_is_measured_beside_the_rules(run, tmp_path, monkeypatch, forgotten):
    path = checkout(tmp_path / "fake", FAKE)
    monkeypatch.setenv(peers.VARIABLE, path)
    status, out, results = run("--models", "cnn,lstm", "--rules", "exact")
    assert status == 0
    assert results["peers"]["Torch2PC"] == path
    assert "greeting" not in out
    rows = {r["label"]: r for r in results["rows"] if r["model"] == "cnn"}
    assert rows["Torch2PC exact"]["relative_error"] == 0
    assert rows["Torch2PC fixed"]["relative_error"] == pytest.approx(1)
    assert rows["Torch2PC exact"]["ratio"]["median"] > 0
    assert rows["Torch2PC strict"]["error"] == "RuntimeError: strict is broken today"
    # It takes nothing but nn.Sequential, so the loop over cells has no row of it.
    assert [r["label"] for r in results["rows"] if r["model"] == "lstm"] == [
        *("bp", "forward", "exact")
    ]


def test_a_peer_that_cannot_be_imported_has_a_row_and_the_run_goes_on(
    run, tmp_path, monkeypatch, forgotten
):
    path = checkout(tmp_path / "fake", "import a_package_that_nobody_has\n")
    monkeypatch.setenv(peers.VARIABLE, path)
    status, out, results = run("--models", "cnn", "--rules", "exact")
    assert status == 0
    row = results["rows"][-1]
    assert row["label"] == "Torch2PC"
    assert "No module named 'a_package_that_nobody_has'" in row["error"]
    assert results["rows"][1]["ratio"] is not None
    assert "1 calls failed" in out


def test_a_peer_of_another_framework_brings_its_own_baseline():
    slow_peer = {"peer": lambda: sum(range(100_000))}
    both = {"bp": lambda: sum(range(1000)), **slow_peer}
    rows = contest.alone("small, Peer", both, ONCE)
    assert rows[1]["ratio"]["median"] > 1
    broken = contest.alone("small, Peer", {"Peer": "ImportError: no jax"}, ONCE)
    assert broken[0]["error"] == "ImportError: no jax"
    lost = contest.alone("small, Other", {"bp": lambda: 1 / 0, **slow_peer}, ONCE)
    assert lost[0]["error"] == "ZeroDivisionError: division by zero"
    assert "no baseline" in lost[1]["error"]
    printed = report.table([*rows, *broken, *lost])
    assert "small, Peer" in printed and "no baseline" in printed


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_a_path_that_holds_no_peer_is_refused_with_what_is_recognised(
    kind, tmp_path, monkeypatch, capsys
):
    path = tmp_path / kind
    if kind == "file":
        path.write_text("")
    elif kind == "empty":
        path.mkdir()
    monkeypatch.setenv(peers.VARIABLE, str(path))
    said = refusal(capsys, "--quick")
    assert str(path) in said
    reason = {"missing": "does not exist", "file": "is a file", "empty": "no peer"}
    assert reason[kind] in said
    assert "Torch2PC by its file TorchSeq2PC.py" in said


def test_peers_are_recognised_by_their_files(tmp_path):
    paths = []
    for peer in peers.PEERS:
        marker = tmp_path / peer.name / peer.marker
        marker.parent.mkdir(parents=True)
        marker.touch()
        paths.append(str(tmp_path / peer.name))
    found = peers.find(peers.os.pathsep.join(paths))
    assert [f.peer.name for f in found] == ["Torch2PC", "PRECO", "JPC", "PCX"]
    assert [str(f.path) for f in found] == paths


def test_an_installed_peer_is_found(tmp_path, monkeypatch, forgotten):
    monkeypatch.syspath_prepend(checkout(tmp_path / "site", FAKE))
    found = {f.peer.name: f.path for f in peers.find("")}
    assert found["Torch2PC"] is None
    calls = peers.find("")[0].calls(replace(small(), widths=()), 3)
    assert set(calls) == {
        f"Torch2PC {k}" for k in ("exact", "fixed", "fixed-half", "strict")
    }
