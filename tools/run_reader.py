"""Run directories as the reports see them."""

from __future__ import annotations

import bisect
import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from growing_files import Row, parsed

from jaxdist.runtime.usage import Usage, of_cluster


@dataclasses.dataclass(frozen=True)
class Run:
    """One run directory.

    Attributes:
      name, group: 'switch_50/seed1' and 'switch_50': runs that differ by their seed alone are of one group.
      summary: None while the run has not ended.
      train, evaluations, events: rows of metrics.jsonl; of rows for the same update the last one.
      system: process -> samples, with `time` on the clock of metrics.jsonl.
    """

    folder: pathlib.Path
    name: str
    group: str
    config: dict[str, Any]
    summary: Row | None
    train: list[Row]
    evaluations: list[Row]
    events: list[Row]
    system: dict[str, list[Row]]

    @property
    def switches(self) -> list[Row]:
        return [e for e in self.events if e["event"] == "switched"]


def path_of(text: str) -> pathlib.Path:
    """An argument of a command line: a shell leaves the ~ of --out=~/report alone."""
    return pathlib.Path(text).expanduser()


def read_run(folder: pathlib.Path, lines_of: Callable[[pathlib.Path], Iterable[Row]] | None = None) -> Run:
    """Reads a run, whether it has ended or not; damaged last lines of a run that was killed are passed over.

    Args:
      lines_of: how a file of rows is read; `GrowingFiles.all_rows` for who reads the same run again and again.
    """
    lines_of = lines_of or _lines
    rows = list(lines_of(folder / "metrics.jsonl"))
    last: dict[tuple[str, int], Row] = {}
    for row in rows:
        if row["kind"] != "event":
            last[row["kind"], row["updates"]] = row
    kept = sorted(last.values(), key=lambda r: r["updates"])
    events = [r for r in rows if r["kind"] == "event"]
    seed = re.fullmatch(r"(.*?)[-_/]?seed[-_]?\d+", folder.name)
    own = seed[1] if seed else folder.name
    group = own or folder.resolve().parent.name
    return Run(
        folder,
        f"{group}/{folder.name}" if not own else folder.name,
        group,
        _json(folder / "config.json") or {},
        _json(folder / "summary.json"),
        [r for r in kept if r["kind"] == "train"],
        [r for r in kept if r["kind"] == "eval"],
        events,
        {p.stem: _on_the_runs_clock(lines_of(p), events) for p in sorted((folder / "system").glob("*.jsonl"))},
    )


