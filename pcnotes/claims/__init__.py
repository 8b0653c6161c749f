"""One function per theorem: the statement as a measurement on random instances.

`CLAIMS` maps the label of a theorem in the book to its `Claim`. A claim draws an
instance, computes both sides of the statement independently, and returns the error with
the bound that the theorem promises; its negative controls do the same with one
assumption dropped and must fail. `python -m pcnotes verify` runs them all.
"""

from importlib import import_module

from .registry import CLAIMS, MARGIN, Claim, Measurement, claim

# Importing a module registers its claims, so this is the order of every list of them.
for _module in (
    "backpropagation",
    "predictive_coding",
    "cutting",
    "nudging",
    "fixed_prediction",
    "dynamics",
    "orders",
    "floating_point",
    "zero_divergence",
    "any_graph",
    "cost",
    "parallel",
):
    import_module(f".{_module}", __name__)

__all__ = ["CLAIMS", "MARGIN", "Claim", "Measurement", "claim"]
