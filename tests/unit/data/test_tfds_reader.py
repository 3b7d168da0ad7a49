"""TFDS directories, read without TensorFlow: a small one made here by hand, with array_record and TFDS's features.

What holds `data/tfds_source.py` and `data/decoding.py` too.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from helpers.processes import long
from helpers.waiting import wait_until
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from jaxdist import data
from jaxdist.data.decoding import DecoderLost
from jaxdist.data.tfds_source import open_splits
from jaxdist.errors import UsageError

# What TFDS's own builder writes for a data set of 6x6 grey images.
FEATURES = {
    "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
    "featuresDict": {
        "features": {
            "image": {
                "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
                "image": {"shape": {"dimensions": ["6", "6", "1"]}, "dtype": "uint8", "encodingFormat": "png"},
            },
            "label": {
                "pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
                "classLabel": {"numClasses": "10"},
            },
        }
    },
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> pathlib.Path:
    """A directory like those of `tools/prepare_data.py`, with 30 training and 10 test images."""
    root = tmp_path_factory.mktemp("tfds")
    folder = root / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    splits = []
    for name, n in (("train", 30), ("test", 10)):
        write_split(folder, name, n)
        pattern = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        splits.append({"name": name, "filepathTemplate": pattern, "numBytes": "1", "shardLengths": [str(n)]})
    info = {"name": "mnist", "version": "3.0.1", "fileFormat": "array_record", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(json.dumps(FEATURES))
    (folder / "label.labels.txt").write_text("\n".join(map(str, range(10))))
    return root


def image(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, size=(6, 6, 1), dtype=np.uint8)


def write_split(folder, split, n):
    writer = ArrayRecordWriter(str(folder / f"mnist-{split}.array_record-00000-of-00001"), "group_size:1")
    for k in range(n):
        png = io.BytesIO()
        Image.fromarray(image(k)[..., 0]).save(png, format="png")
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(png.getvalue())
        example.features.feature["label"].int64_list.value.append(k % 10)
        writer.write(example.SerializeToString())
    writer.close()


@pytest.mark.parametrize(
    ("cache", "workers"), [("memory", 0), ("file", 0), ("none", 0), long("memory", 1), long("file", 2)]
)
def test_reads_what_was_written(prepared, cache, workers):
    for _ in range(2):  # the second time from the cache
        dataset = data.load("mnist", data_dir=str(prepared), cache=cache, workers=workers)
        assert not children()
        assert (len(dataset.train), len(dataset.evaluation), dataset.num_classes) == (30, 10, 10)
        np.testing.assert_array_equal(dataset.train.take(np.array([3, 0, 29])), [image(3), image(0), image(29)])
        assert dataset.evaluation.labels.tolist() == list(range(10))
        assert dataset.train.select(10, 20).take(np.array([1])).tolist() == [image(11).tolist()]


@pytest.mark.parametrize(("cache", "splits"), [("memory", 2), ("none", 0), ("file", 0)])
def test_decoding_whole_splits_is_told(prepared, cache, splits):
    data.load("mnist", data_dir=str(prepared), cache="file")  # is there by then
    opened = []

    @contextlib.contextmanager
    def decoding():
        opened.append("")
        yield

    data.load("mnist", data_dir=str(prepared), cache=cache, decoding=decoding)
    assert len(opened) == splits


def children() -> list[psutil.Process]:
    """Decoding processes."""
    return [child for child in psutil.Process().children() if "decoding.serve" in " ".join(child.cmdline())]


@pytest.fixture
def undecoded(prepared):
    """The data set, which a process decodes; closed at the end."""
    dataset = data.load("mnist", data_dir=str(prepared), cache="none", workers=1)
    yield dataset
    dataset.close()
    assert not children()


def test_processes_decode_the_same_and_one_that_is_killed_is_named(prepared, undecoded):
    assert not children()  # none is there before something is to be decoded
    rows = np.array([3, 0, 29])
    np.testing.assert_array_equal(undecoded.train.take(rows), [image(3), image(0), image(29)])
    assert undecoded.train.select(10, 20).take(np.array([1])).tolist() == [image(11).tolist()]
    loader = data.Loader(mean=np.zeros((6, 6, 1), np.float32), scale=255.0, seed=0, augment=False)
    stream = data.ExampleStream(30, 0)
    made = data.prefetch(lambda k: loader.train_batch(undecoded.train, stream, range(k, k + 5)), range(8), 2, 3)
    here = data.load("mnist", data_dir=str(prepared), cache="none").train
    for k, batch in enumerate(made):
        np.testing.assert_array_equal(batch["image"], loader.train_batch(here, stream, range(k, k + 5))["image"])
    made.close()
    with pytest.raises(UsageError, match="is damaged: ValueError"):  # what a process raises comes back
        undecoded.train.take(np.array([30]))
    (child,) = children()
    for number in (signal.SIGINT, signal.SIGTERM):  # for the process that trains, not for this one
        child.send_signal(number)
    assert undecoded.train.take(rows).shape == (3, 6, 6, 1)
    child.kill()
    with pytest.raises(DecoderLost, match=rf"pid {child.pid}\) has ended with -9: .* data.workers=1"):
        undecoded.train.take(rows)


def test_decoding_processes_that_cannot_be_started_are_no_damage(prepared, monkeypatch):
    start, began = subprocess.Popen, []

    def second_fails(*args, **settings):
        if began:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        began.append(start(*args, **settings))
        return began[0]

    undecoded = data.load("mnist", data_dir=str(prepared), cache="none", workers=2)
    monkeypatch.setattr(subprocess, "Popen", second_fails)
    with pytest.raises(DecoderLost, match=r"process 2 of data\.workers=2 could not be started: .*Cannot allocate"):
        undecoded.train.take(np.array([1]))
    assert began[0].returncode is not None  # the first has ended
    monkeypatch.undo()
    assert undecoded.train.take(np.array([1])).shape == (1, 6, 6, 1)  # nothing is left of it
    undecoded.close()


@pytest.mark.long
def test_decoding_processes_end_with_theirs(prepared):
    code = (
        "import os, sys, numpy as np, psutil\nfrom jaxdist import data\n"
        "data.load('mnist', data_dir=sys.argv[1], cache='none', workers=2).train.take(np.array([1]))\n"
        "print(*(child.pid for child in psutil.Process().children()), flush=True)\nos.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(prepared)], stdout=subprocess.PIPE, timeout=60)
    pids = [int(pid) for pid in ended.stdout.split()]
    assert ended.returncode == -9 and len(pids) == 2
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "end of the decoding processes", 30)


def test_labels_are_read_without_an_image(prepared, monkeypatch):
    source = open_splits(str(prepared / "mnist" / "3.0.1"))["train"]
    monkeypatch.setattr(Image, "open", None)
    assert source.labels().tolist() == [k % 10 for k in range(30)] and (len(source), source.num_classes) == (30, 10)
    with pytest.raises(TypeError):
        source.decode(np.array([0]))


def test_a_damaged_cache_is_made_again(prepared):
    before = data.load("mnist", data_dir=str(prepared)).fingerprint()
    stored = prepared / "mnist" / "3.0.1" / "jaxdist-cache" / "train-images.npy"
    content = bytearray(stored.read_bytes())
    content[-5] ^= 1
    stored.write_bytes(content)
    assert data.load("mnist", data_dir=str(prepared)).fingerprint() == before


def test_a_damaged_record_file_is_named(prepared, tmp_path):
    shutil.copytree(prepared / "mnist", tmp_path / "mnist", ignore=shutil.ignore_patterns("jaxdist-cache"))
    record = tmp_path / "mnist" / "3.0.1" / "mnist-train.array_record-00000-of-00001"
    content = bytearray(record.read_bytes())
    image_data = content.find(b"IDAT")
    assert image_data > 0
    content[image_data + 6] ^= 1  # one bit inside the first image
    record.write_bytes(content)
    with pytest.raises(UsageError, match=r"mnist-train\.array_record-00000-of-00001 is damaged"):
        data.load("mnist", data_dir=str(tmp_path))
    record.write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match="is damaged"):
        data.load("mnist", data_dir=str(tmp_path), cache="none")
