"""Closed forms: what the theorems predict.

Each function is one formula of the book and names the statement that it belongs to.
Nothing here knows the rules or the graphs of this package: numbers in, numbers out, so
that theory and implementation can check each other.

Words used throughout. n: steps done. eta: step size η. distance d: number of edges on a
path from a vertex to the loss; a parent of the loss has 1. M: the transposed Jacobian
Jᵀ of all predictions at the feed-forward pass, N × N; g: the loss's own gradient there,
N; both with the vertices in topological order.
"""

from .arrays import Array, Parents
from .arrival import (
    arrival_bound,
    arrival_moments,
    arrived,
    binomial_tail,
    erlang_tail,
    gauss_seidel_tail,
    incomplete_beta,
    remaining,
    steps_needed,
    transient_bound,
    transient_floor,
)
from .energies import (
    descent_energies,
    linear_equilibrium,
    linear_residual,
    nudge_bound,
    orthogonal_chain_energy,
)
from .graphs import (
    clear,
    delays,
    distances,
    eliminate,
    live_errors,
    moral_distances,
    path_parts,
    rounds_needed,
)
from .rounding import gamma, half_gap, plateau

__all__ = [
    "Array",
    "Parents",
    "arrival_bound",
    "arrival_moments",
    "arrived",
    "binomial_tail",
    "clear",
    "delays",
    "descent_energies",
    "distances",
    "eliminate",
    "erlang_tail",
    "gamma",
    "gauss_seidel_tail",
    "half_gap",
    "incomplete_beta",
    "linear_equilibrium",
    "linear_residual",
    "live_errors",
    "moral_distances",
    "nudge_bound",
    "orthogonal_chain_energy",
    "path_parts",
    "plateau",
    "remaining",
    "rounds_needed",
    "steps_needed",
    "transient_bound",
    "transient_floor",
]
