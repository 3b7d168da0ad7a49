"""Of two processes with one number the later stays; under real servers in `contract/test_leases.py`."""

from __future__ import annotations

import pytest

from jaxdist.ps.places import Places


def test_a_process_whose_place_another_has_taken_is_not_let_in_again():
    places = Places()
    places.take(1, "a")
    places.take(1, "a")  # the same process after its lease had ended
    places.take(1, "b")
    for _ in range(2):
        with pytest.raises(ValueError, match="b has taken the place of a as worker 1: either it was started again"):
            places.take(1, "a")
    places.take(1, "b")
    places.take(0, "a")  # another number
