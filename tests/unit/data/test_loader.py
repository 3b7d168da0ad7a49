"""The stream, batches, augmentation, prefetching and what is refused."""

from __future__ import annotations

import itertools
import json
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdist import data
from jaxdist.data.augment import flip_and_crop
from jaxdist.errors import UsageError


@given(n=st.integers(1, 50), cuts=st.lists(st.integers(0, 200), max_size=8), seed=st.integers(0, 5))
@settings(deadline=None)
def test_the_stream_does_not_depend_on_how_it_is_cut(n, cuts, seed):
    stream = data.ExampleStream(n, seed)
    whole = stream.rows(np.arange(200))
    edges = [0, *sorted(cuts), 200]
    parts = [stream.rows(np.arange(a, b)) for a, b in itertools.pairwise(edges) if a < b]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    for epoch in range(200 // n):
        assert sorted(whole[epoch * n : (epoch + 1) * n]) == list(range(n))


def loader(dataset, **kw):
    arguments = {"mean": data.mean_image(dataset.train), "scale": dataset.scale, "seed": 0, "augment": False}
    return data.Loader(**(arguments | kw))


@given(total=st.integers(1, 40), batch=st.integers(1, 5), parts=st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_evaluation_counts_every_example_once(total, batch, parts):
    dataset = data.load("synthetic", options={"num_train": 8, "num_eval": total, "shape": (2, 2, 1)})
    make = loader(dataset)
    lots = [list(make.eval_batches(dataset.evaluation, batch * parts, part, parts)) for part in range(parts)]
    assert len({len(lot) for lot in lots}) == 1
    assert sum(float(b["mask"].sum()) for lot in lots for b in lot) == total
    assert {b["image"].shape[0] for lot in lots for b in lot} == {batch}


def test_batches_are_normalised():
    dataset = data.load("digits")
    assert (len(dataset.train), len(dataset.evaluation), dataset.example_shape) == (1437, 360, (8, 8, 1))
    stream = data.ExampleStream(len(dataset.train), 0)
    batch = loader(dataset).train_batch(dataset.train, stream, range(0, 1437))
    assert np.abs(batch["image"].mean(axis=0)).max() < 1e-5
    assert batch["image"].max() <= 1.0
    assert batch["position"].tolist() == list(range(1437))


def test_augmentation_shifts_and_flips_by_position_alone():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(64, 8, 8, 3)).astype(np.float32)
    where = np.arange(1000, 1064)
    whole = flip_and_crop(images, where, seed=1)
    np.testing.assert_array_equal(whole[10:20], flip_and_crop(images[10:20], where[10:20], seed=1))
    padded = np.pad(images, [(0, 0), (4, 4), (4, 4), (0, 0)])
    flips, shifts = 0, set()
    for k in range(64):
        found = [
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (False, True)
            if np.array_equal(padded[k, top : top + 8, left : left + 8][:, :: -1 if flip else 1], whole[k])
        ]
        assert len(found) == 1
        flips += found[0][2]
        shifts.add(found[0][:2])
    assert 16 < flips < 48 and len(shifts) > 30


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_prefetch_keeps_order_and_raises_in_place(depth):
    def make(k):
        if k == 5:
            raise OSError("five")
        return k

    made = data.prefetch(make, range(9), depth)
    assert [next(made) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="five"):
        next(made)


def test_a_closed_prefetch_ends_its_thread():
    before = threading.active_count()
    made = data.prefetch(lambda k: k, iter(int, 1), 2)
    next(made)
    made.close()
    assert threading.active_count() == before


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
    info = {"fileFormat": "array_record", "splits": [{"name": "train", "shardLengths": ["3"]}]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text("{}")
    with pytest.raises(UsageError, match=r"fashion_mnist-train\.array_record-00000-of-00001 missing"):
        data.load("fashion_mnist", data_dir=str(tmp_path))


def test_unknown_names_and_options():
    with pytest.raises(UsageError, match="nearest: 'fashion_mnist'"):
        data.load("fashion_mist")
    with pytest.raises(UsageError, match=r"data\.options does not fit"):
        data.load("synthetic", options={"colour": 3})
    with pytest.raises(UsageError, match="cannot be imported"):
        data.load("no_such_package:load")
