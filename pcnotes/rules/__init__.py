"""The rules: how errors find their values on a cut graph, one family a module."""

from .autograd import Backprop, Exact
from .error_optimisation import ErrorOptimisation
from .fixed_prediction import FixedPrediction
from .protocol import Rule, check_rule, label, objective, run, teach
from .strict import Incremental, Strict
from .zero_divergence import ZIL

__all__ = [
    "ZIL",
    "Backprop",
    "ErrorOptimisation",
    "Exact",
    "FixedPrediction",
    "Incremental",
    "Rule",
    "Strict",
    "check_rule",
    "label",
    "objective",
    "run",
    "teach",
]
