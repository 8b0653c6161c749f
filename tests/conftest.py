"""Fixtures of the tests that take every rule, on what tests/every_rule.py offers."""

import pytest
import torch
from every_rule import EQUAL_TO_BP, EVERY, float64

double = pytest.fixture(float64)
rule = pytest.fixture(params=EVERY, ids=str)(lambda request: request.param)
exact = pytest.fixture(params=EQUAL_TO_BP, ids=str)(lambda request: request.param)


@pytest.fixture
def one_thread():
    """Sums of one order, whatever the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
