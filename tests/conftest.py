"""Fixtures of the tests that take every rule, on what tests/every_rule.py offers."""

import pytest
from every_rule import EQUAL_TO_BP, EVERY, float64

double = pytest.fixture(float64)
rule = pytest.fixture(params=EVERY, ids=str)(lambda request: request.param)
exact = pytest.fixture(params=EQUAL_TO_BP, ids=str)(lambda request: request.param)
