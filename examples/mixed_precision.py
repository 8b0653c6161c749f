"""Autocast, a loss scale and gradient accumulation, by predictive coding.

The scale, and the 1/k of k accumulated batches, go into gradient=. They
multiply what is added to .grad and never enter the energy, so this is right
for every rule. On a GPU this runs in float16, which needs the scale; on a CPU
in bfloat16, which does not.
"""

import copy

import torch
from torch import nn

import pcnotes as pc

PARTS = 4
device = "cuda" if torch.cuda.is_available() else "cpu"
half = torch.float16 if device == "cuda" else torch.bfloat16

torch.manual_seed(0)
model = nn.Sequential(
    nn.Linear(32, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 8)
).to(device)
x = torch.randn(256, 32, device=device)
y = torch.randint(8, (256,), device=device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler(device)
rule = pc.FixedPrediction()


def loss_of(net, part):
    with torch.autocast(device, dtype=half):
        return nn.functional.cross_entropy(net(x[part]), y[part])


def factor():
    return scaler.scale(torch.ones((), device=device)) / PARTS


def accumulate(part):
    # In place of (loss_of(model, part) * factor()).backward():
    pc.backward(model, lambda: loss_of(model, part), rule, gradient=factor())


before = copy.deepcopy(model)
parts = torch.arange(256, device=device).chunk(PARTS)
for part in parts:
    accumulate(part)
scaler.unscale_(optimizer)
nn.utils.clip_grad_norm_(model.parameters(), 10.0)
scaler.step(optimizer)
scaler.update()

for part in parts:  # the same by backpropagation, where the model was before
    (loss_of(before, part) / PARTS).backward()
ours = torch.cat([p.grad.flatten() for p in model.parameters()])
theirs = torch.cat([p.grad.flatten() for p in before.parameters()])
error = (ours - theirs).norm() / theirs.norm()
print(f"one step of SGD from {PARTS} batches in {half} on {device}")
print(f"{rule}: relative error against backpropagation {error:.1g}")
assert error < torch.finfo(half).eps, "more than the rounding of autocast"
