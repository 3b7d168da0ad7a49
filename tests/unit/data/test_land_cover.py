"""Windows of satellite images, and a made-up pair of which neither input alone tells all classes apart."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdist import data
from jaxdist.data import land_cover
from jaxdist.errors import UsageError


def prepared(root, count: int = 6435) -> np.ndarray:
    """Rows as the package's file has them, made up, and what is prepared of them."""
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.integers(27, 158, (count, 36)), rng.choice(land_cover.CLASSES, count)])
    windows, labels = land_cover.windows_of(rows)
    path = root / land_cover.FILE
    path.parent.mkdir(parents=True)
    np.savez(path, windows=windows, labels=labels)
    return rows


def test_windows_keep_their_pixels_bands_and_order(tmp_path):
    rows = prepared(tmp_path)
    found = data.load("landsat", data_dir=str(tmp_path), seed=0)
    assert (len(found.train), len(found.evaluation), found.num_classes) == (4435, 2000, 6)
    one = found.evaluation.take(np.array([3]))
    assert {name: array.shape for name, array in one.items()} == dict.fromkeys(
        ("visible", "near_infrared"), (1, 3, 3, 2)
    )
    row = rows[4435 + 3]
    assert one["visible"][0, 0, 1].tolist() == row[4:6].tolist()  # the second pixel of the first line
    assert one["near_infrared"][0, 2, 0].tolist() == row[26:28].tolist()
    assert land_cover.CLASSES[found.evaluation.target[3]] == row[36]
    assert set(found.train.target) == set(range(6))


def test_what_is_not_there_or_not_whole(tmp_path):
    with pytest.raises(UsageError, match=r"fetch them with `python tools/prepare_data\.py landsat --data_dir="):
        data.load("landsat", data_dir=str(tmp_path), seed=0)
    (tmp_path / land_cover.FILE).parent.mkdir()
    (tmp_path / land_cover.FILE).write_bytes(b"PK no archive")
    with pytest.raises(UsageError, match="cannot be read"):
        data.load("landsat", data_dir=str(tmp_path), seed=0)
    with pytest.raises(ValueError, match="36 values and a class"):
        land_cover.windows_of(np.full((3, 37), 6))  # there is no class 6


def nearest_mean(train, evaluation, key) -> float:
    """Accuracy of the nearest class's mean, of one input's pixel in the middle."""
    middle = [split.inputs[key][:, 3, 3] for split in (train, evaluation)]
    means = np.array([middle[0][train.target == c].mean(0) for c in range(land_cover.CLASSES_OF_PAIR)])
    distances = ((middle[1][:, None] - means) ** 2).sum(-1)
    return float((distances.argmin(1) == evaluation.target).mean())


def test_neither_input_of_the_pair_tells_all_classes_apart():
    made = data.load("synthetic_pair", seed=1, options={"num_train": 1500, "num_eval": 400})
    assert {name: array.shape[1:] for name, array in made.train.inputs.items()} == {
        "hyperspectral": (7, 7, 144), "lidar": (7, 7, 1),
    }  # fmt: skip
    spectrum, height = (nearest_mean(made.train, made.evaluation, key) for key in ("hyperspectral", "lidar"))
    assert 0.4 < spectrum < 0.7 and 0.05 < height < 0.3
    again, other = (
        data.load("synthetic_pair", seed=seed, options={"num_train": 1500, "num_eval": 400}) for seed in (1, 2)
    )
    assert made.fingerprint() == again.fingerprint() != other.fingerprint()
