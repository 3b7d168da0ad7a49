"""The plateau rule: a function of the train rows and nothing else; it needs a learning rate that stays for a while."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdist.errors import UsageError
from jaxdist.optim import schedules
from jaxdist.task import Classification
from jaxdist.train import phase_triggers


@given(st.lists(st.floats(0.01, 10), min_size=12, max_size=40), st.integers(1, 5))
def test_the_rule_is_a_function_of_the_rows(losses, window):
    train = [{"examples_seen": 10 * (k + 1), "loss": loss} for k, loss in enumerate(losses)]
    decided = phase_triggers.replay(train, phase_triggers.Plateau(10.0 * window, 0.1))
    for row in train:
        now = row["examples_seen"] // 10
        if now < 2 * window:
            continue
        older, newer = losses[now - 2 * window : now - window], losses[now - window : now]
        if np.mean(newer) > 0.9 * np.mean(older) + 1e-9:
            assert decided is not None and decided <= row["examples_seen"]
            return
    assert decided is None or decided % 10 == 0


@pytest.mark.parametrize("odd", [math.nan, math.inf, 0.0])
def test_the_rule_passes_over_rows_that_mean_nothing(odd):
    rule = phase_triggers.Plateau(20, 0.1)
    losses = [9.0, odd, 8.0, 5.0, odd, 4.0, 3.0, 2.0]
    assert not any(rule.look({"examples_seen": 10 * (k + 1), "loss": x}) for k, x in enumerate(losses))


def build(settings, *run):
    return phase_triggers.build({"switch_metric": "loss"} | settings, *run, Classification())


def test_the_rule_may_look_at_a_metric_that_rises():
    rows = [{"examples_seen": 10 * (k + 1), "loss": 1.0, "accuracy": min(0.1 * k + 0.1, 0.5)} for k in range(12)]
    settings = {"switch_when": "plateau", "switch_threshold": 0.1, "switch_window_epochs": 1, "switch_after_drop": True}
    rule = build(settings | {"switch_metric": "accuracy"}, 10, schedules.constant(0.1), 120)
    assert phase_triggers.replay(rows, rule) == 60  # 0.5 after 0.5
    assert phase_triggers.replay(rows, build(settings, 10, schedules.constant(0.1), 120)) == 20
    for name in ("acuracy", "kappa"):
        with pytest.raises(UsageError, match=f"switch_metric='{name}' is nothing .* there are loss, accuracy"):
            build(settings | {"switch_metric": name}, 10, schedules.constant(0.1), 120)


def test_the_rule_waits_for_the_learning_rate_to_drop():
    flat = [{"examples_seen": 10 * (k + 1), "loss": 1.0} for k in range(20)]
    rate = schedules.step_decay(0.1, drop_epochs=(5, 12), drop_factor=0.1, examples_per_epoch=10)
    settings = {"switch_when": "plateau", "switch_threshold": 0.1, "switch_window_epochs": 2, "switch_after_drop": True}
    assert phase_triggers.replay(flat, build(settings, 10, rate, 200)) == 90  # two windows after the row that has it
    assert phase_triggers.replay(flat[6:], build(settings, 10, rate, 200)) == 110  # a phase that begins after the drop
    assert phase_triggers.replay(flat, build(settings, 10, rate, 40)) == 40  # none comes in this run
    settings["switch_after_drop"] = False
    assert phase_triggers.replay(flat, build(settings, 10, rate, 200)) == 40
    settings["switch_window_epochs"] = 3  # windows do not reach over a drop: 0.1 up to 50, 0.01 up to 120
    assert phase_triggers.replay(flat, build(settings, 10, rate, 200)) == 110
    assert build(settings | {"switch_when": ""}, 10, rate, 200) is None


def test_the_rule_goes_on_where_its_checkpoint_left_it():
    train = [{"examples_seen": 10 * (k + 1), "loss": loss} for k, loss in enumerate([9, 5, 3, 2, 2, 2, 2])]
    whole, first = phase_triggers.Plateau(20, 0.1), phase_triggers.Plateau(20, 0.1)
    expected = [whole.look(row) for row in train]
    for row in train[:4]:
        first.look(row)
    second = phase_triggers.Plateau(20, 0.1)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second.look(row) for row in train[4:]] == expected[4:]
    assert expected[-1] is not None
    other = phase_triggers.Plateau(20, 0.1, metric="accuracy")
    other.load_state_dict(first.state_dict())
    assert other.begun == first.begun and not other.seen  # losses are no accuracies


def test_a_rate_that_never_stays_is_refused_with_plateau():
    settings = {"switch_when": "plateau", "switch_threshold": 0.1}
    settings |= {"switch_window_epochs": 0.5, "switch_after_drop": True}
    cosine = lambda seen: 0.1 * (1 + math.cos(math.pi * seen / 8000))  # noqa: E731
    words = r"two windows of 500 examples .*8000 examples the schedule holds none.*fractions"
    with pytest.raises(UsageError, match=words):
        build(settings, 1000, cosine, 8000)
    often = lambda seen: 0.1 * 0.9 ** (seen // 700)  # noqa: E731
    with pytest.raises(UsageError, match=r"holds one for 6\d\d at the longest"):
        build(settings, 1000, often, 8000)
    assert build(settings | {"switch_window_epochs": 0.3}, 1000, often, 8000) is not None
    warm = lambda seen: min(seen, 1000) * 1e-4 if seen < 6000 else cosine(seen)  # noqa: E731
    assert build(settings, 1000, warm, 8000) is not None
    assert build(settings | {"switch_when": ""}, 1000, cosine, 8000) is None
    assert build(settings, 1000, lambda seen: 0.1, 500) is not None  # short, and ends where it is to
