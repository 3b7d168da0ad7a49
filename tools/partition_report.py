"""Which targets each worker of a run had (`data.partition`): a table, and a figure of bars."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from run_plots import COLOURS
from run_reader import Run

TITLE = "Examples of each worker, by target"


def partitioned(grouped: Mapping[str, Sequence[Run]]) -> dict[str, Mapping[str, Any]]:
    """{group: summary of its first run} of those whose data were distributed."""
    summaries = {name: runs[0].summary for name, runs in grouped.items()}
    return {name: found for name, found in summaries.items() if found and found.get("targets_per_worker")}


def names_of(summary: Mapping[str, Any]) -> list[str]:
    """Of the columns: classes, or ranges of a number."""
    edges = summary.get("target_edges")
    if edges:
        return [f"{low:.3g} to {high:.3g}" for low, high in itertools.pairwise(edges)]
    return [str(label) for label in range(len(summary["targets_per_worker"][0]))]


def table(grouped: Mapping[str, Sequence[Run]]) -> list[list[str]]:
    """Header and a row a worker; [] where nothing is distributed. Groups with other targets have rows of their own."""
    rows: list[list[str]] = []
    header: list[str] = []
    for name, summary in partitioned(grouped).items():
        own = ["run", "partition", "worker", "examples", *names_of(summary)]
        if own != header:
            rows.append(own)
            header = own
        for worker, counts in enumerate(summary["targets_per_worker"]):
            examples = summary["examples_per_worker"][worker]
            rows.append([name, summary["partition"], str(worker), str(examples), *map(str, counts)])
    return rows


def draw(grouped: Mapping[str, Sequence[Run]]) -> Any:
    """A matplotlib figure: for each group a panel, for each worker a bar of its targets. Needs the extra 'report'."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = partitioned(grouped)
    columns = min(len(found), 3)
    rows = -(-len(found) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 2.8 * rows), layout="constrained", squeeze=False)
    for axis, (name, summary) in zip(axes.flat, found.items(), strict=False):
        names, left = names_of(summary), [0] * len(summary["targets_per_worker"])
        for k, label in enumerate(names):
            counts = [own[k] for own in summary["targets_per_worker"]]
            look = {"color": COLOURS[k % len(COLOURS)], "alpha": 1.0 if k < len(COLOURS) else 0.5}
            axis.barh(range(len(left)), counts, left=left, label=label, **look)
            left = [a + b for a, b in zip(left, counts, strict=True)]
        axis.set_title(f"{name}: {summary['partition']}", fontsize="small")
        axis.set_yticks(range(len(left)), [f"worker {w}" for w in range(len(left))], fontsize="small")
        axis.invert_yaxis()
        axis.set_xlabel("examples", fontsize="small")
        axis.legend(fontsize="xx-small", ncols=2, loc="best")
    for axis in axes.flat[len(found) :]:
        axis.axis("off")
    return figure
