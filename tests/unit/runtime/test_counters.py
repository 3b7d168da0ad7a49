"""What the kernel counts: which interfaces and disks make up a host, and what a system does not have."""

from __future__ import annotations

import collections
import logging

import psutil
import pytest

from jaxdist.runtime import counters

Io = collections.namedtuple("Io", "read_bytes write_bytes")
CASES = {  # {interface: what /sys/class/net has of it}, and those that count
    "a device": ({"eth0": ["device"], "lo": []}, {"eth0"}),
    "containers on a host": (
        {"eth0": ["device"], "docker0": ["bridge", "lower_veth1"], "veth1": ["brport"], "lo": []},
        {"eth0"},
    ),
    "a bond and a VLAN": (
        {"eth0": ["device"], "eth1": ["device"], "bond0": ["lower_eth0", "lower_eth1"], "bond0.7": ["lower_bond0"]},
        {"eth0", "eth1"},
    ),
    "a virtual card for a real one": ({"eth0": ["device"], "enP1": ["device", "master->eth0"]}, {"eth0"}),
    "a bridge over a card": ({"eth0": ["device", "master->br0"], "br0": ["bridge", "lower_eth0"]}, {"eth0"}),
    "in a container": ({"eth0": [], "lo": []}, {"eth0"}),
    "a container with containers": (
        {"eth0": [], "docker0": ["bridge"], "veth1": ["brport"], "tun0": ["tun_flags"], "lo": []},
        {"eth0"},
    ),
    "a container that has a bridge alone": ({"br0": ["bridge"], "lo": []}, {"br0"}),
    "nothing": ({"lo": []}, set()),
}


@pytest.mark.parametrize("case", CASES)
def test_each_byte_counts_once(case, tmp_path):
    interfaces, expected = CASES[case]
    for name in interfaces:
        (tmp_path / name).mkdir()
    for name, signs in interfaces.items():
        for sign in signs:
            file, _, target = sign.partition("->")
            if target:
                (tmp_path / name / file).symlink_to(tmp_path / target)
            else:
                (tmp_path / name / file).touch()
    assert counters.outward(interfaces, tmp_path) == expected


def test_without_the_kernel_s_word_names_say_it(tmp_path):
    assert counters.outward(["lo0", "en0", "utun3", "bridge100"], tmp_path / "none") == {"en0"}
    assert counters.outward(["lo", "tun0"], tmp_path / "none") == {"tun0"}


def test_partitions_and_what_is_made_of_disks_do_not_count_again(tmp_path, monkeypatch):
    (tmp_path / "sda" / "device").mkdir(parents=True)
    (tmp_path / "dm-0").mkdir()
    every = {"sda": Io(10, 4), "sda1": Io(9, 4), "dm-0": Io(9, 4), "loop0": Io(1, 0)}
    monkeypatch.setattr(psutil, "disk_io_counters", lambda perdisk: every)
    assert counters._disks(tmp_path) == {"disk_read_per_second": 10, "disk_written_per_second": 4}
    assert counters._disks(tmp_path / "none") == {"disk_read_per_second": 29, "disk_written_per_second": 12}
    (tmp_path / "sda" / "device").rmdir()
    assert counters._disks(tmp_path) == {}


def test_busy_time_is_divided_without_a_rest(monkeypatch):
    times = collections.namedtuple("times", "user nice system idle iowait irq softirq steal guest guest_nice")
    monkeypatch.setattr(psutil, "cpu_times", lambda: times(16, 8, 4, 100, 50, 2, 1, 32, 5, 3))
    found = counters._host_cpu()
    split = {"user": 16, "system": 7, "nice": 8, "steal": 32}
    assert found == {"host_cpu": 63, "host_cpu_iowait": 50} | {f"host_cpu_{k}": v for k, v in split.items()}
    elsewhere = collections.namedtuple("times", "user nice system idle")
    monkeypatch.setattr(psutil, "cpu_times", lambda: elsewhere(1, 2, 4, 8))
    assert counters._host_cpu() == {"host_cpu": 7, "host_cpu_user": 1, "host_cpu_system": 4, "host_cpu_nice": 2}


def test_what_a_system_forbids_is_left_out_and_said_once(monkeypatch, caplog):
    def forbidden(*_, **__):
        raise PermissionError("/proc is closed")

    for name in ("net_io_counters", "disk_io_counters", "virtual_memory", "swap_memory", "cpu_times"):
        monkeypatch.setattr(psutil, name, forbidden)
    with caplog.at_level(logging.INFO):
        one = counters.Counters(psutil.Process())
        for _ in range(2):
            found, memory = one.counted(), one.memory()
    assert set(found.cores) == {"cpu", "cpu_user", "cpu_system"} and set(memory) == {"memory_bytes"}
    assert not found.disk and not found.interfaces and not found.outside
    assert sorted(record.args[0] for record in caplog.records) == [
        "CPU of this host", "disks", "memory of this host", "network interfaces", "swap",
    ]  # fmt: skip
