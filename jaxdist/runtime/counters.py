"""What the kernel counts of this process and its host: CPU, memory, network, disk.

Which interfaces make up the host's network, so that no byte counts twice (`/sys/class/net`):

    eth0  (a device)       counted                       veth1 -> docker0 -> eth0    the same bytes, three times
    bond0 over eth0, eth1  eth0 and eth1 are counted     lo                          apart: every byte is sent and
    in a container: eth0   counted, as there is no device                            received there; sent is counted

A system that does not count something, or forbids a look at it, is passed over in silence but for one line in the log:
those keys are missing.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import re
import time
from collections.abc import Callable, Collection
from typing import Any

import psutil

INTERFACES = pathlib.Path("/sys/class/net")
DISKS = pathlib.Path("/sys/block")
_SYSTEM = ("system", "irq", "softirq", "interrupt", "dpc")  # the kernel's own work, under the names of several systems
_NOT_BUSY = ("idle", "iowait", "guest", "guest_nice")  # a guest's time is in `user` and `nice` already
_STACKED = "veth|docker|br-|bridge|virbr|tun|tap|utun|vnic|bond"  # where there is no INTERFACES to ask


@dataclasses.dataclass(frozen=True)
class Counted:
    """What only grows.

    Attributes:
      at: `time.monotonic()` of the look.
      cores: seconds of CPU, by the name that a sample gives to their rate in cores.
      disk: bytes read and written since the host started, of its disks.
      interfaces: {name: (bytes sent, bytes received)} since the host started; loopback and those that `outside` names.
      outside: the interfaces that carry bytes off the host, each byte once.
    """

    at: float
    cores: dict[str, float]
    disk: dict[str, float]
    interfaces: dict[str, tuple[int, int]]
    outside: frozenset[str]


class Counters:
    """Reads them all; never raises.

    Args:
      process: whose own CPU and memory are read.
    """

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._left_out: set[str] = set()

    def counted(self) -> Counted:
        at = time.monotonic()
        cores = self._try("CPU of this process", self._own_cpu) | self._try("CPU of this host", _host_cpu)
        disk = self._try("disks", _disks)
        every = self._try("network interfaces", _interfaces)
        outside = frozenset(outward(every))
        known = {name: io for name, io in every.items() if name in outside or is_loopback(name)}
        return Counted(at, cores, disk, known, outside)

    def memory(self) -> dict[str, int]:
        """Bytes in use now."""
        own = self._try("memory of this process", lambda: {"memory_bytes": self._process.memory_info().rss})
        return own | self._try("memory of this host", _host_memory) | self._try("swap", _swap)

    def _own_cpu(self) -> dict[str, float]:
        own = self._process.cpu_times()
        return {"cpu": own.user + own.system, "cpu_user": own.user, "cpu_system": own.system}

    def _try(self, what: str, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return read()
        except Exception as e:  # containers and systems forbid and lack what they like
            if what not in self._left_out:
                self._left_out.add(what)
                logging.info("The monitor leaves out the %s: %s: %s", what, type(e).__name__, e)
            return {}


def _host_cpu() -> dict[str, float]:
    """Busy is user + system + nice + steal."""
    host = psutil.cpu_times()._asdict()
    found = {"host_cpu": sum(seconds for name, seconds in host.items() if name not in _NOT_BUSY)}
    found["host_cpu_user"] = host["user"]
    found["host_cpu_system"] = sum(host.get(name, 0.0) for name in _SYSTEM)
    return found | {f"host_cpu_{name}": host[name] for name in ("nice", "iowait", "steal") if name in host}


def _host_memory() -> dict[str, int]:
    memory = psutil.virtual_memory()._asdict()
    found = {"host_memory_bytes": memory["used"]}
    names = ("cached", "buffers", "available")
    return found | {f"host_memory_{name}_bytes": memory[name] for name in names if name in memory}


def _swap() -> dict[str, int]:
    return {"host_swap_bytes": psutil.swap_memory().used}


def _disks(folder: pathlib.Path = DISKS) -> dict[str, float]:
    """Of whole disks: their partitions, and what is made of them (LVM, RAID, loop devices), would count again."""
    every = psutil.disk_io_counters(perdisk=True) or {}
    whole = {name: io for name, io in every.items() if (folder / name / "device").exists()} or (
        {} if folder.exists() else every
    )
    if not whole:
        return {}
    return {
        "disk_read_per_second": sum(io.read_bytes for io in whole.values()),
        "disk_written_per_second": sum(io.write_bytes for io in whole.values()),
    }


def _interfaces() -> dict[str, tuple[int, int]]:
    return {name: (io.bytes_sent, io.bytes_recv) for name, io in psutil.net_io_counters(pernic=True).items()}


def is_loopback(name: str) -> bool:
    return re.fullmatch(r"lo\d*|Loopback.*", name) is not None


def outward(names: Collection[str], folder: pathlib.Path = INTERFACES) -> set[str]:
    """The interfaces that carry bytes off this host, each byte once.

    Devices, where there are any: what bridges, tunnels, VLANs and containers send goes through them. Else, as in a
    container, those that are no bridge, port of a bridge or tunnel, and stand on no other one.
    """
    names = [name for name in names if not is_loopback(name)]
    if not folder.exists():
        return {name for name in names if not re.match(_STACKED, name)} or set(names)
    devices = {name for name in names if (folder / name / "device").exists()}
    if devices:  # a device may stand for another one, as a cloud's virtual card for the real one
        return {name for name in devices if (folder / name / "master").resolve().name not in devices}
    return {name for name in names if not _is_stacked(folder / name)} or set(names)


def _is_stacked(interface: pathlib.Path) -> bool:
    signs = ("bridge", "brport", "tun_flags")
    return any((interface / sign).exists() for sign in signs) or any(interface.glob("lower_*"))
