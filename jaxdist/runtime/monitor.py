"""What a process and its host spend while a run goes on: CPU, memory, network, disk; one line a sample.

`system/PROCESS.jsonl` in the run directory. `unix_time` is this host's clock; an event `clock` in `metrics.jsonl` says
which `unix_time` the run's time 0 was, so that rows of all processes can be put under one time axis. A failure here is
said once in the log and never touches training.

A sample covers the `seconds` before it, and the last one is taken when the process ends: the sum of rate x seconds over
the samples is what the kernel has counted from the first moment to the last.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil

from jaxdist.runtime.counters import Counters, is_loopback
from jaxdist.runtime.usage import Usage

Sample = dict[str, Any]

_PATIENCE_SECONDS = 2.0

_open: list[_Monitor] = []  # the one of this process, while it samples


@contextlib.contextmanager
def sampling(
    workdir: str, process: str, interval_seconds: float, listen: Callable[[Sample], None] | None = None
) -> Iterator[None]:
    """Samples from a thread of its own while open; interval 0: not at all.

    Args:
      process: 'worker-0', 'server-1', ...: the name of the file.
      listen: called with each sample, by the thread that takes it.
    """
    if not interval_seconds:
        yield
        return
    over = threading.Event()
    monitor = _Monitor(pathlib.Path(workdir) / "system" / f"{process}.jsonl", process, interval_seconds, listen)
    thread = threading.Thread(target=monitor.run, args=(over, interval_seconds), name="monitor", daemon=True)
    _open.append(monitor)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=_PATIENCE_SECONDS)
        _open.remove(monitor)


def usage() -> dict[str, Any] | None:
    """What this process and its host have spent since the monitor began, up to now (`Usage.to_json`); None where
    nothing was sampled, or a sample does not come to its end. Blocks for `_PATIENCE_SECONDS` at most."""
    return _open[-1].usage() if _open else None


class _Monitor:
    """Takes samples, and keeps what `Usage` keeps of them. After its first failure it takes no more."""

    def __init__(
        self, path: pathlib.Path, process: str, interval_seconds: float, listen: Callable[[Sample], None] | None
    ) -> None:
        self._path, self._listen = path, listen
        self._usage = Usage(process, interval_seconds)
        self._taking = threading.Lock()
        self._failed = False
        self._sampler: Sampler | None = None

    def run(self, over: threading.Event, interval_seconds: float) -> None:
        self._take()  # opens the file, and sets the counters to 0
        while not self._failed and not over.wait(interval_seconds):
            self._take()
        self._take()

    def usage(self) -> dict[str, Any] | None:
        if not self._taking.acquire(timeout=_PATIENCE_SECONDS):
            return None
        try:
            until_now = copy.deepcopy(self._usage)
            if self._sampler is not None and not self._failed:
                with contextlib.suppress(Exception):  # the thread will meet it too, and say so
                    until_now.add(self._sampler.sample(go_on=True))
            return until_now.to_json()
        finally:
            self._taking.release()

    def _take(self) -> None:
        if self._failed:
            return
        try:
            self._take_one()
        except Exception as e:
            self._failed = True
            words = "The monitor of this process has stopped (training goes on): %s: %s"
            logging.warning(words, type(e).__name__, e)

    def _take_one(self) -> None:
        if self._sampler is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._sampler = Sampler()
            return
        with self._taking:
            sample = self._sampler.sample()
            self._usage.add(sample)
        with open(self._path, "a") as lines:  # without the lock: a disk that hangs holds up nobody who asks
            lines.write(json.dumps(sample) + "\n")
        if self._listen is not None:
            self._listen(sample)


class Sampler:
    """Each sample covers the time since the one before."""

    def __init__(self) -> None:
        self._counters = Counters(psutil.Process())
        self._host = socket.gethostname()
        self._before = self._counters.counted()

    def sample(self, *, go_on: bool = False) -> Sample:
        """CPU in cores (1.0 = one core busy all the time), memory in bytes, network and disk in bytes a second.

        `go_on`: the next one covers this one's time too.
        """
        now, before = self._counters.counted(), self._before
        self._before = before if go_on else now
        seconds = max(now.at - before.at, 1e-9)

        def rates(new: Mapping[str, float], old: Mapping[str, float], digits: int | None) -> dict[str, float]:
            # Some counters go back a little (iowait), or begin anew.
            return {k: round(max(new[k] - old[k], 0.0) / seconds, digits) for k in new if k in old}

        interfaces = {
            name: rates(dict(zip(_WAYS, io, strict=True)), dict(zip(_WAYS, before.interfaces[name], strict=True)), None)
            for name, io in now.interfaces.items()
            if name in before.interfaces
        }
        network: dict[str, float] = {}
        if now.interfaces:
            network = {
                f"host_{way}": sum(rate[way] for name, rate in interfaces.items() if name in now.outside)
                for way in _WAYS
            }
            inside = (rate[_WAYS[0]] for name, rate in interfaces.items() if is_loopback(name))
            network["loopback_per_second"] = sum(inside)
        return {
            "unix_time": round(time.time(), 3),
            "seconds": round(seconds, 6),
            "pid": os.getpid(),
            "host": self._host,
            "host_cores": psutil.cpu_count() or 1,
            **rates(now.cores, before.cores, 4),
            **self._counters.memory(),
            **network,
            **rates(now.disk, before.disk, None),
            "interfaces": interfaces,
        }


_WAYS = ("sent_per_second", "received_per_second")
