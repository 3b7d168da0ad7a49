"""Tiny runs in a laboratory, several at a time on hosts of their own, each with one link that may be down for a while.

As a library, of `lab_cuts.py`: `run(parts(lab)[0], folder, "allreduce")`. The runs are those of the tests
(`tests/helpers/tiny_config.py`), under a user's time-outs.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

from lab import Lab

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers.compiled import QUICKLY as QUICKLY  # noqa: E402
from helpers.hosts import STRATEGIES as STRATEGIES  # noqa: E402
from helpers.hosts import WITH_SERVER, train  # noqa: E402

HOSTS = 3  # of a run: two workers, one server
PATIENCE = 180.0  # seconds after which a run that has not ended hangs: three time-outs
# What every run has: 40 updates (80 of asynchronous workers), checkpoints in between, and the time-outs of a user.
SETTINGS: dict[str, Any] = {
    "cluster__timeout_seconds": 60.0,
    "cluster__connect_timeout_seconds": 300.0,
    "checkpoint__every_updates": 7,
}
LONGER = {"servers": {"num_epochs": 4.0}}
SLOWLY = "delay@seconds=0.5"  # after each update, so that a run lasts long enough to be cut anywhere


@dataclasses.dataclass
class Outcome:
    """How a run ended.

    Attributes:
      codes: exit codes by process; None: it had to be killed.
      seconds: from process 0's first line to the last one's end.
      said: the output of each.
      cut_at, mended_at: seconds since that line.
      during: what process 0 had logged last when the link was cut; `update`: and the newest update in `metrics.jsonl`.
    """

    workdir: pathlib.Path
    codes: dict[str, int | None]
    seconds: float
    said: dict[str, str]
    cut_at: float = math.nan
    mended_at: float = math.nan
    during: str = ""
    update: int = 0

    @property
    def good(self) -> bool:
        return not any(code != 0 for code in self.codes.values())


class Part:
    """Some of a laboratory's hosts, as a laboratory of their own; `first`: of its hosts."""

    def __init__(self, lab: Lab, first: int) -> None:
        self._lab, self._first = lab, first
        self.names = lab.names[first : first + HOSTS]
        self.addresses = lab.addresses[first : first + HOSTS]

    def popen(self, host: int, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        return self._lab.popen(self._first + host, command, **options)

    def cut(self, host: int) -> None:
        self._lab.cut(self._first + host)

    def mend(self, host: int) -> None:
        self._lab.mend(self._first + host)


def parts(lab: Lab) -> list[Part]:
    """The laboratory divided among as many runs as have room in it."""
    return [Part(lab, first) for first in range(0, len(lab.names) - HOSTS + 1, HOSTS)]


def run(
    part: Part,
    workdir: pathlib.Path,
    strategy: str,
    *,
    cut: tuple[int, float] | None = None,
    wait: Callable[[], object] = lambda: None,
    fault: str = SLOWLY,
    **changes: Any,
) -> Outcome:
    """Trains once, with a cut when `wait` returns, or without one. Blocks until all processes have ended, or `PATIENCE`
    seconds after the last thing that befell them, when those that are left are killed.

    Args:
      cut: (host, seconds).
      wait: called when process 0 has begun its log; blocks until the moment of the cut.
      changes: of the configuration.
    """
    settings = SETTINGS | LONGER.get(strategy, {}) | changes
    processes = train(part, workdir, strategy, 9000, workers=2, server=2, fault=fault, **settings)
    while not log_of(workdir).exists() and all(process.poll() is None for process in processes):
        time.sleep(0.02)
    begin = time.monotonic()
    names = [*(["server"] if strategy in WITH_SERVER else []), "worker 0", "worker 1"]
    with futures.ThreadPoolExecutor(len(processes)) as pool:
        ends = [pool.submit(_end, process, begin) for process in processes]
        outcome = Outcome(workdir, {}, 0.0, {})
        if cut is not None:
            wait()
            outcome.during, outcome.update = doing(workdir)
            outcome.cut_at = time.monotonic() - begin
            part.cut(cut[0])
            try:
                time.sleep(cut[1])
            finally:
                part.mend(cut[0])
            outcome.mended_at = time.monotonic() - begin
        futures.wait(ends, PATIENCE)
        for process in processes:
            if process.poll() is None:
                outcome.codes[names[processes.index(process)]] = None
                process.kill()
        for name, process, end in zip(names, processes, ends, strict=True):
            said, seconds = end.result()
            outcome.codes.setdefault(name, process.returncode)
            outcome.said[name] = said
            outcome.seconds = max(outcome.seconds, seconds)
    return outcome


def _end(process: subprocess.Popen[str], begin: float) -> tuple[str, float]:
    said, _ = process.communicate()
    return said, time.monotonic() - begin


def log_of(workdir: pathlib.Path) -> pathlib.Path:
    return workdir / "logs" / "worker-0.log"


def doing(workdir: pathlib.Path) -> tuple[str, int]:
    """(what process 0 has logged last, the newest update that it has written)."""
    lines = log_of(workdir).read_text().splitlines() if log_of(workdir).exists() else []
    return (lines[-1].split(" ", 3)[-1][:80] if lines else "(before its first line)"), newest(workdir, "updates")


def newest(workdir: pathlib.Path, counted: str) -> int:
    """The most of 'updates' or 'examples_seen' that a run has written."""
    return max(map(int, re.findall(rf'"{counted}": (\d+)', metrics_of(workdir))), default=0)


def metrics_of(workdir: pathlib.Path) -> str:
    path = workdir / "metrics.jsonl"
    return path.read_text() if path.exists() else ""


def seconds_of_start(workdir: pathlib.Path) -> float:
    """From process 0's first line to its first step."""
    lines = [line for line in log_of(workdir).read_text().splitlines() if re.match(r"\d{4}-\d\d-\d\d ", line)]
    first, step = lines[0], next(line for line in lines if "Compiling the training step" in line)
    began, ended = (datetime.datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f") for line in (first, step))
    return (ended - began).total_seconds()
