"""When does predictive coding compute the gradient of backpropagation?

The package of the book: `backward` puts a rule's gradient into `.grad` of any PyTorch
model, `infer` watches a rule at work, `compare` holds rules against backpropagation,
`cut` shows the graph. Input to label, error = prediction minus value.
"""

from .evaluation import Evaluation
from .graph import Graph, cut
from .learning import Comparison, State, backward, compare, infer
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
    "Incremental",
    "Rule",
    "State",
    "Strict",
    "backward",
    "compare",
    "cut",
    "infer",
]
