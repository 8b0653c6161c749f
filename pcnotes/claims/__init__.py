"""One function per theorem: the statement as a measurement on random instances.

`CLAIMS` maps the label of a theorem in the book to its `Claim`. A claim draws an
instance, computes both sides of the statement independently, and returns the error with
the bound that the theorem promises; its negative controls do the same with one
assumption dropped and must fail. `python -m pcnotes verify` runs them all.
"""

from importlib import import_module

from .registry import CLAIMS, MARGIN, Claim, Measurement, claim

# The chapters with their modules. Importing a module registers its claims, so this is
# the order of every list of them.
_CHAPTERS = {
    "backpropagation": ("paths", "multiplier", "work"),
    "predictive_coding": ("log_joint", "gradients", "charts", "outputs"),
    "cutting_a_graph": ("locality", "invariance"),
    "nudging": (
        *("saddle", "rest", "distance", "uniqueness"),
        *("ratio", "bias", "finer_cuts", "linear"),
    ),
    "fixed_prediction": ("arrival", "dynamics", "orders", "floating_point"),
    "zero_divergence": ("recursion", "exactness", "steps", "online"),
    "any_graph": ("cone", "weak", "unified", "naive", "identities"),
    "architectures": ("sharing", "time", "batches", "kinks", "patterns", "coarser"),
    "other_energies": ("two_slopes", "frozen", "nudged", "live", "softmax"),
    "cost": ("work", "parallel"),
}
for _chapter, _modules in _CHAPTERS.items():
    for _module in _modules:
        import_module(f".{_chapter}.{_module}", __name__)

__all__ = ["CLAIMS", "MARGIN", "Claim", "Measurement", "claim"]
