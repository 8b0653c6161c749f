"""Two tasks on one trunk: which digit it is, and how much ink was used.

Both losses are in one closure, so the trunk hears both errors at once. Needs
scikit-learn, which carries the data.
"""

import torch
from torch import nn
from torch.nn import functional as F

import pcnotes as pc
from pcnotes.data import digits

torch.manual_seed(0)
images, labels = digits()
ink = images.mean(1)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh()
        )
        self.digit, self.ink = nn.Linear(32, 10), nn.Linear(32, 1)

    def forward(self, x):
        h = self.trunk(x)
        return self.digit(h), self.ink(h).squeeze(1)


model = TwoHeads()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
rule = pc.FixedPrediction()


def both(index):
    digit, used = model(images[index])
    return F.cross_entropy(digit, labels[index]) + 3 * F.mse_loss(
        used, ink[index]
    )


def train(index):
    optimizer.zero_grad()
    # In place of loss.backward():
    pc.backward(model, lambda: both(index), rule)
    optimizer.step()


for _ in range(3):
    for index in torch.randperm(1500).split(50):
        train(index)

table = pc.compare(model, lambda: both(torch.arange(50)), [rule])
error = table.rows[0]["relative_error"]
digit, used = model(images[1500:])
right = (digit.argmax(1) == labels[1500:]).float().mean()
away = (used - ink[1500:]).abs().mean() / ink[1500:].mean()
print(f"test: accuracy {right:.3f}, ink within {away:.1%} on average")
print(f"{rule}: relative error against backpropagation {error:.1g}")
assert error < 1e-5, "more than the rounding of float32"
