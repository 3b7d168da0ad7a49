"""What the hosts of some runs spent, as a table of a report: CPU split by kind, memory by use, network and disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from run_reader import Run, system_usage


def _cores(found: Mapping[str, Any], key: str) -> str:
    return _three(found, key, lambda value: f"{100 * value / found['cores']:.0f}")


def _gib(found: Mapping[str, Any], key: str) -> str:
    return _three(found, key, lambda value: f"{value / 2**30:.2f}")


def _megabytes(found: Mapping[str, Any], key: str) -> str:
    return _three(found, key, lambda value: f"{value / 1e6:.1f}")


def _three(found: Mapping[str, Any], key: str, form: Callable[[float], str]) -> str:
    """Mean [least, most]; '-' where it was not counted."""
    if key not in found:
        return "-"
    mean, least, most = (form(found[key][which]) for which in ("mean", "min", "max"))
    return f"{mean} [{least}, {most}]"


_COLUMNS: tuple[tuple[str, Callable[[Mapping[str, Any], str], str], str], ...] = (
    ("CPU, %", _cores, "host_cpu"),
    ("user", _cores, "host_cpu_user"),
    ("system", _cores, "host_cpu_system"),
    ("wait", _cores, "host_cpu_iowait"),
    ("stolen", _cores, "host_cpu_steal"),
    ("memory used, GiB", _gib, "host_memory_bytes"),
    ("cached", _gib, "host_memory_cached_bytes"),
    ("of the run", _gib, "memory_bytes"),
    ("sent, MB/s", _megabytes, "host_sent_per_second"),
    ("received", _megabytes, "host_received_per_second"),
    ("loopback", _megabytes, "loopback_per_second"),
    ("disk read", _megabytes, "disk_read_per_second"),
    ("written", _megabytes, "disk_written_per_second"),
)


def system_table(grouped: Mapping[str, Sequence[Run]]) -> list[list[str]]:
    """Header and rows: each group's first run that was watched, the cluster and then each host; [] where none was.

    Percentages are of the hosts' cores. "Of the run" is the memory of its own processes there; of one host of several
    the sum of each process's least and most, which need not have been at one time.
    """
    rows = []
    for name, runs in grouped.items():
        found = next((usage for run in runs if (usage := system_usage(run)) is not None), None)
        if found is None:
            continue
        count = len(found["hosts"])
        parts = {"cluster": found["cluster"]} if count > 1 else {}
        for host, spent in found["hosts"].items():
            own = _added(found["processes"], host) if count > 1 else found["cluster"].get("memory_bytes")
            parts[host] = spent | ({"memory_bytes": own} if own else {})
        for part, spent in parts.items():
            rows.append([name, part, *(write(spent, key) for _, write, key in _COLUMNS)])
    return [["run", "host", *(title for title, _, _ in _COLUMNS)], *rows] if rows else []


def _added(processes: Mapping[str, Mapping[str, Any]], host: str) -> dict[str, float]:
    """Memory of the processes of a host."""
    own = [one["memory_bytes"] for one in processes.values() if one["host"] == host and "memory_bytes" in one]
    return {which: sum(three[which] for three in own) for which in ("min", "mean", "max")}
