"""Numbers in words: every one, as a line of tokens whose targets are the next ones."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdist import data
from jaxdist.data.number_words import LETTERS, words
from jaxdist.errors import UsageError


def test_numbers_in_words():
    found = {n: words(n) for n in (0, 13, 40, 77, 100, 342, 1000, 9999)}
    assert found == {
        0: "zero", 13: "thirteen", 40: "forty", 77: "seventy-seven", 100: "one hundred",
        342: "three hundred forty-two", 1000: "one thousand", 9999: "nine thousand nine hundred ninety-nine",
    }  # fmt: skip
    assert len({words(n) for n in range(10_000)}) == 10_000


def test_lines_of_tokens_and_their_targets():
    made = data.load("number_words", seed=1, options={"num_train": 50, "num_eval": 20})
    tokens, target = made.train.inputs["tokens"], made.train.target
    assert tokens.shape == target.shape and tokens.dtype == target.dtype == np.int32
    assert made.num_classes == len(LETTERS) and data.scales_of(made) == {"tokens": None}
    lengths = (tokens > 0).sum(axis=1)
    assert len(set(lengths.tolist())) > 5  # of different lengths
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(target[row, : length - 1], tokens[row, 1:length])
        assert LETTERS[target[row, length - 1]] == "\n" and (target[row, length:] == -1).all()
    lines = {bytes(row) for row in tokens} & {bytes(row) for row in made.evaluation.inputs["tokens"]}
    assert not lines  # other numbers
    with pytest.raises(UsageError, match="10000 together at most"):
        data.load("number_words", options={"num_train": 9999, "num_eval": 2})
