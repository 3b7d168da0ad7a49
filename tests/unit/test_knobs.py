"""A knob's values: which are known, which are refused, and in which words."""

from __future__ import annotations

import pytest

from jaxdist.errors import UsageError
from jaxdist.knobs import Knob, above_zero, at_least_zero

COLOURS = {"red": 1, "green": 2}


def colours() -> list[str]:
    return ["red", "", "green"]


def test_choices_stand_with_the_knob_or_in_the_table_or_function_that_it_names():
    here = __name__
    for choices, known in (
        ((), ()),
        (("red", "green"), ("red", "green")),
        (f"{here}:COLOURS", ("red", "green")),
        (f"{here}:colours", ("red", "", "green")),
    ):
        assert Knob("paint.colour", "red", "", choices=choices).known_choices() == known


def test_what_is_not_known_is_refused_with_what_is():
    knob = Knob("paint.colour", "red", "", choices=colours())
    knob.check("green")
    assert knob.name == "colour"
    with pytest.raises(UsageError) as e:
        knob.check("gren")
    assert str(e.value) == "paint.colour='gren' is not known; nearest: 'green'; one of red, '', green."
    dotted = Knob("paint.colour", "red", "", choices=("red",), dotted=True)
    dotted.check("my.colours:blue")
    with pytest.raises(UsageError, match=r"one of red or 'package\.module:function'\.$"):
        dotted.check("blue")


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 0.0, -0.0, 5e-324, 1])
def test_numbers_that_must_be_above_zero_or_at_least_zero(value):
    for must, fits in ((at_least_zero, value in (0, 5e-324, 1)), (above_zero, value in (5e-324, 1))):
        knob = Knob("paint.thickness", 1.0, "", must)
        if fits:
            knob.check(value)
        else:
            with pytest.raises(UsageError, match=rf"paint\.thickness={value} must be {must(value)}\."):
                knob.check(value)
