"""REINFORCE on a corridor: act first, then a pure closure.

Rules may run the closure several times, so the environment takes no step
inside it: the closure reads what was stored.
"""

import torch
from torch import nn

import pcnotes as pc

CELLS, STEPS, WALKERS = 9, 12, 64

torch.manual_seed(0)
policy = nn.Sequential(nn.Linear(CELLS, 16), nn.Tanh(), nn.Linear(16, 2))
optimizer = torch.optim.Adam(policy.parameters(), lr=2e-2)
rule = pc.FixedPrediction()


def log_probabilities(cells):
    seen = nn.functional.one_hot(cells, CELLS).float()
    return policy(seen).log_softmax(-1)


@torch.no_grad()
def roll_out():
    """Left or right from the middle; each step in the last cell pays one."""
    cell = torch.full((WALKERS,), CELLS // 2)
    cells, actions, rewards = [], [], []
    for _ in range(STEPS):
        action = torch.multinomial(log_probabilities(cell).exp(), 1).squeeze(
            1
        )
        cells.append(cell)
        actions.append(action)
        cell = (cell + 2 * action - 1).clamp(0, CELLS - 1)
        rewards.append((cell == CELLS - 1).float())
    to_come = torch.stack(rewards).flip(0).cumsum(0).flip(0)
    return torch.stack(cells), torch.stack(actions), to_come


def surrogate(cells, actions, to_come):
    advantage = to_come - to_come.mean(1, keepdim=True)
    taken = (
        log_probabilities(cells).gather(-1, actions[..., None]).squeeze(-1)
    )
    return -(advantage * taken).mean()


def train(stored):
    optimizer.zero_grad()
    # In place of loss.backward():
    pc.backward(policy, lambda: surrogate(*stored), rule)
    optimizer.step()
    return stored[2][0].mean()


returns = [train(roll_out()) for _ in range(40)]
stored = roll_out()
table = pc.compare(policy, lambda: surrogate(*stored), [rule])
error = table.rows[0]["relative_error"]
print(f"mean return: {returns[0]:.2f} at first, {returns[-1]:.2f} in the end")
print(f"{rule}: relative error against backpropagation {error:.1g}")
assert error < 1e-5, "more than the rounding of float32"
