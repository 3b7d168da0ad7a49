"""Learning rates as functions of the examples seen: the package's and a user's own."""

from __future__ import annotations

import sys
import types

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
