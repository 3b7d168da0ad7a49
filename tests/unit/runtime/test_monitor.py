"""The monitor: plausible samples, and no harm when it fails."""

from __future__ import annotations

import json
import os
import time

import pytest

from jaxdist.runtime import monitor


def test_a_busy_core_counts_as_one(tmp_path):
    sampler = monitor.Sampler()
    begin = time.monotonic()
    used = os.times()
    while time.monotonic() - begin < 0.5:
        pass
    now = os.times()
    found = sampler.sample()
    busy = (now.user + now.system - used.user - used.system) / (time.monotonic() - begin)
    assert found["cpu"] == pytest.approx(busy, abs=0.15)
    assert found["host_cpu"] <= found["host_cores"] + 0.1
    assert 10**7 < found["memory_bytes"] < found["host_memory_bytes"] * 2
    assert abs(found["unix_time"] - time.time()) < 5


def test_samples_are_written_while_open(tmp_path):
    with monitor.sampling(str(tmp_path), "worker-0", 0.05):
        time.sleep(0.4)
    lines = (tmp_path / "system" / "worker-0.jsonl").read_text().splitlines()
    assert 3 <= len(lines) <= 8
    assert all({"unix_time", "cpu", "memory_bytes", "loopback_per_second"} <= json.loads(x).keys() for x in lines)


def test_off(tmp_path):
    with monitor.sampling(str(tmp_path), "worker-0", 0.0):
        time.sleep(0.05)
    assert not (tmp_path / "system").exists()


def test_a_monitor_that_fails_harms_nothing(tmp_path, monkeypatch, caplog):
    (tmp_path / "system").write_text("in the way")
    with monitor.sampling(str(tmp_path), "worker-0", 0.01):
        time.sleep(0.2)
    assert "The monitor of this process has stopped (training goes on)" in caplog.text
