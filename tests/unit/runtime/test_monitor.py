"""The monitor: plausible samples, and no harm when it fails."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import threading
import time

import pytest
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
    ticks = 0.02  # of each core
    assert found["host_cpu"] * found["seconds"] <= found["host_cores"] * (found["seconds"] + ticks)
    assert 10**7 < found["memory_bytes"] < found["host_memory_bytes"] * 2
    assert abs(found["unix_time"] - time.time()) < 60


def kernel_counts() -> dict[str, float]:
    """The kernel's own words, without psutil: cores in seconds (/proc/stat), bytes by interface (/proc/net/dev)."""
    first = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, iowait, irq, softirq, steal = (int(n) / os.sysconf("SC_CLK_TCK") for n in first[:8])
    found = {"host_cpu_user": user, "host_cpu_nice": nice, "host_cpu_system": system + irq + softirq}
    found |= {
        "host_cpu_iowait": iowait,
        "host_cpu_steal": steal,
        "host_cpu": user + nice + system + irq + softirq + steal,
    }
    used = os.times()
    found |= {"cpu_user": used.user, "cpu_system": used.system}
    for line in pathlib.Path("/proc/net/dev").read_text().splitlines()[2:]:
        name, _, numbers = line.partition(":")
        found[f"{name.strip()} received"], found[f"{name.strip()} sent"] = map(int, numbers.split()[0:9:8])
    return found


@pytest.mark.skipif(not pathlib.Path("/proc/stat").exists(), reason="a kernel that counts elsewhere")
def test_the_sums_over_a_run_are_what_the_kernel_has_counted(tmp_path):
    """Within 2 %, and what passes between the kernel's count and the monitor's at either end."""
    path = tmp_path / "system" / "worker-0.jsonl"
    outer = kernel_counts()
    with monitor.sampling(str(tmp_path), "worker-0", 0.1):
        wait_until(path.exists, "first sample")
        inner = kernel_counts()
        listening = socket.create_server(("127.0.0.1", 0))
        with listening, socket.create_connection(listening.getsockname()) as ours, listening.accept()[0] as theirs:
            for _ in range(100):  # 10 MB
                ours.sendall(bytes(100_000))
                taken = 0
                while taken < 100_000:
                    taken += len(theirs.recv(1 << 17))
        busy = spent()
        while spent()[1] - busy[1] < 0.4:
            pass
        least = {key: value - inner[key] for key, value in kernel_counts().items()}
    most = {key: value - outer[key] for key, value in kernel_counts().items()}
    sums: dict[str, float] = {}
    for sample in map(json.loads, path.read_text().splitlines()):
        rates = {key: sample[key] for key in least if key in sample}
        for name, io in sample["interfaces"].items():
            rates |= {f"{name} sent": io["sent_per_second"], f"{name} received": io["received_per_second"]}
        for key, rate in rates.items():
            sums[key] = sums.get(key, 0.0) + rate * sample["seconds"]
        both = sample["host_cpu_user"] + sample["host_cpu_system"] + sample["host_cpu_nice"] + sample["host_cpu_steal"]
        assert sample["host_cpu"] == pytest.approx(both, abs=0.001)
        assert sample["cpu"] == pytest.approx(sample["cpu_user"] + sample["cpu_system"], abs=0.001)
    assert least["lo sent"] >= 10_000_000 and least["cpu_user"] + least["cpu_system"] >= 0.4
    assert {"lo sent", "lo received", "cpu_user", "cpu_system", "host_cpu", "host_cpu_iowait"} <= sums.keys()
    for key, total in sums.items():
        slack = 0.05 if "cpu" in key else 100  # the kernel's ticks; rounded samples
        assert total >= 0.98 * least[key] - slack, (key, least[key], total)
        if key != "host_cpu_iowait":  # it goes back at times, which is left out of a sample
            assert total <= 1.02 * most[key] + slack, (key, total, most[key])


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
    assert monitor.usage() is None  # where nothing is sampled
    assert not monitors()


def test_usage_is_up_to_now_and_the_last_sample_covers_the_rest(tmp_path):
    heard = []
    begin = time.monotonic()
    with monitor.sampling(str(tmp_path), "worker-0", 60.0, heard.append):
        wait_until(monitor.usage, "something to say")
        time.sleep(0.3)
        one, other = monitor.usage(), monitor.usage()
        assert one["process"] == "worker-0" and not heard and {"cpu", "host_cpu"} <= one["spent"].keys()
    (only,) = map(json.loads, (tmp_path / "system" / "worker-0.jsonl").read_text().splitlines())
    assert [only] == heard
    assert 0.3 <= one["seconds"] <= other["seconds"] <= only["seconds"] <= time.monotonic() - begin
    assert one["spent"]["memory_bytes"][2] > 10**7


def test_a_disk_that_hangs_holds_up_nobody_who_asks(tmp_path):
    (tmp_path / "system").mkdir()
    os.mkfifo(tmp_path / "system" / "worker-0.jsonl")  # to be opened when somebody reads
    with monitor.sampling(str(tmp_path), "worker-0", 0.01):
        wait_until(monitor.usage, "first sample")
        (hanging,) = monitors()
        time.sleep(0.1)
        assert monitor.usage()["spent"].keys() >= {"cpu"} and hanging.is_alive()
        reader = os.open(tmp_path / "system" / "worker-0.jsonl", os.O_RDONLY | os.O_NONBLOCK)
    assert not monitors()
    os.close(reader)


def test_a_sample_that_hangs_holds_up_nobody_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(monitor, "_PATIENCE_SECONDS", 0.05)
    go_on, hangs = threading.Event(), threading.Event()
    sample = monitor.Sampler.sample

    def hang(self, **kind):
        hangs.set()
        go_on.wait(30.0)
        return sample(self, **kind)

    monkeypatch.setattr(monitor.Sampler, "sample", hang)
    with monitor.sampling(str(tmp_path), "worker-0", 0.01):
        assert hangs.wait(30.0)
        assert monitor.usage() is None
        go_on.set()
    wait_until(lambda: not monitors(), "end of the monitor")


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
