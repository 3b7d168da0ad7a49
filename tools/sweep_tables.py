"""The tables of a sweep (tools/compare_sweep.py): a row for each point and system, and operators by system."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import operator_kinds
from compare_runs import cell
from growing_files import Row
from run_reader import Run, cluster_samples, read_run

Cells = dict[tuple[str, str], list[Run]]  # (point, system) -> the runs that have ended, one a seed
Table = list[list[str]]

# In the order of a run; whatever else a run names comes after them.
PHASES = ("startup", "read", "preprocess", "compile", "train", "evaluate", "checkpoint", "other")
_CPU = {"host_cpu_user": "user", "host_cpu_system": "system", "host_cpu_iowait": "iowait", "host_cpu_steal": "steal"}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is in a folder POINT/SYSTEM/seedN.

    Attributes:
      points, systems: by number and name; runs: those that have begun.
      unfinished: names of those that have not ended.
    """

    points: list[str]
    systems: list[str]
    cells: Cells
    runs: list[Run]
    unfinished: list[str]


def _total(run: Run) -> float:
    """Seconds of the run, without those that looking at its operators took."""
    summary = run.summary or {}
    return summary["elapsed_seconds"] - summary.get("phase_seconds", {}).get("profile", 0.0)


def read_sweep(folder: pathlib.Path) -> Sweep:
    """Reads all runs in `folder`; samples taken before a run's time 0 or after its end (while operators were measured)
    are left out."""
    cells: Cells = {}
    runs, unfinished = [], []
    for path in sorted(folder.glob("*/*/seed*")):
        run = read_run(path)
        point, system = path.parent.parent.name, path.parent.name
        if not run.config:
            unfinished.append(f"{point}/{system}/{path.name}")
            continue
        runs.append(dataclasses.replace(run, name=f"{point}/{system}/{path.name}", group=system))
        if run.summary is None:
            unfinished.append(runs[-1].name)
            continue
        cells.setdefault((point, system), []).append(_within(runs[-1]))
    points = sorted({point for point, _ in cells}, key=number_of)
    # Layouts with more processes first: '8x1', then '4x2'.
    systems = sorted({s for _, s in cells}, key=lambda name: (-int(layout_of(name).partition("x")[0] or 0), name))
    return Sweep(points, systems, cells, runs, unfinished)


def number_of(point: str) -> float:
    """Of 'batch_96': 96; points without a number come first."""
    found = re.search(r"\d+(\.\d+)?$", point)
    return float(found[0]) if found else -math.inf


def layout_of(system: str) -> str:
    """Of 'allreduce_2x1': '2x1'; '' where the name has none."""
    last = system.rpartition("_")[2]
    return last if re.fullmatch(r"\d+x\d+", last) else ""


def _within(run: Run) -> Run:
    """Without samples of before its time 0 (a peer's imports) and after its end."""
    assert run.summary is not None
    end = run.summary["elapsed_seconds"]
    return dataclasses.replace(run, system={p: [s for s in v if 0 <= s["time"] <= end] for p, v in run.system.items()})


Column = tuple[str, Callable[[Run], float | None], Callable[[float], str]]


def _table(sweep: Sweep, columns: Sequence[Column]) -> Table:
    """Columns in which no run has a value are left out."""
    every = [run for runs in sweep.cells.values() for run in runs]
    kept = [column for column in columns if any(column[1](run) is not None for run in every)]
    rows = [["batch" if all(p.startswith("batch_") for p in sweep.points) else "point", "system"]]
    rows[0] += [title for title, _, _ in kept]
    for point in sweep.points:
        for system in sweep.systems:
            if runs := sweep.cells.get((point, system)):
                found = [cell([value(run) for run in runs], form) for _, value, form in kept]
                rows.append([point.removeprefix("batch_"), system, *found])
    return rows


def phases(sweep: Sweep) -> Table:
    """Seconds: total, each phase, and what went on behind them."""
    every = [run.summary or {} for runs in sweep.cells.values() for run in runs]
    names = [*PHASES, *sorted({k for s in every for k in s.get("phase_seconds", {})} - set(PHASES))]
    hidden = sorted({k for s in every for k in s.get("hidden_seconds", {})})
    return _table(
        sweep,
        [
            ("total s", _total, _one_digit),
            *((name, _of(("phase_seconds", name)), _one_digit) for name in names),
            *((f"{name}, hidden", _of(("hidden_seconds", name)), lambda v: f"{v:.2f}") for name in hidden),
        ],
    )


def training(sweep: Sweep) -> Table:
    """Speed, and how far training came."""
    reached = common_losses(sweep)
    return _table(
        sweep,
        [
            ("images/s", _of(("images_per_second",)), lambda v: f"{v:.0f}"),
            ("ms a global batch", step_ms, _one_digit),
            *((f"wait for {name}, ms a step", _wait_ms(name), lambda v: f"{v:.2f}") for name in _waits(sweep)),
            ("loss that all reached", lambda run: reached[run.name.split("/")[0]], lambda v: f"{v:.3f}"),
            ("epochs to it", lambda run: epochs_to(run, reached), lambda v: f"{v:.1f}"),
            ("validation loss", _of(("validation_loss",)), lambda v: f"{v:.4f}"),
            ("validation accuracy, %", _of(("validation_accuracy",)), lambda v: f"{100 * v:.2f}"),
        ],
    )