def groups(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Group -> its runs, in the order given."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.group, []).append(run)
    return found


def _json(path: pathlib.Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _lines(path: pathlib.Path) -> Iterable[Row]:
    return parsed(path.read_text().splitlines() if path.exists() else ())


def _on_the_runs_clock(samples: Iterable[Row], events: list[Row]) -> list[Row]:
    """With `time`: each start of the run says in an event what its time 0 was; a sample belongs to the start before."""
    zeros = [e["unix_time_of_0"] for e in events if e["event"] == "clock"]
    starts = [e["unix_time_of_0"] + e["time"] for e in events if e["event"] == "clock"]
    found = []
    for sample in samples:
        if not zeros:
            break
        part = max(bisect.bisect_right(starts, sample["unix_time"]) - 1, 0)
        found.append(sample | {"time": sample["unix_time"] - zeros[part]})
    return found


def cluster_samples(run: Run, step: float = 2.0) -> dict[str, list[float]]:
    """What all processes and their hosts spent, on a grid of `step` seconds.

    Returns:
      time (s), cpu, cpu_user, cpu_system, cpu_iowait (part of all hosts' cores), memory (bytes, sum over processes),
      host_memory, host_cached (bytes, sum over hosts), network (bytes a second, sum over hosts; loopback counts where
      processes share a host). What no sample has is 0. Empty where there is no sample.
    """
    end = max((s["time"] for samples in run.system.values() for s in samples), default=0.0)
    count = int(end / step) + 1
    if not any(run.system.values()):
        return {}
    hosts: dict[str, str] = {}  # host -> the process whose samples stand for it
    for process, samples in run.system.items():
        if samples:
            hosts.setdefault(samples[0]["host"], process)
    cores = sum(run.system[p][0]["host_cores"] for p in hosts.values())

    def added_up(processes: Iterable[str], *keys: str, of: float = 1.0) -> list[float]:
        every = [_binned(run.system[process], key, count, step) for process in processes for key in keys]
        return [sum(cell) / of for cell in zip(*every, strict=True)]

    one_a_host = list(hosts.values())
    return {
        "time": [step * (k + 0.5) for k in range(count)],
        **{name: added_up(one_a_host, f"host_{name}", of=cores) for name in ("cpu", *_CPU)},
        "memory": added_up(run.system, "memory_bytes"),
        "host_memory": added_up(one_a_host, "host_memory_bytes"),
        "host_cached": added_up(one_a_host, "host_memory_cached_bytes"),
        "network": added_up(one_a_host, "host_sent_per_second", "loopback_per_second"),
    }


_CPU = ("cpu_user", "cpu_system", "cpu_iowait")


def _binned(samples: list[Row], key: str, count: int, step: float) -> list[float]:
    """The mean of a key over the time in each cell; a cell without a sample repeats the one before, up to the last
    sample."""
    sums, covered = [0.0] * count, [0.0] * count
    for sample in samples:
        cell = int(sample["time"] // step)
        if 0 <= cell < count:
            seconds = sample.get("seconds", step)
            sums[cell] += sample.get(key, 0.0) * seconds
            covered[cell] += seconds
    found, value = [], 0.0
    last = max((k for k in range(count) if covered[k]), default=-1)
    for k in range(count):
        value = sums[k] / covered[k] if covered[k] else value if k <= last else 0.0
        found.append(value)
    return found


def system_usage(run: Run) -> Row | None:
    """Least, mean and most of what each process, each host and the cluster spent: `jaxdist.runtime.usage.of_cluster` of
    the samples. Hosts and processes whose samples are not here are taken from the summary, where it has them."""
    reports = []
    for process, samples in run.system.items():
        whole = [{"seconds": 2.0} | sample for sample in samples]
        interval = sorted(sample["seconds"] for sample in whole)[len(whole) // 2] if whole else 0.0
        usage = Usage(process, interval)
        for sample in whole:
            usage.add(sample)
        reports.append(usage.to_json())
    sampled = of_cluster(reports)
    told = (run.summary or {}).get("system")
    if sampled is None or told is None or set(told["hosts"]) <= set(sampled["hosts"]):
        return sampled or told
    # The cluster's numbers are of the hosts that were added up: the summary's, as it knows more of them.
    return {part: told[part] | sampled[part] for part in ("hosts", "processes")} | {"cluster": told["cluster"]}


def staleness_mean(summary: Mapping[str, Any]) -> float | None:
    """Mean staleness of all pushes of a run, all its phases together; None where there were none."""
    parts = [summary, *summary.get("phases", ())]
    counts: dict[int, int] = {}
    for histogram in (h for part in parts for h in part.get("staleness_histogram", ())):
        for value, number in histogram.items():
            counts[int(value)] = counts.get(int(value), 0) + number
    total = sum(counts.values())
    return sum(value * number for value, number in counts.items()) / total if total else None


def keep_small(run: Run, folder: pathlib.Path, most_rows: int = 60) -> None:
    """Writes what is needed to draw a run again: summary, configuration, and its rows and samples thinned."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (("config.json", run.config), ("summary.json", run.summary)):
        if value:
            (folder / name).write_text(json.dumps(value, indent=2) + "\n")
    events = [e for e in run.events if e["event"] != "saved"]
    rows = sorted([*_thinned(run.train, most_rows), *run.evaluations, *events], key=lambda r: r["time"])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for process, samples in run.system.items():
        (folder / "system").mkdir(exist_ok=True)
        lines = (json.dumps({k: v for k, v in s.items() if k != "time"}) for s in _thinned(samples, most_rows))
        (folder / "system" / f"{process}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def _thinned(rows: list[Row], most: int) -> list[Row]:
    if len(rows) <= most:
        return rows
    return [rows[round(k * (len(rows) - 1) / (most - 1))] for k in range(most)]


OWN_KEYS = ("cpu", "cpu_user", "cpu_system", "memory_bytes")  # of a process; all others are of its host


def cluster_columns(run: Run, step: float, first: int = 0) -> dict[str, list[float | None]]:
    """Every number of the samples on a grid of `step` seconds, from cell `first` on.

    Returns:
      `time` (s), and one column for each key found: OWN_KEYS summed over the processes, others over the hosts;
      `interface NAME sent_per_second` and so on for what is by interface. None: nobody has a sample there.
    """
    living = {process: samples for process, samples in run.system.items() if samples}
    speaker: dict[str, str] = {}  # host -> the process whose samples stand for it: the one that lives longest
    for process, samples in sorted(living.items(), key=lambda item: item[1][-1]["time"]):
        speaker[samples[-1]["host"]] = process
    end = max((samples[-1]["time"] for samples in living.values()), default=-1.0)
    count = int(end / step) + 1 - first if end >= 0 else 0
    if count <= 0:
        return {}
    columns: dict[str, list[float | None]] = {"time": [step * (first + k + 0.5) for k in range(count)]}
    for process, samples in living.items():
        speaks = process in speaker.values()
        begin = bisect.bisect_left(samples, (first - _HELD_CELLS) * step, key=lambda s: s["time"])
        cells: dict[str, dict[int, list[float]]] = {}  # key -> cell -> sum of value x seconds, sum of seconds
        for sample in samples[begin:]:
            cell, seconds = int(sample["time"] // step) - first, sample.get("seconds", 1.0)
            for key, value in _numbers(sample):
                if speaks or key in OWN_KEYS:
                    sums = cells.setdefault(key, {}).setdefault(cell, [0.0, 0.0])
                    sums[0] += value * seconds
                    sums[1] += seconds
        for key, found in cells.items():
            column = columns.setdefault(key, [None] * count)
            held, age = 0.0, _HELD_CELLS + 1
            for cell in range(-_HELD_CELLS, count):
                total, seconds = found.get(cell, (0.0, 0.0))
                held, age = (total / seconds, 0) if seconds else (held, age + 1)
                if cell >= 0 and age <= _HELD_CELLS:
                    column[cell] = (column[cell] or 0.0) + held
    return columns


_HELD_CELLS = 3  # a process that is silent for more cells is taken for gone


def _numbers(sample: Row) -> Iterable[tuple[str, float]]:
    for key, value in sample.items():
        if isinstance(value, int | float) and key not in ("time", "unix_time", "seconds", "pid"):
            yield key, value
    for name, rates in sample.get("interfaces", {}).items():
        for key, value in rates.items():
            yield f"interface {name} {key}", value
