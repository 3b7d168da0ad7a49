"""DenseNet: parameter counts from a derivation, and what is no DenseNet."""

from __future__ import annotations

import pytest
from helpers.families import build, count
from helpers.processes import long


def densenet_bc_params(depth: int, k: int, reduction: float, inputs: int) -> int:
    """Written out from the paper: kernels have no biases, BatchNorm has two parameters a channel."""
    layers = (depth - 4) // 6
    channels = 2 * k
    total = 9 * inputs * channels  # stem
    for block in range(3):
        for _ in range(layers):
            total += 2 * channels + channels * 4 * k  # norm, 1x1
            total += 2 * 4 * k + 9 * 4 * k * k  # norm, 3x3
            channels += k
        if block < 2:
            out = int(channels * reduction)
            total += 2 * channels + channels * out
            channels = out
    return total + 2 * channels + channels * 10 + 10


def test_densenet_bc_40_12_has_175690_parameters():
    assert densenet_bc_params(40, 12, 0.5, 1) == 175_690
    assert count(build("densenet", (28, 28, 1), depth=40)) == 175_690


@pytest.mark.parametrize(("depth", "k"), [(22, 12), long(40, 24), long(100, 12)])
def test_densenet_bc_counts(depth, k):
    assert count(build("densenet", (32, 32, 3), depth=depth, growth_rate=k)) == densenet_bc_params(depth, k, 0.5, 3)


def test_plain_densenet_40_12_has_the_papers_million():
    channels, total = 16, 9 * 3 * 16
    for block in range(3):
        for _ in range(12):
            total += 2 * channels + 9 * channels * 12
            channels += 12
        if block < 2:
            total += 2 * channels + channels * channels
    total += 2 * channels + channels * 10 + 10
    assert total == 1_019_722  # the paper's table says 1.0M
    assert count(build("densenet", (32, 32, 3), depth=40, bottleneck=False, reduction=1.0)) == total


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"depth": 41}, "6n+4"),
        ({"depth": 40, "reduction": 0.0}, "(0, 1]"),
        ({"depth": 40, "dropout": 1.0}, "[0, 1)"),
    ],
)
def test_impossible_shapes_are_refused_with_numbers(settings, words):
    with pytest.raises(ValueError) as e:
        build("densenet", (32, 32, 3), **settings)
    assert words in str(e.value)
