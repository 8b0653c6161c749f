"""What the property tests are worth: rules broken on purpose, each caught by a test.

A mutation is one change of one line in a copy of the package. The named test must fail
on the copy and pass on the package. A row whose text is no longer found is an error as
well: look up what became of the line, and break that.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import test_properties

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "pcnotes"


class Mutation(NamedTuple):
    """old becomes new in the file; test is the name of the one that must notice."""

    what: str
    file: str
    old: str
    new: str
    test: str


GRAPH = "test_the_graph_is_the_drawn_wiring"
COPIES = "test_the_identity_vertices_are_those_of_one_delay_line_per_vertex"
AUTOGRAD = "test_exact_rules_give_the_gradient_of_autograd"
BITS = "test_on_a_chain_the_bits_are_those_of_autograd"
LEVEL_BY_LEVEL = "test_exact_shows_the_errors_of_backpropagation_level_by_level"
BINOMIAL = "test_errors_of_fixed_prediction_obey_the_binomial_law_at_every_step"
SHORTCUT = "test_backward_takes_the_shortcut_to_the_same_shares"
ARRIVAL = "test_errors_of_zil_arrive_with_their_level_times_the_power_of_the_step"
STILL = "test_under_zil_nothing_moves_and_no_error_shows_before_its_level"
POWERS = "test_under_zil_parameters_learn_from_what_arrives"
LEVELLED = "test_zil_descends_the_energy_of_the_network_with_identity_vertices_put_in"
MATRIX = "test_strict_states_are_those_of_the_matrix_iteration"
DESCENT = "test_strict_descends_the_energy_and_hands_on_its_gradient"
EVERY_STATE = "test_incremental_hands_on_the_gradient_of_every_state"
STEP_SIZE = "test_the_step_size_offered_is_just_stable"
SHIFTED = "test_error_optimisation_follows_the_adjoint_of_the_shifted_network"
PAST_DEPTH = "test_unit_steps_past_the_depth_change_nothing"
FLOAT32 = "test_in_float32_only_the_order_of_summation_differs"
ANY_CUT = "test_any_choice_of_vertices_gives_the_same_gradient"
FROZEN = "test_frozen_modules_pass_errors_on_and_learn_nothing"
UNITS = "test_as_many_unit_steps_as_the_depth_suffice_in_any_places"
VARYING = "test_varying_steps_obey_the_poisson_binomial_law"
EQUILIBRIUM = "test_strict_ends_in_the_equilibrium_of_linear_chains"
SAME_END = "test_error_optimisation_ends_in_the_equilibrium_of_strict"
ORDER = "test_the_order_of_independent_calls_does_not_matter"
STEP_BY_STEP = "test_parameters_learn_the_same_from_inference_step_by_step"
DELTA = "test_backprop_shows_the_errors_that_the_cut_graph_has"
APART = "test_what_autograd_hands_to_several_parents_at_once_stays_apart"
FIRST = "test_the_first_unit_step_of_error_optimisation_is_backpropagation"
SCALES = "test_a_second_backward_adds_and_gradient_scales"
LEFT = "test_nothing_is_left_behind_but_gradients"

MUTATIONS = {
    "graph": [
        Mutation(
            "level by the shortest way",
            "structure.py",
            "levels[parent] = max(levels.get(parent, 0), levels[child] + 1)",
            "levels[parent] = min(levels.get(parent, 99), levels[child] + 1)",
            GRAPH,
        ),
        Mutation(
            "a parent is forgotten",
            "structure.py",
            "parents={i: vertices[i].parents for i in reached}",
            "parents={i: vertices[i].parents[:1] for i in reached}",
            GRAPH,
        ),
        Mutation(
            "dead ends are kept",
            "structure.py",
            "if child not in levels:\n            continue",
            "levels.setdefault(child, 0)",
            GRAPH,
        ),
        Mutation(
            "edges to the loss need no copies",
            "structure.py",
            "lowest[j] = 0\n",
            "pass\n",
            COPIES,
        ),
        Mutation(
            "one copy too many",
            "structure.py",
            "self.levels[j] - lowest[j] - 1 for",
            "self.levels[j] - lowest[j] for",
            COPIES,
        ),
        Mutation(
            "hooks stay",
            "hooks.py",
            "handles += [m.register_forward_hook(after",
            "_ = [m.register_forward_hook(after",
            LEFT,
        ),
        Mutation(
            "buffers move in every evaluation",
            "graph.py",
            "refuse_changes(self._modules) if first else self._replay.again()",
            "refuse_changes(self._modules)",
            LEFT,
        ),
        Mutation(
            "frozen modules stop errors",
            "hooks.py",
            "            if not _can_be_cut(mu):\n",
            "            if not any(p.requires_grad for p in module.parameters()):\n"
            "                return mu.detach()\n"
            "            if not _can_be_cut(mu):\n",
            FROZEN,
        ),
    ],
    "sweep": [
        Mutation(
            "vertices speak in the order of the shortest way",
            "structure.py",
            "found[self.levels[i]].append(i)",
            "found[self.nearest[i]].append(i)",
            AUTOGRAD,
        ),
        Mutation(
            "the last child has the only word",
            "evaluation.py",
            "self[name] = known + term",
            "self[name] = term",
            AUTOGRAD,
        ),
        Mutation(
            "of three children one is not heard",
            "evaluation.py",
            "known.add_(term)",
            "pass",
            AUTOGRAD,
        ),
        Mutation(
            "what autograd handed out twice is added to in place",
            "evaluation.py",
            "elif name in self._own and not known.is_sparse:",
            "elif not known.is_sparse:",
            APART,
        ),
        Mutation(
            "what arrives is not handed on",
            "evaluation.py",
            "handed[name].data = error.to_dense() if error.is_sparse else error",
            "pass",
            AUTOGRAD,
        ),
        Mutation(
            "a module called twice learns once",
            "lessons.py",
            "self._sums.add_one(id(leaf), gradient)",
            "self._sums[id(leaf)] = gradient",
            STEP_BY_STEP,
        ),
        Mutation(
            "only the parent that came first is seen",
            "structure.py",
            "parents.append(found)",
            "parents[:] = parents[:1] or [found]",
            ORDER,
        ),
        Mutation(
            "vertices inside of vertices speak in the wrong order",
            "structure.py",
            "found[self.levels[i]].append(i)",
            "found[self.nearest[i]].append(i)",
            ANY_CUT,
        ),
        Mutation(
            "errors lose three digits on the way",
            "evaluation.py",
            "error.to_dense() if error.is_sparse else error",
            "(error + 1e3) - 1e3",
            FLOAT32,
        ),
        Mutation(
            "errors change sign on the way",
            "evaluation.py",
            "error.to_dense() if error.is_sparse else error",
            "-error",
            BITS,
        ),
        Mutation(
            "errors are shown late",
            "rules/autograd.py",
            "errors = {**errors, **new}\n            yield errors",
            "yield errors\n            errors = {**errors, **new}",
            LEVEL_BY_LEVEL,
        ),
        Mutation(
            "backpropagation shows the other sign",
            "rules/autograd.py",
            "errors = {i: adjoints[i] for i in graph.hidden}",
            "errors = {i: -adjoints[i] for i in graph.hidden}",
            DELTA,
        ),
        Mutation(
            "gradient= is forgotten in a sweep",
            "graph.py",
            "seed = (lessons.factor * torch.ones_like",
            "seed = (torch.ones_like",
            SCALES,
        ),
        Mutation(
            "gradient= is forgotten elsewhere",
            "evaluation.py",
            "weights = [(factor * w).to(w.dtype) for w in weights]",
            "pass",
            SCALES,
        ),
    ],
    "fixed prediction": [
        Mutation(
            "the sign of what children ask",
            "rules/fixed_prediction.py",
            "(1 - eta) * errors[i] + eta * pulled[i]",
            "(1 - eta) * errors[i] - eta * pulled[i]",
            BINOMIAL,
        ),
        Mutation(
            "errors do not decay",
            "rules/fixed_prediction.py",
            "(1 - eta) * errors[i] + eta * pulled[i]",
            "errors[i] + eta * pulled[i]",
            BINOMIAL,
        ),
        Mutation(
            "the linearisation is not frozen",
            "rules/fixed_prediction.py",
            "pulled = graph.pull(errors)",
            "graph.evaluate({i: graph.feedforward.predictions[i] - errors[i]"
            " for i in errors})\n            pulled = graph.pull(errors)",
            BINOMIAL,
        ),
        Mutation(
            "fresh children instead of all at once",
            "rules/fixed_prediction.py",
            "errors = {i: (1 - eta) * errors[i] + eta * pulled[i] for i in errors}",
            "for i in reversed(graph.hidden):\n                errors = {**errors, i: "
            "(1 - eta) * errors[i] + eta * graph.pull(errors)[i]}",
            BINOMIAL,
        ),
        Mutation(
            "a step too few",
            "rules/fixed_prediction.py",
            "return (float(self.step_size),) * steps",
            "return (float(self.step_size),) * (steps - 1)",
            BINOMIAL,
        ),
        Mutation(
            "steps= is ignored",
            "rules/fixed_prediction.py",
            "steps = depth if self.steps is None else self.steps",
            "steps = depth if self.steps is None else 1",
            PAST_DEPTH,
        ),
        Mutation(
            "errors keep what they had besides what they get",
            "rules/fixed_prediction.py",
            "(1 - eta) * errors[i] + eta * pulled[i]",
            "errors[i] + eta * pulled[i]",
            UNITS,
        ),
        Mutation(
            "every step is as large as the first",
            "rules/fixed_prediction.py",
            "pulled = graph.pull(errors)",
            "eta = schedule[0]\n            pulled = graph.pull(errors)",
            VARYING,
        ),
        Mutation(
            "the loss's own gradient is forgotten",
            "evaluation.py",
            "Sums(self.vjp(errors), weighted)",
            "self.vjp(errors)",
            BINOMIAL,
        ),
        Mutation(
            "a parent of the loss is forgotten",
            "evaluation.py",
            "near = [*self.structure.loss_parents, *cut]",
            "near = [*self.structure.loss_parents[:1], *cut]",
            BINOMIAL,
        ),
        Mutation(
            "of two messages to a vertex the last one counts",
            "evaluation.py",
            "self[name] = known + term",
            "self[name] = term",
            BINOMIAL,
        ),
        Mutation(
            "a parent of a vertex is forgotten",
            "evaluation.py",
            "for i in sent for j in self.structure.parents[i])",
            "for i in sent for j in self.structure.parents[i][:1])",
            BINOMIAL,
        ),
        Mutation(
            "one unit step less than the depth counts as enough",
            "rules/fixed_prediction.py",
            "schedule.count(1.0) >= graph.depth",
            "schedule.count(1.0) >= graph.depth - 1",
            SHORTCUT,
        ),
        Mutation(
            "shares of the level above",
            "rules/fixed_prediction.py",
            "tails[level - 1]",
            "tails[level - 2]",
            SHORTCUT,
        ),
        Mutation(
            "the wave does not travel",
            "rules/fixed_prediction.py",
            "wave = graph.last.vjp(wave)",
            "wave = dict(wave)",
            SHORTCUT,
        ),
        Mutation(
            "shares of all steps but the last",
            "rules/fixed_prediction.py",
            "for eta in schedule:\n        share",
            "for eta in schedule[:-1]:\n        share",
            SHORTCUT,
        ),
    ],
    "zero divergence": [
        Mutation(
            "values go up",
            "rules/zero_divergence.py",
            "self.step_size * (errors[n] - asked[n])",
            "self.step_size * (asked[n] - errors[n])",
            ARRIVAL,
        ),
        Mutation(
            "a vertex's own error does not pull it back",
            "rules/zero_divergence.py",
            "self.step_size * (errors[n] - asked[n])",
            "self.step_size * -asked[n]",
            LEVELLED,
        ),
        Mutation(
            "always a unit step",
            "rules/zero_divergence.py",
            "u + self.step_size * (errors[n]",
            "u + (errors[n]",
            ARRIVAL,
        ),
        Mutation(
            "learning starts a step late",
            "rules/zero_divergence.py",
            "graph.structure.by_level[step]",
            "graph.structure.by_level[step - 1]",
            ARRIVAL,
        ),
        Mutation(
            "the last level is left out",
            "rules/zero_divergence.py",
            "range(1, graph.depth + 1)",
            "range(1, graph.depth)",
            ARRIVAL,
        ),
        Mutation(
            "predictions are frozen",
            "rules/zero_divergence.py",
            "levelled.evaluate(displacement)",
            "type(at)(levelled, [levelled.start] * (graph.depth + 1), displacement)",
            LEVELLED,
        ),
        Mutation(
            "backward forgets the powers",
            "rules/zero_divergence.py",
            "self.step_size**level",
            "self.step_size",
            POWERS,
        ),
        Mutation(
            "identity vertices are not used",
            "levelling.py",
            "return copy_name(parent, self.graph.levels[parent] - level - 1)",
            "return parent",
            ARRIVAL,
        ),
        Mutation(
            "identity vertices do not pass errors on",
            "levelling.py",
            "found.add_one(copy_name(j, q - 1), errors[n])",
            "pass",
            ARRIVAL,
        ),
        Mutation(
            "all copies read the vertex itself",
            "levelling.py",
            "u[copy_name(j, q - 1)] - u[n]",
            "u[j] - u[n]",
            LEVELLED,
        ),
        Mutation(
            "the loss teaches once on every level",
            "levelling.py",
            "with_loss = loss and level == 0",
            "with_loss = loss",
            STEP_BY_STEP,
        ),
        Mutation(
            "values do not start at the feed-forward pass",
            "rules/zero_divergence.py",
            "displacement, errors = levelled.zeros(), levelled.zeros()",
            "displacement = {n: z + 1e-3 for n, z in levelled.zeros().items()}\n"
            "        errors = levelled.zeros()",
            STILL,
        ),
    ],
    "strict": [
        Mutation(
            "the sign of what children ask",
            "objective.py",
            "slopes.pulled[i] - e for i, e in asked.items()",
            "slopes.pulled[i] + e for i, e in asked.items()",
            MATRIX,
        ),
        Mutation(
            "values go up",
            "rules/descent.py",
            "u.add_(force[i], alpha=step_size)",
            "u.sub_(force[i], alpha=step_size)",
            MATRIX,
        ),
        Mutation(
            "predictions are frozen",
            "rules/descent.py",
            "(self.at.predictions[i] - self.start[i]).sub_(u)",
            "-u",
            MATRIX,
        ),
        Mutation(
            "the scale does not reach the values",
            "objective.py",
            "asked = at.pull(slopes.taught, self.scale)",
            "asked = at.pull(slopes.taught)",
            MATRIX,
        ),
        Mutation(
            "the loss pulls at the start only",
            "evaluation.py",
            "torch.full_like(self._loss, loss), *self._like(sent)",
            "torch.zeros_like(self._loss), *self._like(sent)",
            MATRIX,
        ),
        Mutation(
            "a step too few",
            "rules/descent.py",
            "if still or self.step == steps:",
            "if still or self.step == steps - 1:",
            MATRIX,
        ),
        Mutation(
            "the scale is missing from the energy",
            "objective.py",
            "return sum(parts, self.scale * at.loss)",
            "return sum(parts, at.loss)",
            MATRIX,
        ),
        Mutation(
            "earlier states change with later ones",
            "rules/descent.py",
            "{i: self.start[i] + u for",
            "{i: self.at.values[i].copy_(self.start[i] + u) for",
            MATRIX,
        ),
        Mutation(
            "the gradient is not divided by the scale",
            "objective.py",
            "t / self.scale for",
            "t for",
            DESCENT,
        ),
        Mutation(
            "the precision does not reach the errors",
            "objective.py",
            "precision[i] * e if i in precision else e",
            "e",
            DESCENT,
        ),
        Mutation(
            "the slope of a local energy changes sign",
            "objective.py",
            "return found[0], -found[1]",
            "return found[0], found[1]",
            DESCENT,
        ),
        Mutation(
            "incremental forgets the scale",
            "rules/strict.py",
            "graph.accumulate(descent.lesson())",
            "graph.accumulate(descent.errors)",
            EVERY_STATE,
        ),
        Mutation(
            "half the stable step",
            "objective.py",
            "return 2 / eigenvalue if",
            "return 1 / eigenvalue if",
            STEP_SIZE,
        ),
        Mutation(
            "the equilibrium forgets the scale",
            "objective.py",
            "asked = at.pull(slopes.taught, self.scale)",
            "asked = at.pull(slopes.taught)",
            EQUILIBRIUM,
        ),
    ],
    "error optimisation": [
        Mutation(
            "the scale does not reach the errors",
            "rules/descent.py",
            "scale * adjoints[i] - e for",
            "adjoints[i] - e for",
            FIRST,
        ),
        Mutation(
            "errors do not decay",
            "rules/descent.py",
            "scale * adjoints[i] - e for",
            "scale * adjoints[i] for",
            SHIFTED,
        ),
        Mutation(
            "values do not follow",
            "rules/descent.py",
            "self.at = self.graph.evaluate(errors=self.errors)",
            "pass",
            SHIFTED,
        ),
        Mutation(
            "values are shifted the other way",
            "hooks.py",
            "mu.detach() - given if self.shift",
            "mu.detach() + given if self.shift",
            SHIFTED,
        ),
        Mutation(
            "the equilibrium forgets the scale",
            "rules/descent.py",
            "scale * adjoints[i] - e for",
            "adjoints[i] - e for",
            SAME_END,
        ),
    ],
}


def test_every_property_has_a_mutation_that_breaks_it():
    tests = {name for name in vars(test_properties) if name.startswith("test_")}
    assert tests == {m.test for group in MUTATIONS.values() for m in group}


def test_every_mutation_finds_its_text_once():
    counts = {
        (m.what, m.file): (PACKAGE / m.file).read_text(encoding="utf-8").count(m.old)
        for group in MUTATIONS.values()
        for m in group
    }
    assert {row: n for row, n in counts.items() if n != 1} == {}, "rows to bring up"


@pytest.mark.parametrize("group", MUTATIONS)
def test_each_mutation_is_caught_by_the_test_that_is_named(group):
    done = subprocess.run(
        [sys.executable, __file__, group],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["broken"] == {}, "these fail on the package itself"
    survivors = [what for what, caught in report["caught"].items() if not caught]
    assert not survivors, f"not noticed: {survivors}"
    assert len(report["caught"]) == len(MUTATIONS[group])


# ---- in a process of its own ---------------------------------------------------------


def main(group: str) -> None:
    """Print {"broken": {test: why}, "caught": {what: why}} as the last line."""
    from hypothesis import Phase, settings

    # No shrinking: whether a test fails is all that is asked.
    settings.register_profile("quick", phases=[Phase.explicit, Phase.generate])
    settings.load_profile("quick")
    report: dict[str, dict[str, str]] = {"broken": {}, "caught": {}}
    with tempfile.TemporaryDirectory() as folder:
        # That they pass with all examples is what test_properties itself says.
        os.environ["PCNOTES_EXAMPLES"] = "0.1"
        tests = _properties(Path(folder) / "as it is")
        for name in sorted({m.test for m in MUTATIONS[group]}):
            if why := _failure(getattr(tests, name)):
                report["broken"][name] = why
        del os.environ["PCNOTES_EXAMPLES"]
        for k, mutation in enumerate(MUTATIONS[group]):
            tests = _properties(Path(folder) / str(k), mutation)
            report["caught"][mutation.what] = _failure(getattr(tests, mutation.test))
    print(json.dumps(report))


def _properties(folder: Path, mutation: Mutation | None = None) -> Any:
    """The property tests, importing a copy of the package with this mutation in it."""
    copy = folder / PACKAGE.name
    shutil.copytree(PACKAGE, copy)  # with its bytecode, valid where nothing changed
    if mutation is not None:
        file = copy / mutation.file
        text = file.read_text(encoding="utf-8")
        if mutation.old not in text:
            raise SystemExit(f"{mutation.old!r} is not in {mutation.file}")
        changed = text.replace(mutation.old, mutation.new)
        file.write_text(changed, encoding="utf-8")
    for name in list(sys.modules):
        if name.split(".")[0] in (PACKAGE.name, "test_properties"):
            del sys.modules[name]
    sys.path[:] = [str(folder), str(TESTS), *_other_paths()]
    importlib.invalidate_caches()
    tests = importlib.import_module("test_properties")
    assert Path(sys.modules[PACKAGE.name].__file__ or "").parent == copy
    return tests


_PATHS = list(sys.path)


def _other_paths() -> list[str]:
    return [p for p in _PATHS if Path(p or ".").resolve() != TESTS]


def _failure(test: Any) -> str:
    """Why the test fails, for the first of its parameters that makes it; or nothing."""
    for parameters in _parameters(test):
        try:
            test(**parameters)
        except Exception as error:
            return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return ""


def _parameters(test: Any) -> Iterator[dict[str, Any]]:
    marks = [m for m in getattr(test, "pytestmark", []) if m.name == "parametrize"]
    if not marks:
        yield {}
    for mark in marks:
        name, values = mark.args
        yield from ({name: value} for value in values)


if __name__ == "__main__":
    main(sys.argv[1])
