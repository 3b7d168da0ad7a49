"""It is time for a row, an evaluation or a checkpoint once for each multiple that a count passes."""

from __future__ import annotations

import pytest

from jaxdist.train.due import crossed


@pytest.mark.parametrize(
    ("before", "after", "every", "due"),
    [
        (0, 2, 3, False),
        (2, 3, 3, True),
        (3, 5, 3, False),
        (2, 10, 3, True),  # several at once: one row
        (50, 60, 60.0, True),
        (70, 80, 37.5, True),  # a fraction of an epoch
        (75, 112, 37.5, False),
        (0, 1000, 0, False),
        (0, 1000, 0.0, False),
        (12, 9, 3, False),  # servers have gone back
    ],
)
def test_a_multiple_is_crossed_once(before, after, every, due):
    assert crossed(before, after, every) is due


def test_steps_of_any_size_meet_every_multiple():
    assert [at for at in range(0, 98, 7) if crossed(at, at + 7, 20)] == [14, 35, 56, 77]
