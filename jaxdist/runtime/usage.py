"""Least, mean and most of what a host spent over a run; and of a cluster, whose hosts are added up moment by moment.

    process           samples --> Usage: [least, mean, most] of every key
                                         and at most 64 cells of time, of the keys that are added up over hosts
    process 0         of_cluster(reports of all processes) --> the summary's `system`

Cells are 2^k seconds wide and begin at multiples of it on the clock, so that those of several hosts lie upon another; a
run longer than 64 cells doubles their width. A host is its name: processes with the same one count it once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

OWN = ("cpu", "cpu_user", "cpu_system", "memory_bytes")  # of the process; everything else is the host's
ADDED_UP = (
    *("cpu", "memory_bytes", "host_cpu", "host_cpu_user", "host_cpu_system", "host_cpu_iowait", "host_cpu_steal"),
    *("host_memory_bytes", "host_memory_cached_bytes", "host_sent_per_second", "host_received_per_second"),
    *("loopback_per_second", "disk_read_per_second", "disk_written_per_second"),
)
_NOT_SPENT = ("unix_time", "seconds", "pid", "host_cores", "time")
_CELLS = 64

Three = dict[str, float]  # min, mean, max


class Usage:
    """Of one process, sample by sample.

    Args:
      interval_seconds: between two samples. Least and most are over samples that are at least half as long: a shorter
        one, as the last may be, says little. The mean is over all, and within the two.
    """

    def __init__(self, process: str, interval_seconds: float) -> None:
        self._process, self._interval = process, interval_seconds
        self._about: dict[str, Any] = {}
        self._seconds = 0.0
        self._sums: dict[str, list[float]] = {}  # key -> [least, most, sum over time, its time]
        self._cells = _Cells(interval_seconds)

    def add(self, sample: Mapping[str, Any]) -> None:
        """`sample`: a line of `system/`."""
        seconds = sample["seconds"]
        self._seconds += seconds
        self._about = {"host": sample["host"], "cores": sample["host_cores"]}
        for key, value in sample.items():
            if isinstance(value, int | float) and key not in _NOT_SPENT:
                kept = self._sums.setdefault(key, [math.inf, -math.inf, 0.0, 0.0])
                if seconds >= 0.5 * self._interval:
                    kept[0], kept[1] = min(kept[0], value), max(kept[1], value)
                kept[2] += value * seconds
                kept[3] += seconds
        self._cells.add(sample["unix_time"] - seconds, seconds, {k: sample[k] for k in ADDED_UP if k in sample})

    def to_json(self) -> dict[str, Any] | None:
        """What process 0 needs of it: a few kilobytes, however long the run; None before the first sample."""
        if not self._seconds:
            return None
        spent = {}
        for key, (least, most, total, seconds) in self._sums.items():
            mean = total / max(seconds, 1e-9)
            # The mean is that of the longest window there is: in a short run it may lie outside the others.
            spent[key] = [_short(v) for v in (min(least, mean), mean, max(most, mean))]
        return {"process": self._process, **self._about, "seconds": round(self._seconds, 3), "spent": spent,
                "cells": self._cells.to_json()}  # fmt: skip


class _Cells:
    """Sums over cells of time."""

    def __init__(self, width: float) -> None:
        self.width = 2.0 ** math.ceil(math.log2(max(width, 0.01)))
        self._of: dict[int, dict[str, float]] = {}  # number -> {"": seconds covered, key: sum over them}

    def add(self, begin: float, seconds: float, values: Mapping[str, float]) -> None:
        end = begin + seconds
        while self._of and math.floor(end / self.width) - min(self._of) >= _CELLS:
            self._of = _widened(self._of, 2)
            self.width *= 2
        number = math.floor(begin / self.width)
        while number * self.width < end:
            covered = min(end, (number + 1) * self.width) - max(begin, number * self.width)
            cell = self._of.setdefault(number, {})
            for key, value in {"": 1.0, **values}.items():
                cell[key] = cell.get(key, 0.0) + value * covered
            number += 1

    def to_json(self) -> dict[str, Any]:
        numbers = sorted(self._of)
        keys = sorted({key for cell in self._of.values() for key in cell})
        return {
            "width": self.width,
            "numbers": numbers,
            "sums": {key: [_short(self._of[n].get(key, 0.0)) for n in numbers] for key in keys},
        }


def _widened(cells: Mapping[int, Mapping[str, float]], times: int) -> dict[int, dict[str, float]]:
    wider: dict[int, dict[str, float]] = {}
    for number, cell in cells.items():
        into = wider.setdefault(number // times, {})
        for key, value in cell.items():
            into[key] = into.get(key, 0.0) + value
    return wider


def _short(value: float) -> float:
    """Bytes to one, cores to a thousandth."""
    return round(value) if abs(value) >= 1e5 else round(value, 4)


def of_cluster(reports: Iterable[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """What `Usage.to_json` says of every process, put together; None of those that say nothing.

    Returns:
      hosts: {name: {cores, seconds, processes, KEY: {min, mean, max}}}; seconds: how long it was watched.
      processes: {name: {host, KEY: {min, mean, max}}}.
      cluster: {cores, cell_seconds, KEY: {min, mean, max}}, the sum over all hosts, and of `OWN` over all processes:
        least and most of means over `cell_seconds`, in which all were watched. None where there is no report.
    """
    known = [report for report in reports if report]
    if not known:
        return None
    by_host: dict[str, list[Mapping[str, Any]]] = {}
    for report in known:
        by_host.setdefault(report["host"], []).append(report)
    stands = {host: max(every, key=lambda r: r["seconds"]) for host, every in by_host.items()}
    return {
        "hosts": {
            host: {"cores": one["cores"], "seconds": one["seconds"], "processes": [r["process"] for r in by_host[host]]}
            | {key: _three(*three) for key, three in one["spent"].items() if key not in OWN}
            for host, one in stands.items()
        },
        "processes": {
            r["process"]: {"host": r["host"]} | {key: _three(*r["spent"][key]) for key in OWN if key in r["spent"]}
            for r in known
        },
        "cluster": {
            "cores": sum(one["cores"] for one in stands.values()),
            "cell_seconds": max(r["cells"]["width"] for r in known),
        }
        | _added_up(known, [key for key in ADDED_UP if key in OWN])
        | _added_up(list(stands.values()), [key for key in ADDED_UP if key not in OWN]),
    }


def _three(least: float, mean: float, most: float) -> Three:
    return {"min": least, "mean": mean, "max": most}


def _added_up(reports: Sequence[Mapping[str, Any]], keys: Iterable[str]) -> dict[str, Three]:
    """Of the keys that all of them have."""
    width = max(r["cells"]["width"] for r in reports)
    found = {}
    for key in keys:
        if any(key not in r["spent"] for r in reports):
            continue
        mean = sum(r["spent"][key][1] for r in reports)
        means = [_means(r["cells"], width, key) for r in reports]
        common = set.intersection(*(set(one) for one in means))
        every = [sum(one[number] for one in means) for number in common] or [mean]
        found[key] = _three(_short(min(every)), _short(mean), _short(max(every)))
    return found


def _means(cells: Mapping[str, Any], width: float, key: str) -> dict[int, float]:
    """Cell -> mean, of cells that are covered at least half as much as any."""
    one_by_one = {
        n: {"": covered, key: value}
        for n, covered, value in zip(cells["numbers"], cells["sums"][""], cells["sums"][key], strict=True)
    }
    wide = _widened(one_by_one, round(width / cells["width"]))
    enough = 0.5 * max(cell[""] for cell in wide.values())
    return {n: cell[key] / cell[""] for n, cell in wide.items() if cell[""] >= enough and cell[""] > 0}
