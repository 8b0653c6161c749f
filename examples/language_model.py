"""A character model with causal attention and tied embeddings.

Trained by predictive coding. The embedding is read twice, at the bottom and
at the top; what both contribute to its gradient is summed.
"""

import torch
from torch import nn
from torch.nn import functional as F

import pcnotes as pc

TEXT = """
The first layer guesses what the second will see, the second guesses what
the third will see, and the last one guesses the word. Each guess is
compared with what is there. Where the guess is wrong an error remains, and
every error speaks only to the layer below and to the weights beside it. Let
the errors settle, and then let the weights learn a little. Read the next
line, guess again, compare again: what was surprising at first is soon
expected, and what is expected leaves no error behind.
"""
LENGTH, WIDTH, HEADS = 32, 48, 4

torch.manual_seed(0)
letters = sorted(set(TEXT))
text = torch.tensor([letters.index(letter) for letter in TEXT])


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.heads = nn.Linear(WIDTH, 3 * WIDTH)
        self.joined = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, 2 * WIDTH),
            nn.GELU(),
            nn.Linear(2 * WIDTH, WIDTH),
        )

    def forward(self, h):
        heads = self.heads(self.norm(h)).unflatten(-1, (3, HEADS, -1))
        heads = heads.permute(2, 0, 3, 1, 4)  # queries, keys, values
        seen = F.scaled_dot_product_attention(*heads, is_causal=True)
        h = h + self.joined(seen.transpose(1, 2).flatten(2))
        return h + self.mlp(h)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(len(letters), WIDTH)
        nn.init.normal_(self.tokens.weight, std=0.1)
        self.places = nn.Parameter(torch.zeros(LENGTH, WIDTH))
        self.blocks = nn.Sequential(Block(), Block())
        self.last = nn.LayerNorm(WIDTH)

    def forward(self, index):
        h = self.blocks(self.tokens(index) + self.places)
        return F.linear(self.last(h), self.tokens.weight)  # tied


model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
rule = pc.FixedPrediction()


def batch(size=16):
    starts = torch.randint(len(text) - LENGTH - 1, (size, 1))
    piece = text[starts + torch.arange(LENGTH + 1)]
    return piece[:, :-1], piece[:, 1:]


def loss_of(x, y):
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


def train(x, y):
    optimizer.zero_grad()
    # In place of loss.backward():
    loss = pc.backward(model, lambda: loss_of(x, y), rule)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss


losses = [train(*batch()) for _ in range(80)]
x, y = batch()
table = pc.compare(model, lambda: loss_of(x, y), [rule])
error = table.rows[0]["relative_error"]
print(
    f"nats a character: {losses[0]:.2f} at first, {losses[-1]:.2f} in the end"
)
print(f"{rule}: relative error against backpropagation {error:.1g}")
assert error < 1e-5, "more than the rounding of float32"
