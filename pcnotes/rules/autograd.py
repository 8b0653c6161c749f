"""Backpropagation itself, and the same gradient from the errors of a cut graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..evaluation import Errors
from ..graph import Graph


@dataclass(frozen=True)
class Backprop:
    """Plain autograd on the uncut network, for comparison.

    >>> import torch, pcnotes as pc
    >>> net = torch.nn.Linear(2, 1)
    >>> loss = pc.backward(net, lambda: net(torch.ones(3, 2)).sum(), pc.Backprop())
    >>> net.weight.grad
    tensor([[3., 3.]])
    """

    def run(self, graph: Graph) -> Iterator[Errors]:
        """Step 0, then δ for every hidden vertex."""
        graph.evaluate()
        yield graph.zeros()
        adjoints = graph.uncut().adjoints()
        errors = {i: adjoints[i] for i in graph.hidden}
        graph.learn(errors, loss=True)
        yield errors

    def teach(self, graph: Graph) -> None:
        """One pass of autograd through the uncut loss."""
        whole = graph.uncut()
        if graph.lessons is not None:
            graph.lessons.add({}, whole.gradients(graph.lessons.factor))


@dataclass(frozen=True)
class Exact:
    """One reverse sweep over the cut graph: each vertex's error from its children's.

    A vertex speaks once, when all of its children have spoken: ε = Jᵀε + g, where Jᵀε
    is what they send and g is the gradient of the loss at its parents. So the errors
    are backpropagation's on every graph (`fp-asynchronous`); Rosenbaum (2022) calls
    this mode “Exact”. Parameters are read at the feed-forward pass. `infer` shows the
    errors arrive level by level: K steps on a graph of depth K.

    >>> import torch, pcnotes as pc
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    >>> loss = pc.backward(net, lambda: net(torch.ones(4, 2)).sum(), pc.Exact())
    >>> net[0].weight.grad.shape
    torch.Size([3, 2])
    """

    def run(self, graph: Graph) -> Iterator[Errors]:
        """The sweep, one level a step; the state of step k has levels 1 to k."""
        adjoints = graph.evaluate().adjoints()
        errors = graph.zeros()
        for level, names in enumerate(graph.structure.by_level):
            new = {i: adjoints[i] for i in names if i in errors}
            graph.learn(new, loss=level == 0)
            errors = {**errors, **new}
            yield errors

    def teach(self, graph: Graph) -> None:
        """The same sweep, which sends errors to parents and parameters at once."""
        graph.sweep()
