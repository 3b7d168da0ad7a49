"""The monitor: plausible samples, and no harm when it fails."""

from __future__ import annotations

import json
import os
import threading
import time

from helpers.waiting import wait_until

from jaxdist.runtime import monitor


def spent() -> tuple[float, float]:
    """(seconds on the clock, seconds of CPU)."""
    used = os.times()
    return time.monotonic(), used.user + used.system


def test_a_busy_core_counts_as_one():
    outer = spent()
    sampler = monitor.Sampler()
    inner = spent()
    while spent()[1] - inner[1] < 0.4:
        pass
    seconds, cpu = (now - before for now, before in zip(spent(), inner, strict=True))
    found = sampler.sample()
    more_seconds, more_cpu = (now - before for now, before in zip(spent(), outer, strict=True))
    tick = 0.03  # of the kernel's accounts
    assert (cpu - tick) / more_seconds <= found["cpu"] <= (more_cpu + tick) / seconds
    assert found["host_cpu"] <= found["host_cores"] + 0.1
    assert 10**7 < found["memory_bytes"] < found["host_memory_bytes"] * 2
    assert abs(found["unix_time"] - time.time()) < 60


def monitors() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "monitor"]


def test_samples_are_written_while_open(tmp_path):
    path = tmp_path / "system" / "worker-0.jsonl"
    begin = time.monotonic()
    with monitor.sampling(str(tmp_path), "worker-0", 0.05):
        wait_until(lambda: path.exists() and path.read_text().count("\n") >= 3, "third sample")
    lines = path.read_text().splitlines()
    assert 3 <= len(lines) <= (time.monotonic() - begin) / 0.05 + 1
    assert all({"unix_time", "cpu", "memory_bytes", "loopback_per_second"} <= json.loads(x).keys() for x in lines)
    assert not monitors()


def test_off(tmp_path):
    with monitor.sampling(str(tmp_path), "worker-0", 0.0):
        assert not monitors()
        time.sleep(0.05)
    assert not (tmp_path / "system").exists()


def test_a_monitor_that_fails_harms_nothing(tmp_path, caplog):
    (tmp_path / "system").write_text("in the way")
    with monitor.sampling(str(tmp_path), "worker-0", 0.01):
        wait_until(
            lambda: "The monitor of this process has stopped (training goes on)" in caplog.text,
            "word of the monitor's end",
        )
