"""Properties of the rules on random graphs of random modules.

Every expectation comes from the drawn wiring: autograd on the uncut model, or numpy on
its Jacobians (`dense`). Bounds are relative to the whole vector, in float64, unless a
test says otherwise; 1e-12 is what a few thousand roundings may leave, with a factor of
ten for sums in which terms cancel.
"""

import os
from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
import oracle
import pytest
import torch
from dags import SINGLE, Dag, dags, layers, levelled
from dense import Dense
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import pcnotes as pc
from pcnotes.evaluation import Evaluation

TOLERANCE = 1e-12


class LevelByLevel(pc.Exact):
    """As on a GPU, or where the order of autograd is in doubt: one pass a level."""

    def teach(self, graph):
        with mock.patch.object(Evaluation, "_in_order", False):
            super().teach(graph)


# Equal to backpropagation on every model, whatever is cut.
EXACT = [pc.Exact(), LevelByLevel(), pc.ZIL(), pc.FixedPrediction()]
# The rest has a gradient of its own.
OTHERS = [
    pc.FixedPrediction(0.4, 3),
    pc.ZIL(0.6),
    pc.Strict(0.03, 4, scale=0.5),
    pc.ErrorOptimisation(0.05, 4, scale=0.5),
]
# These have a shortcut for `backward`.
SHORT = [
    pc.Backprop(),
    *EXACT,
    pc.ZIL(0.6),
    pc.FixedPrediction(0.4, 3),
    pc.FixedPrediction([0.3, 1.2]),
]
LINEAR = dags(
    kinds=("linear", "counted"),
    squashes=("",),
    losses=("squares", "mean_squares"),
    merges=("sum", "concatenation"),
)
# A model with a share of the stable step sizes, and a nudge.
DESCENT = {
    "dag": LINEAR,
    "share": st.floats(0.05, 0.95),
    "beta": st.sampled_from([1.0, 0.1, 3.0]),
}
CHAINS = dags(chain=True)
# Nothing but layers and sums of their outputs, all equally wide.
RESIDUAL = dags(kinds=("linear",), squashes=("",), merges=("sum",), widest=1)
# a and b hear from c at the same time; a from d next, while b still waits for f.
WAITING = layers(
    {
        **{"a": "x", "b": "x", "c": "a b", "d": "a", "e": "d"},
        **{"f": "b", "g": "f", "h": "g", "out": "c e h"},
    }
)
STEP = st.floats(0.05, 1.5)
STEPS = st.lists(st.just(1.0) | STEP, min_size=1, max_size=8)
SMALL = dags(most=6)


# 20 times as many: PCNOTES_EXAMPLES=20 pytest tests/test_properties.py
FACTOR = float(os.environ.get("PCNOTES_EXAMPLES", "1"))


