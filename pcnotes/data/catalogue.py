"""The three sets of images: what their publishers say of them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Part = Literal["train", "test"]
PARTS: tuple[Part, ...] = get_args(Part)

# Pixels 0..255 of shape (count, channels, height, width), labels of shape (count,).
Raw = tuple[NDArray[np.uint8], NDArray[np.int64]]

CLASSES = 10


@dataclass(frozen=True)
class Collection:
    """A set of images with ten classes.

    shape: channels, height, width. counts: how many images each part has. first: the
    first ten labels of each part in the published order. openml: the set's number at
    openml.org, where the rows of both parts stand below each other. files: what the
    original files are called, by part; images before labels where they are apart.
    """

    name: str
    title: str
    shape: tuple[int, int, int]
    counts: dict[Part, int]
    first: dict[Part, tuple[int, ...]]
    openml: int
    files: dict[Part, tuple[str, ...]]

    @property
    def pixels(self) -> int:
        """How many numbers an image is."""
        return int(np.prod(self.shape))


_IDX: dict[Part, tuple[str, ...]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
COLLECTIONS = {
    c.name: c
    for c in (
        Collection(
            "mnist",
            "MNIST",
            (1, 28, 28),
            {"train": 60_000, "test": 10_000},
            {
                "train": (5, 0, 4, 1, 9, 2, 1, 3, 1, 4),
                "test": (7, 2, 1, 0, 4, 1, 4, 9, 5, 9),
            },
            554,
            _IDX,
        ),
        Collection(
            "fashion-mnist",
            "Fashion-MNIST",
            (1, 28, 28),
            {"train": 60_000, "test": 10_000},
            {
                "train": (9, 0, 0, 3, 0, 2, 7, 2, 5, 5),
                "test": (9, 2, 1, 1, 6, 1, 4, 6, 5, 7),
            },
            40996,
            _IDX,
        ),
        Collection(
            "cifar-10",
            "CIFAR-10",
            (3, 32, 32),
            {"train": 50_000, "test": 10_000},
            {
                "train": (6, 9, 9, 4, 1, 1, 2, 7, 8, 3),
                "test": (3, 8, 8, 0, 6, 6, 1, 6, 3, 1),
            },
            40927,
            {
                "train": tuple(f"data_batch_{k}" for k in range(1, 6)),
                "test": ("test_batch",),
            },
        ),
    )
}


def find(name: str) -> Collection:
    """The collection of this name."""
    try:
        return COLLECTIONS[name]
    except (KeyError, TypeError):
        near = difflib.get_close_matches(str(name).lower(), COLLECTIONS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join(COLLECTIONS)
        raise ValueError(f"no images {name!r}; {hint}known are {known}") from None


def check(where: object, collection: Collection, raw: Raw) -> Raw:
    """The same, or a ValueError that says what is wrong with what was read there."""
    x, y = raw
    if x.dtype != np.uint8 or x.shape[1:] != collection.shape:
        raise ValueError(
            f"{where}: images are {x.dtype} of shape {x.shape[1:]}, those of "
            f"{collection.title} are uint8 of shape {collection.shape}"
        )
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise ValueError(
            f"{where}: labels are {y.dtype} of shape {y.shape}, not one whole number "
            "for each image"
        )
    if len(x) != len(y):
        raise ValueError(
            f"{where}: {len(x)} images but {len(y)} labels; they do not belong together"
        )
    if not len(x):
        raise ValueError(f"{where}: there are no images in it")
    if y.min() < 0 or y.max() >= CLASSES:
        raise ValueError(
            f"{where}: labels are {y.min()}..{y.max()}, those of {collection.title} "
            f"are 0..{CLASSES - 1}"
        )
    return x, y.astype(np.int64, copy=False)
