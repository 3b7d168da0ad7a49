"""Faults on purpose: what the tests and the trials rely on."""

from __future__ import annotations

import time

import pytest

from jaxdist.errors import UsageError
from jaxdist.runtime.fault_injection import Faults


def test_a_slow_process_takes_its_factor_of_the_time():
    faults = Faults(1, "slow@process=1,factor=3")
    faults.at("update", 1)
    begin = time.monotonic()
    for update in range(2, 5):
        time.sleep(0.05)
        faults.at("update", update)
    assert 0.42 < time.monotonic() - begin < 0.9


def test_others_are_not_slowed():
    faults = Faults(0, "slow@process=1,factor=1000")
    for update in range(3):
        time.sleep(0.01)
        faults.at("update", update)


@pytest.mark.parametrize("text", ["slowly@process=1", "slow@speed=2", "slow@factor=x"])
def test_faults_that_cannot_be_read_are_refused(text):
    with pytest.raises(UsageError, match="JAXDIST_FAULT"):
        Faults(0, text)
