"""Docstrings on the API page: whatever a docstring says is set as it was written."""

import re
import sys

import pytest
from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import roles

from tools.house import ROOT

sys.path.append(str(ROOT / "book" / "_ext"))
from bookext import api

SIGNS = [
    "Stars: *, **, a*b and *args, **options.",
    "Bars: |x|, ‖μ - v‖², a | b, ends_ and more__ of them_.",
    r"A backslash \n, a colon:: at the end::",
    ".. not a directive:: at all",
    "Roles: :func:`no` and `names` such as `*`, `**`, `(name, module) -> bool`.",
    "=====\nNo title\n=====",
    "(1) no list, #. none either, x. nor this",
    "[1]_ is no footnote, <https://example.org> no link_.",
]


@pytest.fixture(autouse=True)
def named_role(monkeypatch):
    monkeypatch.setitem(roles._roles, "named", api.named_role)


def tree(docstring):
    return publish_doctree(
        api.restructured(docstring), settings_overrides={"halt_level": 2}
    )


def shown(document):
    return " ".join(document.astext().split())


@pytest.mark.parametrize("text", SIGNS)
def test_no_sign_is_taken_for_markup(text):
    document = tree(text)
    plain = re.sub(r"`([^`]+)`", r"\1", " ".join(text.split()))
    assert shown(document) == plain
    assert [type(node) for node in document] == [nodes.paragraph]


def test_examples_and_indented_code_stay_as_they_are():
    document = tree("First.\n\n    for x in y:\n        z(*x)\n\n>>> a_ * b\n6")
    _, code, example = document
    assert code.astext() == "for x in y:\n    z(*x)"
    assert example.astext() == ">>> a_ * b\n6"


def test_terms_become_a_list_of_definitions():
    document = tree("at: which calls,\nof modules. parents, levels: by name: so.")
    terms = [node.astext() for node in document.findall(nodes.term)]
    about = [node.astext() for node in document.findall(nodes.definition)]
    assert terms == ["at", "parents, levels"]
    assert about == ["which calls, of modules.", "by name: so."]


def test_a_sentence_with_a_colon_is_no_term():
    document = tree("The one-line change: this becomes that. Printed: much.")
    assert [type(node) for node in document] == [nodes.paragraph]


def test_items_become_a_list():
    document = tree("- one *thing*\n  on two lines\n- another_")
    items = [node.astext() for node in document.findall(nodes.list_item)]
    assert [" ".join(item.split()) for item in items] == [
        "one thing on two lines",
        "another_",
    ]


def test_a_stressed_word_is_emphasised_and_names_are_kept_for_linking():
    document = tree("It is *not* what `pc.backward` does.")
    assert [node.astext() for node in document.findall(nodes.emphasis)] == ["not"]
    assert [node.astext() for node in document.findall(api.named)] == ["pc.backward"]
