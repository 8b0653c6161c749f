"""A GRU reads a noisy wave and says how fast it is, by predictive coding.

The cell is called once for each time step. Each call is a vertex, named
cell@1, cell@2 and so on; what the calls contribute to the shared weights is
summed.
"""

import torch
from torch import nn

import pcnotes as pc

TIME = 16

torch.manual_seed(0)


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(1, 24)
        self.speed = nn.Linear(24, 1)

    def forward(self, wave):
        h = wave.new_zeros(len(wave), 24)
        for now in wave.unbind(1):
            h = self.cell(now[:, None], h)
        return self.speed(h).squeeze(1)


def waves(count):
    speed = torch.rand(count) + 0.2
    phase = 6.3 * torch.rand(count, 1)
    clean = torch.sin(speed[:, None] * torch.arange(TIME) + phase)
    return clean + 0.1 * torch.randn(count, TIME), speed


model = Reader()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
rule = pc.FixedPrediction()


def loss_of(wave, speed):
    return nn.functional.mse_loss(model(wave), speed)


def train(wave, speed):
    optimizer.zero_grad()
    # In place of loss.backward():
    loss = pc.backward(model, lambda: loss_of(wave, speed), rule)
    optimizer.step()
    return loss


losses = [train(*waves(64)) for _ in range(100)]
wave, speed = waves(64)
graph = pc.cut(model, lambda: loss_of(wave, speed))
table = pc.compare(model, lambda: loss_of(wave, speed), [rule])
error = table.rows[0]["relative_error"]
print(f"squared error: {losses[0]:.3f} at first, {losses[-1]:.3f} in the end")
print(
    f"depth {graph.depth}, relative error against backpropagation {error:.1g}"
)
assert error < 1e-5, "more than the rounding of float32"