def machines(sweep: Sweep) -> Table:
    """CPU, memory and network of all hosts."""
    split = [(f"CPU {name}, %", _cpu_part(key), _percent) for key, name in _CPU.items()]
    return _table(
        sweep,
        [
            ("CPU, %", cpu, _percent),
            *split,
            ("peak memory, GiB", memory, lambda v: f"{v / 2**30:.2f}"),
            ("network, MB", network, lambda v: f"{v / 1e6:.0f}"),
        ],
    )


def operators(sweep: Sweep, point: str) -> Table:
    """Self ms of a step by kind and system, and each system's ratio to the first one of its layout; [] without any."""
    found: dict[str, dict[str, float]] = {}
    for system in sweep.systems:
        tables = [t for run in sweep.cells.get((point, system), []) if (t := operator_kinds.read(run.folder))]
        if tables:
            kinds = {kind for table in tables for kind in table}
            found[system] = {kind: sum(t.get(kind, 0.0) for t in tables) / len(tables) for kind in kinds}
    if not found:
        return []
    pairs = []
    for system in found:
        first = next(other for other in found if layout_of(other) == layout_of(system))
        if first != system:
            pairs.append((first, system))
    rows = [["kind", *(f"{s}, ms" for s in found), *(f"{b} / {a}" for a, b in pairs)]]
    extra = sorted({kind for table in found.values() for kind in table} - set(operator_kinds.KINDS))
    for kind in (*operator_kinds.KINDS, *extra, "all"):
        values = {s: sum(t.values()) if kind == "all" else t.get(kind) for s, t in found.items()}
        if any(values.values()):
            ratios = [_ratio(values[b], values[a]) for a, b in pairs]
            rows.append([kind, *("-" if v is None else f"{v:.2f}" for v in values.values()), *ratios])
    return rows


def _ratio(value: float | None, base: float | None) -> str:
    return f"{value / base:.2f}" if value and base else "-"


def common_losses(sweep: Sweep) -> dict[str, float]:
    """By point, the lowest validation loss that every run there reached, rounded up to three digits."""
    found = {}
    for point in sweep.points:
        runs = [run for (p, _), runs in sweep.cells.items() if p == point for run in runs]
        best = [min(row["loss"] for row in run.evaluations) for run in runs if run.evaluations]
        found[point] = math.ceil(1000 * max(best, default=math.inf)) / 1000 if best else math.inf
    return found


def epochs_to(run: Run, reached: Mapping[str, float]) -> float | None:
    """Epochs at the first evaluation with the loss that `reached` has of the run's point."""
    wanted = reached[run.name.split("/")[0]]
    return next((row["epoch"] for row in run.evaluations if row["loss"] <= wanted), None)


def step_ms(run: Run) -> float | None:
    """Milliseconds for one global batch, by all workers together: the same of every strategy."""
    rate = (run.summary or {}).get("images_per_second")
    return 1e3 * run.config["global_batch_size"] / rate if rate else None


def _waits(sweep: Sweep) -> list[str]:
    """What steps waited for, as train rows name it: data, network, server."""
    rows = (row for runs in sweep.cells.values() for run in runs for row in run.train)
    return sorted({key.removesuffix("_wait_ms") for row in rows for key in row if key.endswith("_wait_ms")})


def _wait_ms(name: str) -> Callable[[Run], float | None]:
    """The median over the train rows."""

    def value(run: Run) -> float | None:
        waits = sorted(row[f"{name}_wait_ms"] for row in run.train if f"{name}_wait_ms" in row)
        return waits[len(waits) // 2] if waits else None

    return value


def cpu(run: Run) -> float | None:
    samples = cluster_samples(run)
    return _mean(samples.get("cpu", ()))


def memory(run: Run) -> float | None:
    return max(cluster_samples(run).get("memory", [0.0])) or None


def network(run: Run) -> float | None:
    samples = cluster_samples(run)
    return 2.0 * sum(samples["network"]) if samples else None


def _cpu_part(key: str) -> Callable[[Run], float | None]:
    """The share of all hosts' cores that went to it, where the samples have it."""

    def value(run: Run) -> float | None:
        hosts = {samples[0]["host"]: samples for samples in run.system.values() if samples}
        shares = [(_mean_over_time(v, key), v[0]["host_cores"]) for v in hosts.values()]
        if not shares or any(mean is None for mean, _ in shares):
            return None
        return sum(mean or 0.0 for mean, _ in shares) / sum(cores for _, cores in shares)

    return value


def _of(keys: Sequence[str]) -> Callable[[Run], float | None]:
    def value(run: Run) -> float | None:
        found: object = run.summary
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found if isinstance(found, int | float) else None

    return value


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _mean_over_time(samples: Iterable[Row], key: str) -> float | None:
    """A short sample counts for its time."""
    found = [(sample.get("seconds", 2.0), sample[key]) for sample in samples if key in sample]
    seconds = sum(part for part, _ in found)
    return sum(part * value for part, value in found) / seconds if seconds else None


def _one_digit(value: float) -> str:
    return f"{value:.1f}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f}"
