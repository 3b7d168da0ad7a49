"""A run stops after so many evaluations in a row without a lower loss."""

from __future__ import annotations

import dataclasses
import math

from jaxdist.train.early_stopping import EarlyStopping


def stops(patience: int, losses: list[float]) -> list[bool]:
    rule = EarlyStopping(patience)
    return [rule.should_stop(loss) for loss in losses]


def test_a_lower_loss_begins_the_count_anew():
    assert stops(2, [5.0, 6.0, 4.0, 4.0, 3.9, 4.5, 3.9]) == [False] * 6 + [True]
    assert stops(1, [5.0, 4.0, 4.0]) == [False, False, True]


def test_the_best_loss_is_of_all_evaluations_not_of_the_last():
    assert stops(2, [1.0, 9.0, 8.0]) == [False, False, True]


def test_without_patience_it_never_stops():
    rule = EarlyStopping(0)
    assert not any(rule.should_stop(9.0) for _ in range(9)) and rule.evaluations_since_best == 8


def test_a_loss_that_is_no_number_is_no_lower_one():
    assert stops(2, [5.0, math.nan, math.nan]) == [False, False, True]


def test_it_stays_so_after_a_checkpoint():
    rule = EarlyStopping(1)
    rule.should_stop(2.0)
    rule.should_stop(3.0)
    again = EarlyStopping(**dataclasses.asdict(rule))
    assert again.stopped and again.best == 2.0 and not again.should_stop(1.0)
