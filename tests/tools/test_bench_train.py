"""`tools/bench_train.py`: what it counts and compares, without measuring anything."""

from __future__ import annotations

import pytest
from bench_train import MODELS, check_alike, cores_of, forward_flops, processes_in, spread
from bench_worker import arguments

from jaxdist import models


def test_the_bench_counts_the_operations_of_a_model():
    spec = MODELS["densenet"]
    chain = models.build(spec["name"], input_shape=spec["shape"], num_classes=10, settings=spec["settings"], options={})
    pixels, channels, products = 28 * 28, 24, 28 * 28 * 9 * 24  # the stem
    for stage in (1, 2, 3):
        for _ in range(6):
            products += pixels * (channels * 48 + 9 * 48 * 12)
            channels += 12
        if stage < 3:
            products += pixels * channels * channels // 2
            pixels, channels = pixels // 4, channels // 2
    assert forward_flops(chain) == 2 * (products + channels * 10)


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
