"""A generator and a discriminator by predictive coding, an optimizer each.

The generator's errors come through the discriminator, so its step is given
both models. The discriminator's step needs the discriminator alone.
"""

import torch
from torch import nn
from torch.nn import functional as F

import pcnotes as pc

torch.manual_seed(0)
generator = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
discriminator = nn.Sequential(
    nn.Linear(2, 32),
    nn.LeakyReLU(0.2),
    nn.Linear(32, 32),
    nn.LeakyReLU(0.2),
    nn.Linear(32, 1),
)
both = [generator, discriminator]
options = {"lr": 3e-3, "betas": (0.5, 0.999)}
optimizer_g = torch.optim.Adam(generator.parameters(), **options)
optimizer_d = torch.optim.Adam(discriminator.parameters(), **options)
rule = pc.FixedPrediction()


def real(count=128):
    """Points on a circle around (2, -1)."""
    angle = 6.2832 * torch.rand(count)
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    return torch.tensor([2.0, -1.0]) + circle + 0.05 * torch.randn(count, 2)


def told_apart(points, fakes):
    """Low where the discriminator is right about both."""
    right = F.softplus(-discriminator(points)).mean()
    return right + F.softplus(discriminator(fakes)).mean()


def taken_for_real(z):
    """Low where the discriminator is fooled."""
    return F.softplus(-discriminator(generator(z))).mean()


def train(points, z):
    fakes = generator(z).detach()
    optimizer_d.zero_grad()
    # In place of loss.backward():
    pc.backward(discriminator, lambda: told_apart(points, fakes), rule)
    optimizer_d.step()

    optimizer_g.zero_grad()
    # This adds to the discriminator's .grad too; zero_grad() above drops it.
    pc.backward(both, lambda: taken_for_real(z), rule)
    optimizer_g.step()


for _ in range(250):
    train(real(), torch.randn(128, 4))

z = torch.randn(128, 4)
table = pc.compare(both, lambda: taken_for_real(z), [rule])
error = table.rows[0]["relative_error"]
right, up = generator(torch.randn(2000, 4)).mean(0)
print(f"centre of the circle (2, -1), of the fakes ({right:.1f}, {up:.1f})")
print(f"{rule}: relative error against backpropagation {error:.1g}")
assert error < 1e-5, "more than the rounding of float32"
