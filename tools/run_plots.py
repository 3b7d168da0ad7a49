"""One figure of a comparison: a metric, loss and what the machines spent, against epochs and wall time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from run_metric import metrics_of
from run_reader import Row, Run, cluster_samples

# Okabe and Ito's palette, distinguishable by colour-blind readers; line styles and markers for print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
STYLES = ("-", "--", "-.", ":")
MARKERS = "os^vDPX*"


def draw(grouped: Mapping[str, Sequence[Run]]) -> Any:
    """A matplotlib figure. Needs the extra 'report'.

    Thick lines are means over seeds, thin ones the seeds, bars the switch points. The training metric (a running mean),
    training loss and the samples of the machines are of each group's first run.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    import matplotlib.pyplot as plt

    measured = {name: cluster_samples(runs[0]) for name, runs in grouped.items()}
    sampled = any(measured.values())
    metric = metrics_of([run for runs in grouped.values() for run in runs])[0]
    own, percent = metric.name, metric.factor
    trained = any(own in row for runs in grouped.values() for row in runs[0].train)
    first = 3 if trained else 2  # rows of the metric and loss; what the machines spent comes below
    rows = first + 3 if sampled else first
    figure = plt.figure(figsize=(11, 2.7 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, 2)
    left = [figure.add_subplot(grid[0, 0])]
    left += [figure.add_subplot(grid[row, 0], sharex=left[0]) for row in range(1, first + 2 if sampled else first)]
    right: list[Any] = []
    for row in range(rows):
        shared = {"sharex": right[0]} if right else {}
        same_y = {"sharey": left[row]} if row < first else {}
        right.append(figure.add_subplot(grid[row, 1], **shared, **same_y))
    for i, (name, runs) in enumerate(grouped.items()):
        look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i % len(STYLES)]}
        marker = MARKERS[i % len(MARKERS)]
        for row, (key, factor) in enumerate(((own, percent), ("loss", 1.0))):
            for axis, x, scale in ((left[row], "epoch", 1.0), (right[row], "time", 60.0)):
                for run in runs if len(runs) > 1 else ():
                    axis.plot(*_line(run.evaluations, x, scale, key, factor), **look, linewidth=0.6, alpha=0.4)
                mean = _mean([run.evaluations for run in runs], own)
                label = name if axis is left[0] else None
                axis.plot(*_line(mean, x, scale, key, factor), **look, marker=marker, markersize=3, label=label)
                for switch in runs[0].switches:
                    where, height = _at(runs[0].evaluations, switch, x, key)
                    if height is not None:
                        axis.plot(where / scale, factor * height, marker="|", markersize=16, color=look["color"])
        for axis, x, scale in ((left[2], "epoch", 1.0), (right[2], "time", 60.0)) if trained else ():
            along, shares = _line([row for row in runs[0].train if own in row], x, scale, own, percent)
            axis.plot(along, _smooth(shares), **look, linewidth=1)
        if sampled:
            left[first].plot(*_line(mean, "epoch", 1.0, own, percent), **look, marker=marker, markersize=3)
            left[first + 1].plot(*_line(runs[0].train, "epoch", 1.0, "loss", 1.0), **look, linewidth=0.8)
        for row, (key, factor) in enumerate((("cpu", 100.0), ("memory", 2.0**-30), ("network", 1e-6)), first):
            if measured[name]:
                minutes = [t / 60 for t in measured[name]["time"]]
                values = _smooth([factor * v for v in measured[name][key]])
                right[row].plot(minutes, values, **look, linewidth=1)
    left[0].set_ylabel(f"validation {metric.words}")
    left[1].set_ylabel("validation loss")
    if trained:
        left[2].set_ylabel(f"training {metric.words}")
    left[-1].set_xlabel("epochs")
    for axis, title in zip(right[first:], ("CPU, % of all cores", "memory, GiB", "network, MB/s"), strict=False):
        axis.set_ylabel(title)
        axis.set_ylim(bottom=0)
    right[-1].set_xlabel("minutes")
    for axis in (*left, *right):
        axis.grid(alpha=0.3)
    if sampled:
        ending = f"{own.replace('_', ' ')}, where it ends{metric.unit}"
        left[first].set_ylabel(f"validation {ending}", fontsize="small")
        every = [run.evaluations[-1].get(own) for runs in grouped.values() for run in runs if run.evaluations]
        ends = [percent * value for value in every if value is not None]
        if ends:
            one = 1.0 if metric.unit else max(max(ends) - min(ends), 0.05 * abs(max(ends)), 1e-9)
            low, high = (1.5, 0.5) if metric.higher_is_better else (0.5, 1.5)
            left[first].set_ylim(min(ends) - low * one, max(ends) + high * one)
        left[first + 1].set_ylabel("training loss")
        corner = figure.add_subplot(grid[first + 2, 0])
        corner.axis("off")
        corner.legend(
            *left[0].get_legend_handles_labels(), loc="upper left", frameon=False, title="a bar: switch point"
        )
    else:
        left[0].legend(frameon=False)
    return figure


def _line(rows: Sequence[Row], x: str, scale: float, key: str, factor: float) -> tuple[list[float], list[float]]:
    known = [r for r in rows if r.get(key) is not None]  # a row of no step, or of numbers that are not finite, has none
    return [r[x] / scale for r in known], [factor * r[key] for r in known]


def _mean(evaluations: Sequence[Sequence[Row]], metric: str) -> list[Row]:
    """The k-th evaluations of several runs, averaged, as far as all have one."""
    found = []
    for same in zip(*evaluations, strict=False):
        keys = [k for k in ("epoch", "time", metric, "loss") if all(r.get(k) is not None for r in same)]
        found.append({k: sum(r[k] for r in same) / len(same) for k in keys})
    return found


def _at(rows: Sequence[Row], event: Row, x: str, key: str) -> tuple[float, float | None]:
    """Where on a line an event lies: between the evaluations around it."""
    where = event[x]
    rows = [r for r in rows if r.get(key) is not None]
    before = [r for r in rows if r[x] <= where]
    after = [r for r in rows if r[x] > where]
    if not before or not after:
        return where, (before[-1] if before else after[0])[key] if rows else None
    a, b = before[-1], after[0]
    return where, a[key] + (b[key] - a[key]) * (where - a[x]) / max(b[x] - a[x], 1e-9)


def _smooth(values: Sequence[float], width: int = 5) -> list[float]:
    """Running mean; samples of two seconds are restless."""
    half = width // 2
    parts = [values[max(k - half, 0) : k + half + 1] for k in range(len(values))]
    return [sum(part) / len(part) for part in parts]
