"""The plateau rule (jaxdist.train.phase_triggers) needs a learning rate that stays for a while."""

from __future__ import annotations

import math

import pytest

from jaxdist.errors import UsageError
from jaxdist.train import phase_triggers


def test_a_rate_that_never_stays_is_refused_with_plateau():
    settings = {"switch_when": "plateau", "switch_threshold": 0.1}
    settings |= {"switch_window_epochs": 0.5, "switch_after_drop": True}
    cosine = lambda seen: 0.1 * (1 + math.cos(math.pi * seen / 8000))  # noqa: E731
    words = r"two windows of 500 examples .*8000 examples the schedule holds none.*fractions"
    with pytest.raises(UsageError, match=words):
        phase_triggers.build(settings, 1000, cosine, 8000)
    often = lambda seen: 0.1 * 0.9 ** (seen // 700)  # noqa: E731
    with pytest.raises(UsageError, match=r"holds one for 6\d\d at the longest"):
        phase_triggers.build(settings, 1000, often, 8000)
    assert phase_triggers.build(settings | {"switch_window_epochs": 0.3}, 1000, often, 8000) is not None
    warm = lambda seen: min(seen, 1000) * 1e-4 if seen < 6000 else cosine(seen)  # noqa: E731
    assert phase_triggers.build(settings, 1000, warm, 8000) is not None
    assert phase_triggers.build(settings | {"switch_when": ""}, 1000, cosine, 8000) is None
    assert phase_triggers.build(settings, 1000, lambda seen: 0.1, 500) is not None  # short, and ends where it is to
