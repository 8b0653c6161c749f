"""A CNN with batch norm and dropout on the digits, by predictive coding.

The loop is PyTorch's own but for one line. Needs scikit-learn, which carries
the data.
"""

import torch
from torch import nn

import pcnotes as pc
from pcnotes.data import digits

torch.manual_seed(0)
images, labels = digits()
images = images.view(-1, 1, 8, 8)
training, test = slice(0, 1500), slice(1500, None)

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.BatchNorm2d(16),
    nn.ReLU(inplace=True),
    nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1),
    nn.BatchNorm2d(32),
    nn.ReLU(inplace=True),
    nn.Flatten(),
    nn.Dropout(0.3),
    nn.Linear(512, 10),
)
loss_fn = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
rule = pc.FixedPrediction()  # any other rule works in the same place


def train(x, y):
    optimizer.zero_grad()
    # In place of loss.backward():
    pc.backward(model, lambda: loss_fn(model(x), y), rule)
    optimizer.step()


for _ in range(2):
    for batch in torch.randperm(1500).split(50):
        train(images[training][batch], labels[training][batch])

# Under `compare` each run draws the same dropout masks, and statistics stay.
x, y = images[:50], labels[:50]
table = pc.compare(model, lambda: loss_fn(model(x), y), [rule])
error = table.rows[0]["relative_error"]

model.eval()
right = model(images[test]).argmax(1) == labels[test]
print(f"test accuracy {right.float().mean():.3f} after 2 epochs")
print(f"{rule}: relative error against backpropagation {error:.1g}")
assert error < 1e-5, "more than the rounding of float32"
