"""What layers have to compute, as the model's definition has it."""

import pytest

from jaxdist import models
from jaxdist.profiling.model_flops import forward_flops


def chain(name, shape=(8, 8, 3), **settings):
    return models.build(name, inputs=shape, num_outputs=10, settings=settings, options={})


def test_of_the_cnn_by_hand():
    found = forward_flops(chain("cnn", shape=(28, 28, 1)))
    assert found == {
        "conv1/conv": 2 * 26 * 26 * 32 * 9,
        "conv2/conv": 2 * 24 * 24 * 64 * 9 * 32,
        "dense/dense": 2 * 12 * 12 * 64 * 128,
        "head/dense": 2 * 128 * 10,
    }


def test_of_a_densenet_by_hand():
    pixels, channels, products = 28 * 28, 24, 28 * 28 * 9 * 24  # the stem
    for stage in (1, 2, 3):
        for _ in range(6):
            products += pixels * (channels * 48 + 9 * 48 * 12)
            channels += 12
        if stage < 3:
            products += pixels * channels * channels // 2
            pixels, channels = pixels // 4, channels // 2
    found = forward_flops(chain("densenet", shape=(28, 28, 1), depth=40, dropout=0.1))
    assert sum(found.values()) == 2 * (products + channels * 10)


@pytest.mark.parametrize("width", [4, 12])  # narrow kernels are computed in another way, which earns no credit
def test_a_layer_twice_as_wide_has_twice_or_four_times_as_many(width):
    one = forward_flops(chain("resnet", depth=8, width=width))
    two = forward_flops(chain("resnet", depth=8, width=2 * width))
    assert two["stem/conv"] == 2 * one["stem/conv"]  # in output alone
    inner = "stage1_block1/conv1"
    assert two[inner] == 4 * one[inner]  # in input and output
