"""Place for checkpoints, before there is one: refused, warned of in words, and nothing is written."""

from __future__ import annotations

import collections
import shutil

import jax
import numpy as np
import pytest

from jaxdist.checkpoint import disk
from jaxdist.errors import UsageError

Usage = collections.namedtuple("Usage", "total used free")


def test_the_size_of_a_state_is_known_from_its_shapes():
    arrays = {"a": jax.ShapeDtypeStruct((3, 5), np.float64), "b": {"c": np.zeros(7, np.int32), "d": np.float32(1)}}
    assert disk.checkpoint_bytes(arrays) == 3 * 5 * 8 + 7 * 4 + 4


@pytest.mark.parametrize(("free", "words"), [(99, "not one fits"), (250, "and one more will not fit"), (400, "")])
def test_a_full_disk(tmp_path, monkeypatch, free, words):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(1000, 0, free))
    if words == "not one fits":
        with pytest.raises(UsageError, match=words):
            disk.check(str(tmp_path / "not" / "there"), 100, keep=2)
    else:
        assert disk.check(str(tmp_path / "not" / "there"), 100, keep=2).endswith(words or "0.0 MB")
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        disk.check(str(tmp_path / "file" / "run"), 100, keep=2)
