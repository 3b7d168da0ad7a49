"""A tiny language that is there without a file: numbers in English words, to be continued letter by letter."""

from __future__ import annotations

import numpy as np

from jaxdist.data.dataset import Dataset, Split

_TO_TEN = "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"
_FROM_TEN = (
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
_ONES = (*_TO_TEN, *_FROM_TEN)
_TENS = "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"
LETTERS = "\0 -abcdefghijklmnopqrstuvwxyz\n"  # padding is 0; a line ends with '\n'
IGNORED = -1  # the target of what is no token


def words(number: int) -> str:
    """Of a number from 0 to 9,999."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if number >= size:
            many, rest = divmod(number, size)
            return f"{words(many)} {name}" + (f" {words(rest)}" if rest else "")
    raise AssertionError(number)


def load(*, seed: int, num_train: int = 2000, num_eval: int = 400) -> Dataset:
    """Lines of different lengths. tokens int32 [n, length], padded with 0; the target of a token is the next one, and
    `IGNORED` after the end.

    Raises:
      ValueError: there are not so many numbers.
    """
    if num_train < 1 or num_eval < 1 or num_train + num_eval > 10_000:
        raise ValueError(f"num_train={num_train} and num_eval={num_eval} must be 1 or more, and 10000 together at most")
    order = np.random.default_rng([seed, 17]).permutation(10_000)
    length = max(len(words(number)) for number in range(10_000)) + 1
    place = {letter: k for k, letter in enumerate(LETTERS)}

    def split(numbers: np.ndarray) -> Split:
        tokens = np.zeros((len(numbers), length), np.int32)
        target = np.full((len(numbers), length), IGNORED, np.int32)
        for row, number in enumerate(numbers):
            line = [place[letter] for letter in "\n" + words(int(number)) + "\n"]
            tokens[row, : len(line) - 1], target[row, : len(line) - 1] = line[:-1], line[1:]
        return Split({"tokens": tokens}, target)

    train, evaluation = split(order[:num_train]), split(order[num_train : num_train + num_eval])
    return Dataset("number_words", train, evaluation, len(LETTERS), scale={"tokens": None})
