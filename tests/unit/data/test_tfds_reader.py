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
from jaxdist.data.tfds_source import Chosen, open_splits
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
        np.testing.assert_array_equal(
            dataset.train.take(np.array([3, 0, 29]))["image"], [image(3), image(0), image(29)]
        )
        assert dataset.evaluation.target.tolist() == list(range(10))
        assert dataset.train.select(10, 20).take(np.array([1]))["image"].tolist() == [image(11).tolist()]


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
    np.testing.assert_array_equal(undecoded.train.take(rows)["image"], [image(3), image(0), image(29)])
    assert undecoded.train.select(10, 20).take(np.array([1]))["image"].tolist() == [image(11).tolist()]
    loader = data.Loader(means={"image": np.zeros((6, 6, 1), np.float32)}, scales={"image": 255.0}, seed=0)
    stream = data.ExampleStream(30, 0)
    made = data.prefetch(lambda k: loader.train_batch(undecoded.train, stream, range(k, k + 5)), range(8), 2, 3)
    here = data.load("mnist", data_dir=str(prepared), cache="none").train
    for k, batch in enumerate(made):
        expected = loader.train_batch(here, stream, range(k, k + 5))
        np.testing.assert_array_equal(batch["inputs"]["image"], expected["inputs"]["image"])
    made.close()
    with pytest.raises(UsageError, match="is damaged: ValueError"):  # what a process raises comes back
        undecoded.train.take(np.array([30]))
    (child,) = children()
    for number in (signal.SIGINT, signal.SIGTERM):  # for the process that trains, not for this one
        child.send_signal(number)
    assert undecoded.train.take(rows)["image"].shape == (3, 6, 6, 1)
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
    assert undecoded.train.take(np.array([1]))["image"].shape == (1, 6, 6, 1)  # nothing is left of it
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
    source = open_splits(str(prepared / "mnist" / "3.0.1"), Chosen())["train"]
    monkeypatch.setattr(Image, "open", None)
    assert source.targets().tolist() == [k % 10 for k in range(30)] and (len(source), source.num_classes) == (30, 10)
    with pytest.raises(TypeError):
        source.decode(np.array([0]))


TWO_SENSORS = {
    "pythonClassName": FEATURES["pythonClassName"],
    "featuresDict": {
        "features": {
            name: {
                "pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor",
                "tensor": {"shape": {"dimensions": shape}, "dtype": kind, "encoding": "none"},
            }
            for name, shape, kind in (
                ("radar", ["2", "3"], "float32"), ("optical", ["4"], "int64"), ("height", [], "float32"),
            )
        }
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def two_sensors(tmp_path_factory) -> pathlib.Path:
    """A data set 'NAME/CONFIG' of several features, evaluated on its validation split."""
    root = tmp_path_factory.mktemp("sensors")
    folder = root / "so" / "all" / "1.0.0"
    folder.mkdir(parents=True)
    splits = []
    for split, n in (("train", 7), ("validation", 3), ("other", 1)):
        writer = ArrayRecordWriter(str(folder / f"so-{split}.array_record-00000-of-00001"), "group_size:1")
        for k in range(n):
            example = tf_example_pb2.Example()
            example.features.feature["radar"].float_list.value.extend(0.5 * k + np.arange(6))
            example.features.feature["optical"].int64_list.value.extend([k, 1, 2, 3])
            example.features.feature["height"].float_list.value.append(k / 4)
            writer.write(example.SerializeToString())
        writer.close()
        pattern = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        splits.append({"name": split, "filepathTemplate": pattern, "numBytes": "1", "shardLengths": [str(n)]})
    info = {"name": "so", "configName": "all", "version": "1.0.0", "fileFormat": "array_record", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(json.dumps(TWO_SENSORS))
    return root


@pytest.mark.parametrize("cache", ["memory", "file", "none"])
def test_named_features_are_the_inputs_and_one_is_the_target(two_sensors, cache):
    chosen = {"features": ("radar", "optical"), "target": "height"}
    for _ in range(2):
        found = data.load("so/all", data_dir=str(two_sensors), cache=cache, **chosen)
        assert (len(found.train), len(found.evaluation), found.num_classes) == (7, 3, 0)
        taken = found.train.take(np.array([4, 0]))
        np.testing.assert_array_equal(taken["radar"][0], (2 + np.arange(6)).reshape(2, 3).astype(np.float32))
        assert taken["optical"].tolist() == [[4, 1, 2, 3], [0, 1, 2, 3]]
        assert found.train.target.tolist() == [k / 4 for k in range(7)]
        found.close()
    other = data.load("so/all", data_dir=str(two_sensors), cache=cache, features=("radar",), target="height")
    assert list(other.train.take(np.array([0]))) == ["radar"]  # beside the cache of another choice


def test_features_that_are_not_there_are_refused(two_sensors, prepared):
    with pytest.raises(UsageError, match=r"data\.features: the data set has no feature 'rader'; nearest: 'radar'"):
        data.load("so/all", data_dir=str(two_sensors), features=("rader",), target="height")
    with pytest.raises(UsageError, match=r"data\.target: the data set has no feature 'label'; .*it has height,"):
        data.load("so/all", data_dir=str(two_sensors), features=("radar",))
    with pytest.raises(UsageError, match="are for TFDS data sets"):
        data.load("digits", features=("image",))
    with pytest.raises(UsageError, match=r"so/al' is not there.*prepare_data\.py so/al "):
        data.load("so/al", data_dir=str(two_sensors))


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
