"""Gradient descent of the energy in the values: inference learning, and incremental."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..evaluation import Errors
from ..graph import Graph
from ..objective import LocalEnergy, Precision
from .descent import Descends, InValues


@dataclass(frozen=True)
class Strict(Descends):
    """Values descend the energy E_β; the parameters learn once, at the last values.

    One step takes every value v to v - step_size·∂E_β/∂v, all at once, where E_β sums
    ½‖μ - v‖² over hidden vertices and adds scale·loss; it starts at the feed-forward
    pass. Predictions are computed anew after every step. `infer` yields v(n) with ε(n)
    = μ(v(n)) - v(n), n = 0 to steps; `.grad` receives ∇E_β/β in the parameters at
    v(steps), so that scale → 0 after convergence is backpropagation (Whittington and
    Bogacz 2017) and a change of scale does not change the learning rate. In general it
    is *not* backpropagation's gradient.

    step_size: > 0; beyond `graph.step_size(rule)` inference diverges. It raises when
    the energy is not finite or has grown ten-fold by the end. scale: β, the weight of
    the loss; with a loss that is a mean over B samples, scale=B restores each sample's
    own error. tolerance: stop once ‖∇E‖ in the values has fallen to this share of its
    first value. precision: π > 0 for hidden energies ½π‖μ - v‖², a number, a tensor
    that is broadcast, or {vertex: such}. energy: another local energy, a function (μ,
    v) -> scalar, or {vertex: such} (Pinchetti et al. 2022). Vertices in such mappings
    are names with `*` and `**` as in at=.

    The displacement from the feed-forward pass is what is integrated: small errors keep
    their digits.

    >>> import torch, pcnotes as pc
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    >>> loss = pc.backward(net, lambda: net(torch.ones(4, 2)).square().sum(),
    ...                    pc.Strict(step_size=0.1, steps=20, scale=0.1))
    >>> net[0].weight.grad.shape
    torch.Size([3, 2])
    """

    tolerance: float | None = None
    precision: Precision | Mapping[str, Precision] | None = None
    energy: LocalEnergy | Mapping[str, LocalEnergy] | None = None

    def run(self, graph: Graph) -> Iterator[Errors]:
        """The descent, step by step."""
        descent = InValues(graph, self.objective(), self)
        return descent.walk(self.steps, self.step_size, self.tolerance)


@dataclass(frozen=True)
class Incremental(Descends):
    """Values and parameters descend together: the parameters learn at every step.

    At each state, the feed-forward pass included, `.grad` receives ∇E_β/β in the
    parameters at that state (it is added, as always), and whoever runs the rule calls
    the optimizer before the next one: `fit` does, or a loop of your own,

        for state in pc.infer(model, closure, pc.Incremental()):
            optimizer.step(); optimizer.zero_grad()

    The values' step uses the gradient from before the parameters moved, so both move at
    once (Salvatori et al. 2024). `backward` refuses this rule: one gradient is not what
    it computes. Arguments as for `Strict`; steps value updates, steps + 1 lessons.

    >>> import torch, pcnotes as pc
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    >>> for state in pc.infer(net, lambda: net(torch.ones(4, 2)).square().sum(),
    ...                       pc.Incremental(step_size=0.1, steps=3)):
    ...     optimizer.step(); optimizer.zero_grad()
    """

    precision: Precision | Mapping[str, Precision] | None = None
    energy: LocalEnergy | Mapping[str, LocalEnergy] | None = None

    def run(self, graph: Graph) -> Iterator[Errors]:
        """The joint descent; `.grad` has grown by the time a state is yielded."""
        descent = InValues(graph, self.objective(), self)
        for descent.step in range(self.steps + 1):
            descent.energy()
            force = descent.force() if descent.step < self.steps else {}
            graph.accumulate(descent.lesson())
            yield descent.errors
            if force:
                descent.move(force, self.step_size)
