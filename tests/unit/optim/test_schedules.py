"""Learning rates as functions of the examples seen: the package's and a user's own."""

from __future__ import annotations

import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdist.optim import schedules


def test_functions_get_what_they_ask_for(monkeypatch):
    module = types.ModuleType("mine_of_test_schedules")
    module.rate = lambda learning_rate, num_epochs, examples_per_epoch: (
        lambda seen: learning_rate * (1 - seen / (num_epochs * examples_per_epoch))
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    given = {"learning_rate": 0.4, "drop_epochs": (1,), "drop_factor": 0.1, "examples_per_epoch": 10, "num_epochs": 2}
    assert schedules.build(f"{module.__name__}:rate", **given)(5) == 0.4 * 0.75
    assert [schedules.build("step", **given)(seen) for seen in (9, 10)] == [0.4, 0.4 * 0.1]
    assert schedules.build("constant", **given)(10**9) == 0.4
    module.warm = lambda learning_rate, warmup_epochs: lambda seen: learning_rate * min(seen / warmup_epochs / 10, 1.0)
    assert schedules.build(f"{module.__name__}:warm", **given, warmup_epochs=1.0)(5) == 0.2  # and not once more


GIVEN = {"learning_rate": 0.4, "drop_epochs": (1,), "drop_factor": 0.1, "examples_per_epoch": 100, "num_epochs": 4.0}


def test_a_cosine_falls_from_the_rate_to_its_last_part():
    rate = schedules.build("cosine", **GIVEN, final_factor=0.1)
    assert [rate(seen) for seen in (0, 200, 400, 900)] == pytest.approx([0.4, 0.22, 0.04, 0.04])
    warm = schedules.build("warmup_cosine", **GIVEN, warmup_epochs=1.0)
    assert [warm(seen) for seen in (0, 50, 100, 250, 400)] == pytest.approx([0.0, 0.2, 0.4, 0.2, 0.0])


def test_one_cycle_rises_and_falls():
    rate = schedules.build("one_cycle", **GIVEN)
    assert rate(0) == pytest.approx(0.4 / 25) and rate(120) == pytest.approx(0.4)
    assert rate(400) == pytest.approx(0.4 / 25 * 1e-4) and rate(60) < rate(90) < rate(120) > rate(260)


@given(st.sampled_from([*schedules.SCHEDULES]), st.integers(0, 500))
def test_a_warm_up_multiplies_the_rate_by_the_part_that_is_over(name, seen):
    if name in ("one_cycle", "warmup_cosine"):
        return
    plain, warm = (schedules.build(name, **GIVEN, warmup_epochs=epochs) for epochs in (0.0, 0.5))
    if name != "cosine":
        assert warm(seen) == pytest.approx(plain(seen) * min(seen / 50, 1.0))
    assert 0.0 <= warm(seen) <= 0.4


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("warmup_cosine", {}, "needs optim.warmup_epochs above 0 and below num_epochs=4, not 0"),
        ("warmup_cosine", {"warmup_epochs": 4.0}, "not 4"),
        ("one_cycle", {"warmup_epochs": 1.0}, "leave out optim.warmup_epochs=1"),
        ("cosin", {}, "nearest: 'cosine'"),
    ],
)
def test_schedules_that_cannot_be(name, values, words):
    with pytest.raises(ValueError, match=words):
        schedules.build(name, **GIVEN, **values)
