"""What a run says of itself: train, eval and event rows, the log, callbacks, and the summary."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdist.cluster import Cluster
from jaxdist.ops import backend
from jaxdist.runtime import compilation, memory_use, monitor
from jaxdist.runtime import usage as usage_lib
from jaxdist.task import Objective, Task
from jaxdist.train.callbacks import Callbacks
from jaxdist.train.health import Health
from jaxdist.train.measurements import Measurements
from jaxdist.train.setup import num_params
from jaxdist.train.writer import Writer

_PHASE_EVENT = "switched"


class Recorder:
    """Writes rows, on the chief, and tells callbacks of them, everywhere.

    Args:
      measured: what the rows are made of.
      health: judges them; what it raises ends the run.
      num_train: examples of an epoch.
      objective: whose metrics the summary has.
    """

    def __init__(
        self,
        measured: Measurements,
        writer: Writer,
        callbacks: Callbacks,
        health: Health,
        num_train: int,
        objective: Objective,
    ) -> None:
        self._metric_names = objective.metric_names
        self.measured, self._writer, self._callbacks, self._health = measured, writer, callbacks, health
        self._num_train = num_train
        self._saved: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.last_row: dict[str, float] = {}

    def where(self, updates: int, examples_seen: int) -> dict[str, Any]:
        """The fields that every row begins with."""
        return {"updates": updates, "examples_seen": examples_seen, "epoch": examples_seen / self._num_train}

    def start(self, where: Mapping[str, Any], resumed: bool) -> None:
        """The run begins, or goes on."""
        unix_time_of_0 = round(time.time() - self._writer.elapsed(), 3)
        self._writer.write("event", event="clock", unix_time_of_0=unix_time_of_0, **where)
        if resumed:
            self._writer.write("event", event="resumed", **where)
            logging.info("Resumed at update %d, epoch %.2f.", where["updates"], where["epoch"])
        self._callbacks.call("start")

    def train_row(self, where: Mapping[str, Any], learning_rate: float, more: Mapping[str, Any]) -> None:
        """A row of what was measured since the last one, and of what the strategy adds."""
        not_finite = self.measured.not_finite
        measured = self.measured.window_row()
        row = dict(where) | measured | {"learning_rate": learning_rate} | dict(more)
        self.last_row = dict(where) | measured
        self._writer.write("train", **row)
        self._callbacks.call("logged", row)
        self._health.trained(row, not_finite)

    def evaluation(self, row: dict[str, Any]) -> None:
        """An evaluation, of this process or of another; the newest is the summary's."""
        if row["updates"] >= self.measured.last_evaluation.get("updates", 0):  # another process's may come late
            kept = {k: v for k, v in row.items() if k not in ("examples_seen", "epoch")}
            self.measured.last_evaluation = kept
        self._writer.write("eval", **row)
        logging.info("epoch %.2f: validation %s", row["epoch"], in_words(row, self._metric_names))
        self._callbacks.call("evaluated", row)
        self._health.evaluated(row)

    def event(self, where: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Something that has happened."""
        row = dict(where) | dict(event)
        self._writer.write("event", **row)
        if event["event"] == _PHASE_EVENT:
            self._callbacks.call("phase_changed", row)

    def saved(self, where: dict[str, Any]) -> None:
        """A checkpoint is on disk. Called by the thread that wrote it: callbacks hear of it from `report_saved`."""
        self._health.saved(where["updates"])
        self._writer.write("event", event="saved", **where)
        self._saved.put(where)

    def report_saved(self) -> None:
        """Tells callbacks of checkpoints that have been written meanwhile."""
        while not self._saved.empty():
            self._callbacks.call("saved", self._saved.get())

    def end(self, summary: dict[str, Any], *, is_chief: bool = True) -> None:
        """The run is over, and well, or it was of no use: raises `Unhealthy`."""
        # Another worker that came late to a short run of servers knows of no update, and has left out none.
        if is_chief or summary["updates"] or self.measured.skipped:
            self._health.ended(summary["updates"] - self.measured.skipped)
        self._writer.summarise(summary)
        self.report_saved()
        self._callbacks.call("end", summary)

    def summary(self, per_worker: Sequence[Sequence[Any] | None]) -> dict[str, Any]:
        """Of what was measured; `per_worker`: `own_numbers` of every worker, None for a lost one."""
        measured, epoch = self.measured, self.measured.epoch
        # A run ends up to one update before its last epoch does; a mere beginning of an epoch is not "the last epoch".
        last = epoch if 2 * epoch.count >= measured.last_epoch.count else measured.last_epoch
        every = [one or [None] * 6 for one in per_worker]
        return {
            **{f"train_{name}": value if last.count else None for name, value in last.values().items()},
            **{f"validation_{name}": measured.last_evaluation.get(name) for name in self._metric_names},
            "elapsed_seconds": round(measured.elapsed(), 3),
            "images_per_second": round(measured.timed_examples / max(measured.training_seconds, 1e-9), 2),
            "updates_skipped": measured.skipped,
            "phase_seconds": {k: round(v, 3) for k, v in measured.timer.seconds.items()},
            "hidden_seconds": {k: round(v, 3) for k, v in measured.timer.hidden_seconds.items()},
            "wait_seconds": {k: round(v, 3) for k, v in measured.wait_seconds.items()},
            "peak_memory_bytes": [w[0] for w in every],
            "param_bytes_per_process": [w[2] for w in every],
            "optimizer_bytes_per_process": [w[3] for w in every],
            "programs_compiled": [w[1] for w in every],
            "ops_backend": [w[5] for w in every],
            "system": usage_lib.of_cluster(w[4] for w in every),
        }


def in_words(row: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """Of an evaluation: its loss, and every metric that is one number."""
    words = []
    for name in metrics:
        if isinstance(value := row.get(name), float | int):
            shown = f"{100 * value:.2f} %" if name.endswith("accuracy") else f"{value:.4f}"
            words.append(f"{name.replace('_', ' ')} {shown}")
    return ", ".join(words)


def own_numbers(arrays: Mapping[str, Any]) -> list[Any]:
    """Of this process: peak memory, programs compiled, bytes of parameters and of optimizer state on its devices; and
    what it and its host have spent (`Usage.to_json`), where the monitor is on; the back end of its operations."""
    held = [memory_use.bytes_here(arrays.get(tree, {})) for tree in ("params", "opt_state")]
    return [memory_use.peak_bytes(), compilation.counts()["compiled"], *held, monitor.usage(), backend.in_use()]


def facts(config: Any, cluster: Cluster, task: Task) -> dict[str, Any]:
    """What the summary says first: of what was trained, by how many."""
    return {
        "strategy": config.strategy.name,
        "num_workers": cluster.num_processes,
        "num_servers": len(cluster.server_addresses),
        "num_params": num_params(task),
        "num_epochs": config.num_epochs,
    }
