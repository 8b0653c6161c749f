"""The energy descended in the errors; values follow by a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..evaluation import Errors
from ..graph import Graph
from .descent import Descends, InErrors


@dataclass(frozen=True)
class ErrorOptimisation(Descends):
    """The errors descend the energy ½‖ε‖² + β·loss; values are rebuilt from them.

    The network is run with every prediction shifted, v = μ - ε. In these coordinates
    the energy's gradient is ε - β·δ(ε), where δ(ε) is backpropagation through the
    shifted network; one step takes ε to ε - step_size·(ε - β·δ(ε)), from zero.
    Equilibria are those of `Strict`; the way there is not local: every step is a
    forward pass and a whole reverse sweep (Goemaere et al. 2025). The first step with
    step_size 1 and scale 1 puts ε at backpropagation's errors.

    `infer` yields ε(n) with the values v(n) = μ(v(n)) - ε(n), n = 0 to steps; `.grad`
    receives ∇E_β/β in the parameters at v(steps).

    step_size: > 0; below 2 it is stable where the loss is nearly flat in the shifts.
    scale: β. tolerance: stop once ‖ε - β·δ‖ is this share of its first value.

    >>> import torch, pcnotes as pc
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    >>> loss = pc.backward(net, lambda: net(torch.ones(4, 2)).square().sum(),
    ...                    pc.ErrorOptimisation(steps=5, scale=0.1))
    >>> net[0].weight.grad.shape
    torch.Size([3, 2])
    """

    tolerance: float | None = None

    def run(self, graph: Graph) -> Iterator[Errors]:
        """The descent, step by step."""
        descent = InErrors(graph, self.objective(), self)
        return descent.walk(self.steps, self.step_size, self.tolerance)
