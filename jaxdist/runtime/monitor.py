"""What a process and its host spend while a run goes on: CPU, memory, network; one line a sample.

`system/PROCESS.jsonl` in the run directory. `unix_time` is this host's clock; an event `clock` in `metrics.jsonl` says
which `unix_time` the run's time 0 was, so that rows of all processes can be put under one time axis. A failure here is
said once in the log and never touches training.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil


@contextlib.contextmanager
def sampling(workdir: str, process: str, interval_seconds: float) -> Iterator[None]:
    """Samples from a thread of its own while open; interval 0: not at all.

    Args:
      process: 'worker-0', 'server-1', ...: the name of the file.
    """
    if not interval_seconds:
        yield
        return
    over = threading.Event()
    path = pathlib.Path(workdir) / "system" / f"{process}.jsonl"
    thread = threading.Thread(target=_sample_until, args=(over, path, interval_seconds), name="monitor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=2.0)


def _sample_until(over: threading.Event, path: pathlib.Path, interval_seconds: float) -> None:
    try:
        sampler = Sampler()
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as lines:
            while not over.wait(interval_seconds):
                lines.write(json.dumps(sampler.sample()) + "\n")
                lines.flush()
    except Exception as e:
        logging.warning("The monitor of this process has stopped (training goes on): %s: %s", type(e).__name__, e)


class Sampler:
    """Each sample covers the time since the one before."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._host = socket.gethostname()
        self._before = self._counted()

    def _counted(self) -> dict[str, float]:
        """What only ever grows: seconds of CPU, bytes of the network."""
        own, host = self._process.cpu_times(), psutil.cpu_times()
        busy = sum(host) - host.idle - getattr(host, "iowait", 0.0) - getattr(host, "guest", 0.0)  # guest is in user
        devices = psutil.net_io_counters(pernic=True)
        inside = [io for name, io in devices.items() if name.startswith("lo")]
        outside = [io for name, io in devices.items() if not name.startswith("lo")]
        return {
            "time": time.monotonic(),
            "cpu": own.user + own.system,
            "host_cpu": busy,
            "sent": sum(io.bytes_sent for io in outside),
            "received": sum(io.bytes_recv for io in outside),
            "loopback": sum(io.bytes_sent for io in inside),
        }

    def sample(self) -> dict[str, Any]:
        """CPU in cores (1.0 = one core busy all the time), memory in bytes, network in bytes a second."""
        now, before = self._counted(), self._before
        self._before = now
        seconds = max(now["time"] - before["time"], 1e-9)
        rate = {name: (now[name] - before[name]) / seconds for name in now}
        return {
            "unix_time": round(time.time(), 3),
            "seconds": round(seconds, 3),
            "pid": os.getpid(),
            "cpu": round(rate["cpu"], 3),
            "memory_bytes": self._process.memory_info().rss,
            "host": self._host,
            "host_cores": psutil.cpu_count(),
            "host_cpu": round(rate["host_cpu"], 3),
            "host_memory_bytes": psutil.virtual_memory().used,
            "host_sent_per_second": round(rate["sent"]),
            "host_received_per_second": round(rate["received"]),
            "loopback_per_second": round(rate["loopback"]),
        }
