"""The figure of a sweep: speed, phases, accuracy and machines by batch size and system."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sweep_tables
from run_plots import COLOURS, MARKERS, STYLES
from run_reader import Run
from sweep_tables import Sweep

# Of one system, so that they are told apart beside each other in a bar.
_PHASE_COLOURS = dict(zip(sweep_tables.PHASES, ("#999999", "#E69F00", "#F0E442", "#56B4E9", "#0072B2", "#009E73",
                                                "#CC79A7", "#000000"), strict=True))  # fmt: skip


def draw(sweep: Sweep) -> Any:
    """A matplotlib figure. Needs the extra 'report'."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(4, 2, figsize=(11, 13), layout="constrained")
    reached = sweep_tables.common_losses(sweep)
    panels: list[tuple[str, Callable[[Run], float | None], float]] = [
        ("images/s", lambda run: (run.summary or {}).get("images_per_second"), 1.0),
        ("ms a global batch", sweep_tables.step_ms, 1.0),
        ("validation accuracy, %", lambda run: (run.summary or {}).get("validation_accuracy"), 100.0),
        ("epochs to the loss that all reached", lambda run: sweep_tables.epochs_to(run, reached), 1.0),
        ("CPU, % of all cores", sweep_tables.cpu, 100.0),
        ("peak memory, GiB", sweep_tables.memory, 2.0**-30),
    ]
    for axis, (title, value, factor) in zip(axes.flat, panels, strict=False):
        for k, system in enumerate(sweep.systems):
            points = [(p, v) for p in sweep.points if (v := _mean(sweep, p, system, value)) is not None]
            x = [sweep.points.index(p) for p, _ in points]
            look = {"color": COLOURS[k % len(COLOURS)], "linestyle": STYLES[k % len(STYLES)]}
            axis.plot(x, [factor * v for _, v in points], marker=MARKERS[k % len(MARKERS)], label=system, **look)
        axis.set_ylabel(title)
        axis.set_xticks(range(len(sweep.points)), [p.removeprefix("batch_") for p in sweep.points])
        axis.grid(alpha=0.3)
    for axis in (axes[0, 0], axes[0, 1], axes[2, 0], axes[2, 1]):
        axis.set_ylim(bottom=0)
    axes[2, 0].set_xlabel("batch")
    axes[2, 1].set_xlabel("batch")
    axes[0, 0].legend(frameon=False, fontsize=8)
    grid = axes[3, 0].get_gridspec()
    for axis in axes[3]:
        axis.remove()
    _bars(figure.add_subplot(grid[3, :]), sweep)
    return figure


def _bars(axis: Any, sweep: Sweep) -> None:
    """Each run's seconds, phase upon phase."""
    at, labels = 0, []
    drawn = set()
    for point in sweep.points:
        for system in (s for s in sweep.systems if (point, s) in sweep.cells):
            low = 0.0
            for phase, colour in _PHASE_COLOURS.items():
                seconds = _mean(sweep, point, system, _seconds(phase)) or 0.0
                label = None if phase in drawn or not seconds else phase
                axis.bar(at, seconds, bottom=low, color=colour, label=label, width=0.8)
                drawn |= {phase} if seconds else set()
                low += seconds
            labels.append((at, f"{point.removeprefix('batch_')} {system}"))
            at += 1
        at += 1
    axis.set_xticks([x for x, _ in labels], [text for _, text in labels], rotation=90, fontsize=6)
    axis.set_ylabel("s")
    axis.legend(frameon=False, fontsize=8, ncols=len(drawn) or 1)


def _seconds(phase: str) -> Callable[[Run], float | None]:
    return lambda run: (run.summary or {}).get("phase_seconds", {}).get(phase)


def _mean(sweep: Sweep, point: str, system: str, value: Callable[[Run], float | None]) -> float | None:
    found = [v for run in sweep.cells.get((point, system), ()) if (v := value(run)) is not None]
    return sum(found) / len(found) if found else None
