"""`tools/bench_train.py`: what it counts and compares, without measuring anything."""

from __future__ import annotations

import pytest
from bench_train import check_alike, cores_of, processes_in, spread
from bench_worker import arguments


def test_each_process_gets_cores_of_its_own():
    assert cores_of([3, 5], 1) == [{3, 5}]
    assert cores_of([3, 5], 3) == [{3}, {5}, {3}]
    assert processes_in(arguments("cnn", 64, 3, "digits", {"name": "fsdp"}, collectives=True)) == 3


def test_sides_that_train_different_models_are_refused():
    side = {"loss": 2.0, "gradient_norm": 1.0, "parameters": 10}
    check_alike(side, side | {"loss": 2.001})
    for other in ({"loss": 2.1}, {"gradient_norm": 0.9}, {"parameters": 11}):
        with pytest.raises(SystemExit, match="different models"):
            check_alike(side, side | other)
    assert spread([3.0, 1.0, 2.00049]) == {"min": 1.0, "median": 2.0, "max": 3.0}
