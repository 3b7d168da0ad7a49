"""The knobs of a run as a whole, and early stopping without anything to decide by."""

from __future__ import annotations

import pytest

from jaxdist.config import run
from jaxdist.errors import UsageError


def test_early_stopping_needs_examples_that_are_held_out():
    values = {"early_stopping_patience": 3, "data.holdout_examples": 0}
    with pytest.raises(UsageError, match=r"patience=3 decides by .*set data\.holdout_examples above 0"):
        run.check(values)
    run.check(values | {"data.holdout_examples": 1})
    run.check(values | {"early_stopping_patience": 0})


def test_each_default_may_be_said_and_no_number_may_be_negative():
    assert {"seed", "num_epochs", "global_batch_size"} <= {knob.key for knob in run.KNOBS}
    for knob in run.KNOBS:
        knob.check(knob.default)
        words = "is not known; one of" if knob.choices else "must be"
        with pytest.raises(UsageError, match=rf"^{knob.key}=-1 {words} "):
            knob.check(-1)
