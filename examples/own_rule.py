"""A rule of your own: a dozen lines, and it works wherever our rules do.

Here: fixed prediction with momentum. Its errors obey a linear recursion whose
only fixed point is backpropagation's, so at a stable step and momentum they
end there.
"""

from dataclasses import dataclass

import torch
from torch import nn

import pcnotes as pc


@dataclass(frozen=True)
class Momentum:
    step_size: float = 0.5
    momentum: float = 0.3
    steps: int = 60

    def run(self, graph):
        graph.evaluate()
        before = errors = graph.zeros()
        yield errors
        for _ in range(self.steps):
            asked, moved = graph.pull(errors), {}
            for i, e in errors.items():
                push = self.momentum * (e - before[i])
                moved[i] = e + self.step_size * (asked[i] - e) + push
            before, errors = errors, moved
            yield errors


torch.manual_seed(0)
layers = nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh()
model = nn.Sequential(*layers, nn.Linear(16, 1)).double()
x, y = torch.randn(32, 8).double(), torch.randn(32, 1).double()


def closure():
    return nn.functional.mse_loss(model(x), y)


# In place of loss.backward():
pc.backward(model, closure, Momentum())
for state in pc.infer(model, closure, Momentum(steps=3)):
    told = [f"{i} {float(e.norm()):.3f}" for i, e in state.errors.items()]
    print(f"step {state.step}  size of the errors: {', '.join(told)}")

table = pc.compare(model, closure, [Momentum(), Momentum(steps=5)])
print(table)
after_sixty, after_five = [row["relative_error"] for row in table.rows]
assert after_sixty < 1e-12 < 1e-3 < after_five

history = pc.fit(
    model,
    [(x, y)],
    nn.functional.mse_loss,
    torch.optim.SGD(model.parameters(), lr=0.1),
    rule=Momentum(),
    epochs=20,
    progress=False,
)
losses = history["loss"]
print(f"loss {losses[0]:.3f} at first, {losses[-1]:.3f} in the end")
