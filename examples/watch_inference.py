"""Watch inference: energy and errors after each step; optionally a figure.

`python watch_inference.py FILE.svg` writes the figure (needs matplotlib).
Leave the generator when you like: nothing is kept, and .grad is not touched.
"""

import sys

import torch
from torch import nn

import pcnotes as pc

torch.manual_seed(0)
model = nn.Sequential(
    nn.Linear(8, 16),
    nn.Tanh(),
    nn.Linear(16, 16),
    nn.Tanh(),
    nn.Linear(16, 1),
).double()
x, y = torch.randn(32, 8).double(), torch.randn(32, 1).double()


def closure():
    return nn.functional.mse_loss(model(x), y, reduction="sum")


rule = pc.Strict(step_size=0.1, steps=200)
energies, sizes = [], []
for state in pc.infer(model, closure, rule):
    energies.append(float(state.energy))
    sizes.append({i: float(e.norm()) for i, e in state.errors.items()})
    if state.step % 10 == 0:
        told = ", ".join(f"{i} {size:.2f}" for i, size in sizes[-1].items())
        print(
            f"step {state.step:3}  energy {energies[-1]:.3f}  errors: {told}"
        )
    if state.step and energies[-2] - energies[-1] < 1e-3 * energies[-1]:
        break  # the energy has settled

assert energies == sorted(energies, reverse=True), "inference went uphill"

if len(sys.argv) > 1:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="tight")
    left.plot(energies)
    left.set(xlabel="step", ylabel="energy")
    for vertex in sizes[0]:
        right.plot([size[vertex] for size in sizes], label=vertex)
    right.set(xlabel="step", ylabel="size of the error")
    right.legend(title="vertex")
    figure.savefig(sys.argv[1])
