"""ResNet, both versions: parameter counts from a derivation, initial numbers, and what is no ResNet."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.families import build, count
from helpers.processes import long


@pytest.mark.parametrize("depth", [20, long(32), long(44), 50, long(56), long(110)])
def test_resnet_v1_counts(depth):
    n = (depth - 2) // 6
    total, before = 9 * 3 * 16 + 2 * 16, 16
    for width in (16, 32, 64):
        for _ in range(n):
            total += 9 * before * width + 9 * width * width + 4 * width
            before = width
    assert count(build("resnet", (32, 32, 3), depth=depth)) == total + 64 * 10 + 10


@pytest.mark.parametrize("depth", [20, 29, long(47), long(56), long(110)])
def test_resnet_v2_counts(depth):
    n = (depth - 2) // 9
    total, before = 9 * 3 * 16, 16
    for width in (64, 128, 256):
        inner = width // 4
        for k in range(n):
            total += 2 * before + before * inner + 2 * inner + 9 * inner * inner + 2 * inner + inner * width
            total += before * width if k == 0 else 0
            before = width
    assert count(build("resnet", (32, 32, 3), depth=depth, version=2)) == total + 2 * 256 + 256 * 10 + 10


@pytest.mark.parametrize(
    ("settings", "words"), [({"depth": 51}, "Nearest: [50, 56]"), ({"depth": 50, "version": 2}, "9n+2")]
)
def test_impossible_depths_are_refused_with_numbers(settings, words):
    with pytest.raises(ValueError) as e:
        build("resnet", (32, 32, 3), **settings)
    assert words in str(e.value)


def test_he_initialisation_has_the_papers_variance():
    params, _ = build("resnet", (32, 32, 3), depth=20).init_block("stage3_block2", 0)
    kernel = params["conv1"]["kernel"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