def examples(count: int) -> settings:
    """The same examples in every run."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=max(1, round(count * FACTOR)),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=slow,
    )


def assert_close(ours, theirs, tolerance=TOLERANCE, size=None) -> None:
    """Equal relative to the whole vector, or to `size`."""
    size = np.linalg.norm(theirs) if size is None else size
    off = np.linalg.norm(np.subtract(ours, theirs))
    assert off <= tolerance * size, f"off by {off:.2e}, size {size:.2e}"


def clear(dag: Dag) -> None:
    oracle.clear(dag)
    dag.x.grad = None


def by_autograd(dag: Dag) -> np.ndarray:
    clear(dag)
    dag().backward()
    return _taken(dag)


def by_rule(dag: Dag, rule, at=None, gradient=None) -> np.ndarray:
    clear(dag)
    pc.backward(dag, dag, rule, at=at, gradient=gradient)
    return _taken(dag)


def _taken(dag: Dag) -> np.ndarray:
    """`.grad` of every parameter and of the input, None as NaN."""
    leaves = [*dag.parameters(), dag.x]
    found = [
        torch.full_like(p, torch.nan) if p.grad is None else p.grad for p in leaves
    ]
    clear(dag)
    return torch.cat([f.detach().flatten().double() for f in found]).numpy()


def assert_same(ours, theirs, tolerance=TOLERANCE) -> None:
    """None where autograd has None; the rest equal relative to the whole."""
    assert np.array_equal(np.isnan(ours), np.isnan(theirs))
    assert_close(np.nan_to_num(ours), np.nan_to_num(theirs), tolerance)


# ---- the gradient of backpropagation -------------------------------------------------


@pytest.mark.parametrize("rule", EXACT, ids=str)
@examples(40)
@given(dag=dags(), parts=st.booleans(), input_too=st.booleans())
def test_exact_rules_give_the_gradient_of_autograd(rule, dag, parts, input_too):
    dag.x.requires_grad_(input_too)
    at = dag.parts if parts else None
    assert_same(by_rule(dag, rule, at), by_autograd(dag))


@pytest.mark.parametrize("rule", EXACT, ids=str)
@examples(30)
@given(dag=RESIDUAL)
@example(dag=WAITING)
def test_what_autograd_hands_to_several_parents_at_once_stays_apart(rule, dag):
    """The parents in a sum get one and the same tensor: adding in place is a trap."""
    assert_same(by_rule(dag, rule), by_autograd(dag))


@examples(40)
@given(dag=dags(), more=st.integers(0, 3))
def test_unit_steps_past_the_depth_change_nothing(dag, more):
    steps = max(pc.cut(dag, dag).depth, 1) + more
    assert_same(by_rule(dag, pc.FixedPrediction(steps=steps)), by_autograd(dag))


@pytest.mark.parametrize("rule", EXACT, ids=str)
@examples(30)
@given(dag=dags(dtypes=("float32",)), input_too=st.booleans())
def test_in_float32_only_the_order_of_summation_differs(rule, dag, input_too):
    """Bound: see `Dense.slack`. On a path of K + 1 vertices, each may round as often
    as there are numbers to sum, plus a handful for its non-linearity. Compared by norm:
    what cancels inside a module (layer norm takes the mean away) its Jacobian does not
    show, but the module's own parameters have a gradient of that size.
    """
    dag.x.requires_grad_(input_too)
    ours, theirs = by_rule(dag, rule, dag.parts), by_autograd(dag)
    assert np.array_equal(np.isnan(ours), np.isnan(theirs))
    exact = Dense(dag.float64(), vertices=dag.wiring.reached)
    roundings = (dag.wiring.depth + 1) * (len(exact.v) + 8)
    bound = exact.slack(roundings, unit=2.0**-24)
    off = np.linalg.norm(np.nan_to_num(ours - theirs))
    assert off <= np.linalg.norm(bound)


@pytest.mark.parametrize("rule", EXACT, ids=str)
@examples(30)
@given(dag=CHAINS, parts=st.booleans(), input_too=st.booleans())
def test_on_a_chain_the_bits_are_those_of_autograd(rule, dag, parts, input_too):
    """A vertex has one child and a module one call: nothing to sum in another order."""
    dag.x.requires_grad_(input_too)
    at = dag.parts if parts else None
    assert np.array_equal(by_rule(dag, rule, at), by_autograd(dag), equal_nan=True)


@pytest.mark.parametrize("rule", EXACT, ids=str)
@examples(40)
@given(dag=SMALL, data=st.data())
def test_any_choice_of_vertices_gives_the_same_gradient(rule, dag, data):
    """Modules inside modules and the model itself may be chosen as well."""
    modules = list(dag.modules())
    flags = [data.draw(st.booleans()) for _ in modules]
    chosen = [m for m, flag in zip(modules, flags, strict=True) if flag]
    assume(chosen)
    assert_same(by_rule(dag, rule, chosen), by_autograd(dag))


@pytest.mark.parametrize("rule", EXACT, ids=str)
@examples(30)
@given(dag=SMALL, input_too=st.booleans(), data=st.data())
def test_frozen_modules_pass_errors_on_and_learn_nothing(rule, dag, input_too, data):
    """What comes before all that learns is no vertex at all."""
    dag.x.requires_grad_(input_too)
    for module in dag.parts:
        module.requires_grad_(data.draw(st.booleans()))
    assume(dag().requires_grad)
    assert_same(by_rule(dag, rule, dag.parts), by_autograd(dag))


@dataclass(frozen=True)
class Dynamics:
    """A rule without its shortcut: parameters learn as inference goes along."""

    rule: pc.Rule

    def run(self, graph):
        return self.rule.run(graph)


@pytest.mark.parametrize("rule", SHORT, ids=str)
@examples(30)
@given(dag=dags(), input_too=st.booleans(), factor=st.sampled_from([None, -2.0]))
def test_parameters_learn_the_same_from_inference_step_by_step(
    rule, dag, input_too, factor
):
    """What `backward` does and what `infer` shows are two computations."""
    dag.x.requires_grad_(input_too)
    ours = by_rule(dag, Dynamics(rule), dag.parts, factor)
    assert_same(ours, by_rule(dag, rule, dag.parts, factor))


# ---- the graph -----------------------------------------------------------------------


@examples(150)
@given(dag=dags())
def test_the_graph_is_the_drawn_wiring(dag):
    graph, wiring = pc.cut(dag, dag, at=dag.parts), dag.wiring
    assert graph.vertices == wiring.reached
    assert graph.unreached == wiring.unreached
    assert graph.hidden == wiring.hidden
    assert graph.outputs == wiring.outputs
    assert graph.parents == {i: wiring.reads[i] for i in wiring.reached}
    assert graph.levels == wiring.levels
    assert graph.depth == wiring.depth


@examples(150)
@given(dag=dags())
def test_the_identity_vertices_are_those_of_one_delay_line_per_vertex(dag):
    graph = pc.cut(dag, dag, at=dag.parts)
    needed = {i: count for i, count in dag.wiring.copies.items() if count}
    assert {i: count for i, count in graph.identity_vertices.items() if count} == needed
    assert graph.graded == (not needed)


# ---- exact ---------------------------------------------------------------------------


@examples(40)
@given(dag=dags())
def test_exact_shows_the_errors_of_backpropagation_level_by_level(dag):
    dense = Dense(dag)
    delta, levels = dense.split(dense.delta), dag.wiring.levels
    for state in pc.infer(dag, dag, pc.Exact(), at=dag.parts):
        assert {levels[i] for i in state.learned} <= {state.step}
        for i in dag.wiring.hidden:
            known = delta[i] if levels[i] <= state.step else torch.zeros_like(delta[i])
            assert_close(state.errors[i], known, size=np.linalg.norm(dense.delta))
    assert state.step == dag.wiring.depth


@examples(60)
@given(dag=dags(kinds=("linear", "memory", "fork")))
def test_backprop_shows_the_errors_that_the_cut_graph_has(dag):
    """Also where a module makes one of its outputs from another, as an LSTM cell does:
    the error of a vertex is what is asked of it from outside.
    """
    dense = Dense(dag)
    *_, last = pc.infer(dag, dag, pc.Backprop(), at=dag.parts)
    assert_close(dense.stack(last.errors), dense.delta)


# ---- fixed prediction ----------------------------------------------------------------


@examples(40)
@given(dag=dags(), eta=st.floats(0.05, 1), steps=st.integers(1, 10))
def test_errors_of_fixed_prediction_obey_the_binomial_law_at_every_step(
    dag, eta, steps
):
    dense = Dense(dag)
    rule = pc.FixedPrediction(eta, steps)
    for state in pc.infer(dag, dag, rule, at=dag.parts):
        expected = dense.arrived([eta] * state.step)
        size = np.linalg.norm(dense.parts)  # ε(n) itself may be far smaller
        assert_close(dense.stack(state.errors), expected, size=size)
    assert state.step == steps


@examples(40)
@given(dag=dags(), sizes=STEPS)
def test_varying_steps_obey_the_poisson_binomial_law(dag, sizes):
    dense = Dense(dag)
    size = _swing(dense, sizes)
    for state in pc.infer(dag, dag, pc.FixedPrediction(sizes), at=dag.parts):
        expected = dense.arrived(sizes[: state.step])
        assert_close(dense.stack(state.errors), expected, size=size)


@examples(40)
@given(dag=dags(), others=st.lists(st.floats(0.1, 1.4), max_size=2), data=st.data())
def test_as_many_unit_steps_as_the_depth_suffice_in_any_places(dag, others, data):
    """The other steps leave nothing of theirs behind: `fp-finite-termination`."""
    dense = Dense(dag)
    units = [1.0] * max(dag.wiring.depth, 1)
    sizes = data.draw(st.permutations(units + others))
    *_, last = pc.infer(dag, dag, pc.FixedPrediction(sizes), at=dag.parts)
    assert_close(dense.stack(last.errors), dense.delta, size=_swing(dense, sizes))


@examples(60)
@given(dag=dags(), others=st.lists(STEP, min_size=1, max_size=4), data=st.data())
def test_backward_takes_the_shortcut_to_the_same_shares(dag, others, data):
    """With fewer unit steps than would be enough: those errors have a shorter one."""
    dag.x.requires_grad_()
    dense = Dense(dag)
    units = data.draw(st.integers(0, max(dag.wiring.depth - 1, 0)))
    sizes = data.draw(st.permutations([1.0] * units + others))
    ours = np.nan_to_num(by_rule(dag, pc.FixedPrediction(sizes), dag.parts))
    learned = np.linalg.norm(dense.parameter_jacobian, 2) * _swing(dense, sizes)
    size = np.linalg.norm(dense.h) + learned
    assert_close(ours, dense.parameters(dense.arrived(sizes)), size=size)


def _swing(dense: Dense, sizes) -> float:
    """How large errors may have been on the way: roundings then are relative to that.

    Beyond unit step shares grow by η/(2 - η) an edge at most (`fp-stability`).
    """
    eta = max(1.0, *sizes)
    growth = (eta / (2 - eta)) ** max(dense.dag.wiring.depth - 1, 0)
    return float(growth * np.linalg.norm(dense.parts))


# ---- zero-divergence inference learning ----------------------------------------------


@examples(60)
@given(dag=dags(), gamma=st.sampled_from([1.0, 1.0, 0.5, 0.8, 1.3]))
def test_errors_of_zil_arrive_with_their_level_times_the_power_of_the_step(dag, gamma):
    dense = Dense(dag, vertices=dag.wiring.reached)
    delta = dense.split(dense.delta)
    size = max([1.0, *(float(d.norm()) for d in delta.values())])
    levels, learned = dag.wiring.levels, []
    for state in pc.infer(dag, dag, pc.ZIL(gamma), at=dag.parts):
        assert {levels[i] for i in state.learned} <= {state.step}
        learned += state.learned
        for i in state.learned:
            share = gamma**state.step
            assert_close(state.errors[i], share * delta[i], size=share * size)
    assert state.step == dag.wiring.depth
    assert sorted(learned) == sorted(dag.wiring.reached)


@examples(60)
@given(dag=dags(), gamma=st.sampled_from([1.0, 0.5]))
def test_under_zil_nothing_moves_and_no_error_shows_before_its_level(dag, gamma):
    predictions, _ = dag.run()
    for state in pc.infer(dag, dag, pc.ZIL(gamma), at=dag.parts):
        for i in dag.wiring.hidden:
            if state.step < dag.wiring.levels[i]:
                assert torch.equal(state.values[i], predictions[i])
                assert not state.errors[i].any()


@examples(40)
@given(dag=dags(), gamma=st.sampled_from([0.5, 0.8, 1.3]))
def test_under_zil_parameters_learn_from_what_arrives(dag, gamma):
    """The power of the step is in the gradient, level by level."""
    dag.x.requires_grad_()
    dense = Dense(dag)
    levels = dag.wiring.levels
    shares = {
        i: gamma ** levels[i] * torch.ones_like(d)
        for i, d in dense.split(dense.delta).items()
    }
    expected = dense.parameters(dense.stack(shares) * dense.delta)
    ours = np.nan_to_num(by_rule(dag, pc.ZIL(gamma), dag.parts))
    size = np.linalg.norm(dense.h) + np.linalg.norm(
        dense.parameter_jacobian.T @ dense.delta
    )
    assert_close(ours, expected, size=size)


@examples(50)
@given(dag=dags(kinds=SINGLE), gamma=st.sampled_from([1.0, 0.4]))
def test_zil_descends_the_energy_of_the_network_with_identity_vertices_put_in(
    dag, gamma
):
    """Copies included: the levelled network is built from the drawn plan."""
    states = pc.infer(dag, dag, pc.ZIL(gamma), at=dag.parts)
    level = levelled(dag)
    # A copy that the loss alone reads is no output: its value is free.
    free = set(level.wiring.reached).difference(dag.wiring.outputs)
    _follow(states, level, free, gamma)


# ---- the strict rules ----------------------------------------------------------------


@examples(40)
@given(**DESCENT, steps=st.integers(1, 12))
def test_strict_states_are_those_of_the_matrix_iteration(dag, share, steps, beta):
    """Affine predictions, quadratic loss; the step is a share of the stable ones.

    All states are read at the end: a later one does not change an earlier one.
    """
    dense = Dense(dag)
    gamma = share * 2 / _largest(dense.energy_hessian + beta * dense.curvature)
    rule = pc.Strict(gamma, steps, scale=beta)
    size = np.linalg.norm(dense.v) + beta * np.linalg.norm(dense.delta)
    energy_size = abs(dense.energy(np.zeros_like(dense.v), beta)[0])
    states = list(pc.infer(dag, dag, rule, at=dag.parts))
    expected = dense.descent(gamma, steps, beta)
    for state, u in zip(states, expected, strict=True):
        assert_close(dense.stack(state.values), dense.v + u, size=size)
        assert_close(dense.stack(state.errors), dense.errors(u), size=size)
        energy, loss = dense.energy(u, beta)
        assert_close(float(state.energy), energy, size=energy_size)
        assert_close(float(state.loss), loss, size=energy_size / beta)


@examples(25)
@given(
    dag=dags(
        kinds=("linear",),
        squashes=("",),
        losses=("squares", "mean_squares"),
        most=5,
        chain=True,
    ),
    beta=st.sampled_from([1.0, 0.3, 2.0]),
)
def test_strict_ends_in_the_equilibrium_of_linear_chains(dag, beta):
    """ε*/β = Aₗᵀ S⁻¹ r with Aₗ = W_L ⋯ Wₗ₊₁, S = 1/c + β ΣₗAₗAₗᵀ and c the curvature
    of the loss: `linear-exact`. Weights have norm ½, so that the eigenvalues of
    (A - I)ᵀ(A - I) are between ¼ and 9/4, and the number of steps follows.
    """
    weights = [dag.get_submodule(c.part).weight for c in dag.plan.calls]
    with torch.no_grad():
        for w in weights:
            w /= 2 * torch.linalg.matrix_norm(w, 2)
    out = dag.run()[0][dag.plan.calls[-1].outputs[0]].detach()
    curvature = 2.0 if dag.plan.terms[0][1] == "squares" else 2.0 / out.numel()
    largest = 9 / 4 + beta * curvature / 4
    gamma = 2 / (largest + 1 / 4)
    steps = int(np.ceil(np.log(1e-13) / np.log(1 - gamma / 4)))
    *_, last = pc.infer(dag, dag, pc.Strict(gamma, steps, scale=beta), at=dag.parts)
    down = {}
    product = torch.eye(out.shape[-1], dtype=torch.float64)
    for call, w in zip(reversed(dag.plan.calls[:-1]), reversed(weights), strict=False):
        product = product @ w
        down[call.outputs[0]] = product
    S = sum((a @ a.T for a in down.values()), torch.zeros_like(product @ product.T))
    S = torch.eye(len(S)) / curvature + beta * S
    preconditioned = (out - dag.y) @ torch.linalg.inv(S)
    for i, a in down.items():
        expected = (preconditioned @ a).detach()
        size = float((out - dag.y).norm() + last.values[i].norm())
        assert_close(last.errors[i] / beta, expected, 1e-11, size=size)


LOCAL = {
    "plain": ({}, lambda e: e.square().sum() / 2),
    "precise": ({"precision": 2.5}, lambda e: 2.5 * e.square().sum() / 2),
    "robust": ({"energy": lambda mu, v: _log_cosh(mu - v)}, lambda e: _log_cosh(e)),
}


@pytest.mark.parametrize("local", LOCAL)
@examples(30)
@given(
    dag=dags(most=6),
    gamma=st.floats(0.005, 0.05),
    steps=st.integers(1, 4),
    beta=st.sampled_from([1.0, 0.2]),
)
def test_strict_descends_the_energy_and_hands_on_its_gradient(
    local, dag, gamma, steps, beta
):
    dag.x.requires_grad_()
    options, e = LOCAL[local]
    rule = pc.Strict(gamma, steps, scale=beta, **options)
    states = pc.infer(dag, dag, rule, at=dag.parts)
    energy = _follow(states, dag, dag.wiring.hidden, gamma, beta, e)
    clear(dag)
    (energy / beta).backward()
    expected = np.nan_to_num(_taken(dag))
    ours = np.nan_to_num(by_rule(dag, rule, dag.parts))
    assert_close(ours, expected, 1e-11, size=1 + np.linalg.norm(expected))


@examples(30)
@given(
    dag=dags(most=6),
    gamma=st.floats(0.005, 0.05),
    steps=st.integers(1, 4),
    beta=st.sampled_from([1.0, 0.2]),
)
def test_incremental_hands_on_the_gradient_of_every_state(dag, gamma, steps, beta):
    """With parameters left alone its states are those of `Strict`."""
    clear(dag)
    rule = pc.Incremental(gamma, steps, scale=beta)
    strict = pc.infer(dag, dag, pc.Strict(gamma, steps, scale=beta), at=dag.parts)
    states = pc.infer(dag, dag, rule, at=dag.parts)
    for state, other in zip(states, strict, strict=True):
        ours = np.nan_to_num(_taken(dag))
        for i in dag.wiring.hidden:
            assert torch.equal(state.values[i], other.values[i])
        energy, _ = _energy(dag, state.values, beta)
        (energy / beta).backward()
        expected = np.nan_to_num(_taken(dag))
        assert_close(ours, expected, 1e-11, size=1 + np.linalg.norm(expected))


def _log_cosh(e):
    return e.cosh().log().sum()


def _half_square(e):
    return e.square().sum() / 2


def _follow(states, dag: Dag, free, gamma, beta=1.0, local=_half_square):
    """Each state is the one before, less γ∇E; returns E at the last, as a tensor.

    E is written out from the drawn wiring, at the values that the states hold.
    """
    expected = {i: mu.detach() for i, mu in dag.run()[0].items()}
    for state in states:
        assert state.values.keys() == set(free)
        for i, v in state.values.items():
            assert_close(v, expected[i], size=1 + float(expected[i].norm()))
        energy, values = _energy(dag, state.values, beta, local)
        truth = float(energy.detach())
        assert_close(float(state.energy), truth, size=1 + abs(truth))
        found = (
            torch.autograd.grad(
                energy, [*values.values()], materialize_grads=True, retain_graph=True
            )
            if values
            else ()
        )
        forces = zip(values.items(), found, strict=True)
        expected = {i: (v - gamma * f).detach() for (i, v), f in forces}
    return energy


def _energy(dag: Dag, values, beta=1.0, local=_half_square):
    """E_β at these values, and the values as leaves."""
    leaves = {i: v.detach().clone().requires_grad_() for i, v in values.items()}
    predictions, loss = dag.run(leaves)
    parts = [local(predictions[i] - v) for i, v in leaves.items()]
    return sum(parts, beta * loss), leaves


@examples(40)
@given(dag=LINEAR, beta=st.sampled_from([1.0, 0.1]))
def test_the_step_size_offered_is_just_stable(dag, beta):
    """2/λ to a tenth: power iteration, 40 times on fewer than 100 numbers, falls short
    of λ by less than ln(100)/40 on average; the differences it takes add rounding.
    """
    dense = Dense(dag)
    assume(len(dense.v))
    largest = _largest(dense.energy_hessian + beta * dense.curvature)
    graph = pc.cut(dag, dag, at=dag.parts)
    offered = graph.step_size(pc.Strict(scale=beta))
    assert 1 - 1e-6 <= offered * largest / 2 <= 1.1


def _largest(hessian: np.ndarray) -> float:
    return float(np.linalg.eigvalsh(hessian).max(initial=1.0))


# ---- error optimisation --------------------------------------------------------------


@examples(40)
@given(**DESCENT, steps=st.integers(1, 10))
def test_error_optimisation_follows_the_adjoint_of_the_shifted_network(
    dag, share, steps, beta
):
    dense = Dense(dag)
    rate = share * 2 / _error_curvature(dense, beta)
    rule = pc.ErrorOptimisation(rate, steps, scale=beta)
    states = pc.infer(dag, dag, rule, at=dag.parts)
    expected = dense.error_descent(rate, steps, beta)
    size = np.linalg.norm(dense.v) + beta * np.linalg.norm(dense.delta)
    for state, eps in zip(states, expected, strict=True):
        assert_close(dense.stack(state.errors), eps, size=size)


@examples(25)
@given(dag=dags(), beta=st.sampled_from([1.0, 0.01]))
def test_the_first_unit_step_of_error_optimisation_is_backpropagation(dag, beta):
    """On any model, in the errors: values and parameters then have moved."""
    dense = Dense(dag)
    rule = pc.ErrorOptimisation(1.0, 1, scale=beta)
    *_, last = pc.infer(dag, dag, rule, at=dag.parts)
    size = beta * max(np.linalg.norm(dense.delta), 1.0)
    assert_close(dense.stack(last.errors), beta * dense.delta, size=size)


@examples(25)
@given(dag=LINEAR, beta=st.sampled_from([1.0, 0.3]))
def test_error_optimisation_ends_in_the_equilibrium_of_strict(dag, beta):
    """The rates of the two differ, their fixed point does not: `epc-equivalence`."""
    dense = Dense(dag)
    top = _error_curvature(dense, beta)
    rate = 2 / (1 + top)  # eigenvalues between 1 and top
    shrinks = (top - 1) / (top + 1)
    steps = 1 if shrinks < 1e-14 else int(np.ceil(np.log(1e-14) / np.log(shrinks)))
    assume(steps <= 400)
    rule = pc.ErrorOptimisation(rate, max(steps, 1), scale=beta)
    *_, last = pc.infer(dag, dag, rule, at=dag.parts)
    expected = dense.errors(dense.equilibrium(beta))
    size = np.linalg.norm(dense.v) + beta * np.linalg.norm(dense.delta)
    assert_close(dense.stack(last.errors), expected, 1e-11, size=size)


def _error_curvature(dense: Dense, beta: float) -> float:
    """The largest eigenvalue of ∂²E/∂ε²."""
    n = len(dense.v)
    up = np.linalg.inv(np.eye(n) - dense.jacobian)
    return _largest(np.eye(n) + beta * up.T @ dense.curvature @ up)


# ---- what PyTorch promises -----------------------------------------------------------


@pytest.mark.parametrize("rule", [*EXACT, *OTHERS], ids=str)
@examples(15)
@given(dag=SMALL, factor=st.sampled_from([-2.0, 0.0, 0.1, 1e3]))
def test_a_second_backward_adds_and_gradient_scales(rule, dag, factor):
    once = by_rule(dag, rule)
    clear(dag)
    pc.backward(dag, dag, rule)
    pc.backward(dag, dag, rule)
    assert np.array_equal(_taken(dag), 2 * once, equal_nan=True)
    scaled = by_rule(dag, rule, gradient=factor)
    assert_same(scaled, factor * once, 1e-14 if factor else 0)


@pytest.mark.parametrize("rule", [*EXACT, *OTHERS], ids=str)
@examples(30)
@given(dag=SMALL, data=st.data())
def test_the_order_of_independent_calls_does_not_matter(rule, dag, data):
    """Any other topological order of the calls, and of the terms of the loss."""
    waiting, known, calls = list(dag.plan.calls), {"x"}, []
    while waiting:
        ready = [
            c
            for c in waiting
            if all(s in known for a in c.arguments for s in a.sources)
        ]
        calls.append(data.draw(st.sampled_from(ready)))
        waiting.remove(calls[-1])
        known.update(calls[-1].outputs)
    terms = data.draw(st.permutations(dag.plan.terms))
    other = Dag(replace(dag.plan, calls=tuple(calls), terms=tuple(terms)))
    assert_same(by_rule(dag, rule), by_rule(other, rule))


@pytest.mark.parametrize("rule", [*EXACT, *OTHERS], ids=str)
@examples(15)
@given(dag=dags(kinds=("counted", "perceptron"), most=6), stop=st.integers(1, 3))
def test_nothing_is_left_behind_but_gradients(rule, dag, stop):
    """Buffers move as in one evaluation, parameters, hooks and random numbers not."""
    once, watched = Dag(dag.plan), Dag(dag.plan)
    loss = once()
    random_state = torch.get_rng_state()
    assert torch.equal(pc.backward(dag, dag, rule), loss)
    assert oracle.hooks(dag) == 0
    _assert_equal_states(dag, once)
    states = pc.infer(watched, watched, rule)
    for _ in zip(range(stop), states, strict=False):
        assert oracle.hooks(watched) == 0
        _assert_equal_states(watched, once)
    states.close()
    assert oracle.hooks(watched) == 0
    _assert_equal_states(watched, once)
    assert all(p.grad is None for p in watched.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def _assert_equal_states(dag: Dag, other: Dag) -> None:
    pairs = zip(dag.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
