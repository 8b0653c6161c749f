"""When does predictive coding compute the gradient of backpropagation?

The package of the book: `backward` puts a rule's gradient into `.grad` of any PyTorch
model, `infer` watches a rule at work, `compare` holds rules against backpropagation,
`fit` trains, `cut` shows the graph. Input to label, error = prediction minus value.
"""

from .comparison import Comparison, compare
from .evaluation import Evaluation
from .graph import Graph, cut
from .learning import State, backward, infer
from .rules import (
    ZIL,
    Backprop,
    ErrorOptimisation,
    Exact,
    FixedPrediction,
    Incremental,
    Rule,
    Strict,
)
from .training import History, fit

__version__ = "0.1.0"

__all__ = [
    "ZIL",
    "Backprop",
    "Comparison",
    "ErrorOptimisation",
    "Evaluation",
    "Exact",
    "FixedPrediction",
    "Graph",
    "History",
    "Incremental",
    "Rule",
    "State",
    "Strict",
    "backward",
    "compare",
    "cut",
    "fit",
    "infer",
]
