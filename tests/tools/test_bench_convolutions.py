"""`tools/bench_convolutions.py`: what it measures, without measuring for long."""

from __future__ import annotations

import numpy as np
import pytest
from bench_convolutions import Shape, _alternate, _ours, shapes_of, table


def test_the_convolutions_of_a_model_are_found():
    assert shapes_of("cnn") == [Shape(28, 1, 32, 3, 1, 0), Shape(26, 32, 64, 3, 1, 0)]
    resnet = shapes_of("resnet50")
    assert Shape(32, 16, 32, 3, 2, 1) in resnet and len(set(resnet)) == len(resnet)


def test_sizes_and_operations_are_counted():
    shape = Shape(32, 16, 24, 3, 2, 1)
    assert shape.out_size == 16 and shape.flops(2) == 2 * 2 * 256 * 9 * 16 * 24
    assert str(shape) == "32x32, 16 to 24, 3x3, stride 2"


@pytest.mark.parametrize("operations", ["xla", "auto"])
def test_each_operation_gives_its_shape(operations):
    forward, input_gradient, kernel_gradient = _ours(operations)(Shape(8, 5, 7, 3, 2, 1), 2)
    assert forward().shape == (2, 4, 4, 7)
    assert input_gradient()[0].shape == (2, 8, 8, 5)
    assert kernel_gradient()[0].shape == (3, 3, 5, 7)


def test_sides_take_turns_and_are_put_beside_each_other():
    asked: list[str] = []
    times = _alternate({side: lambda side=side: asked.append(side) for side in ("ours", "torch")}, 4)
    assert all(len(found) == 4 and np.min(found) > 0 for found in times.values())
    turns = [side for k, side in enumerate(asked[2:]) if k == 0 or side != asked[1 + k]]
    assert turns == ["ours", "torch", "ours", "torch", "ours"]  # the order turns round: two of one side in a row
    line = {"convolution": "a", "gflops": {"ours": 50.2}, "share_of_peak": 0.61, "over_xla": 1.5, "over_torch": 1.234}
    assert table([line, line, line]).splitlines()[-1] == "| a |" + " 50 (61 %) 1.50 1.23 |" * 3
