"""Names of data sets, options, and directories that are not there or half prepared: what is refused, and how.

Holds what data/tfds_reader.py says of a directory without reading any example; `test_tfds_reader.py` reads some.
"""

from __future__ import annotations

import json

import pytest

from jaxdist import data
from jaxdist.errors import UsageError


def test_missing_and_half_prepared_data_say_how_to_prepare(tmp_path):
    with pytest.raises(UsageError, match=r"not there.*prepare_data\.py fashion_mnist.*--manual_dir"):
        data.load("fashion_mnist", data_dir=str(tmp_path))
    folder = tmp_path / "fashion_mnist" / "3.0.1"
    (tmp_path / "fashion_mnist" / "3.0.1.incompleteX").mkdir(parents=True)
    with pytest.raises(UsageError, match="half prepared"):
        data.load("fashion_mnist", data_dir=str(tmp_path))
    folder.mkdir()
    with pytest.raises(UsageError, match=r"half prepared: dataset_info\.json"):
        data.load("fashion_mnist", data_dir=str(tmp_path))
    info = {
        "fileFormat": "array_record",
        "splits": [{"name": name, "shardLengths": ["3"]} for name in ("train", "test")],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text("{}")
    with pytest.raises(UsageError, match=r"fashion_mnist-train\.array_record-00000-of-00001, .*-test.* missing"):
        data.load("fashion_mnist", data_dir=str(tmp_path))


def test_unknown_names_and_options():
    with pytest.raises(UsageError, match="nearest: 'fashion_mnist'"):
        data.load("fashion_mist")
    with pytest.raises(UsageError, match=r"data\.options does not fit"):
        data.load("synthetic", options={"colour": 3})
    with pytest.raises(UsageError, match="cannot be imported"):
        data.load("no_such_package:load")
    with pytest.raises(UsageError, match=r"returned str, not a jaxdist\.data\.Dataset"):
        data.load("os.path:basename", options={"p": "a/b"})


def test_made_up_images_are_those_of_their_seed():
    options = {"num_train": 8, "num_eval": 4, "shape": (2, 2, 1)}
    first, same, other = (data.load("synthetic", seed=seed, options=options) for seed in (1, 1, 2))
    assert first.fingerprint() == same.fingerprint() != other.fingerprint()
