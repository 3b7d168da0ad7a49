"""What a run has measured so far: the part of it that checkpoints keep, and the rows made from it."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

from jaxdist.data.prefetch import Prefetched
from jaxdist.strategies.report import Wait
from jaxdist.task import Objective
from jaxdist.train.early_stopping import EarlyStopping
from jaxdist.train.metrics import PhaseTimer, Sums, waited_for_batch


class Measurements:
    """Sums of the running epoch and of the rows' window, with the clock.

    Metrics are taken one step late, so that the device always has the next step queued while the host waits for the
    numbers of the last one.
    """

    def __init__(
        self,
        num_train: int,
        early_stopping: EarlyStopping,
        before: dict[str, Any] | None,
        timer: PhaseTimer,
        objective: Objective,
    ) -> None:
        before = before or {}
        self._num_train, self._objective = num_train, objective
        self.epoch = Sums(objective, before.get("epoch"))
        self.window = Sums(objective, before.get("window"))
        self.last_epoch = Sums(objective, before.get("last_epoch"))
        self.last_evaluation: dict[str, float] = before.get("last_evaluation", {})
        decided = dict(before.get("early_stopping", {}))
        # What was the best of another metric says nothing of this one.
        same = decided.pop("metric", "loss") == early_stopping.metric
        self.early_stopping = dataclasses.replace(early_stopping, **decided) if same else early_stopping
        self.timer = timer
        earlier = before.get("elapsed", 0.0)
        timer.go_on(before.get("phase_seconds", {}), before.get("hidden_seconds", {}), earlier)
        self.wait_seconds: dict[str, float] = before.get("wait_seconds", {})  # visible, of the timed steps
        self.timed_examples = before.get("timed_examples", 0)
        self.skipped = before.get("skipped", 0)  # updates that were left out, because they were not finite
        self.started = timer.begin - earlier
        self._late: collections.deque[tuple[dict[str, Any], int, int]] = collections.deque()
        self._mark()

    @property
    def has_late(self) -> bool:
        return bool(self._late)

    def _mark(self) -> None:
        self._window_skipped = self.skipped
        self.not_finite: tuple[float, int] | None = None  # of the window's first such step: its loss and examples seen
        self._window_steps = 0
        self._window_examples = 0
        self._window_waits: dict[str, float] = {}
        self._window_train = self.training_seconds

    @property
    def training_seconds(self) -> float:
        """Of the steps but those that compiled, with what they waited for their data."""
        return self.timer.seconds["train"] + self.wait_seconds.get("data", 0.0)

    def next_batch(self, batches: Prefetched, waits_for: str, *, timed: bool) -> Any:
        """The next batch, None at the end; blocks for it, and notes for what.

        Args:
          waits_for: what an item of `batches` may wait for ('server'); '': nothing.
          timed: not before a step that compiles.
        """
        batch = next(batches, None)
        hidden = waited_for_batch(self.timer, batches, whole=not waits_for)
        data = batches.waited.making
        if waits_for:
            self._add_wait(waits_for, Wait(batches.waited.items, hidden.items), timed=timed)
        else:
            data += batches.waited.items
        self._add_wait("data", Wait(data), timed=timed)
        return batch

    def _add_wait(self, name: str, wait: Wait, *, timed: bool) -> None:
        if wait.hidden:
            self.timer.hide(name, wait.hidden)
        if timed:
            for waits in (self.wait_seconds, self._window_waits):
                waits[name] = waits.get(name, 0.0) + wait.visible

    def add_step(
        self, metrics: dict[str, Any], before: int, after: int, *, waits: Mapping[str, Wait], timed: bool
    ) -> bool:
        """Notes a step that took examples_seen from `before` to `after`; True when all processes are to stop.

        `waits`: what it waited for besides its batch (`Report.waits`).
        """
        for name, wait in waits.items():
            self._add_wait(name, wait, timed=timed)
        self._late.append((metrics, before, after))
        if timed:
            # What others trained on while this process was evaluating or saving is not of its training time.
            examples = max(after - before - metrics.get("elsewhere", 0), 0)
            self.timed_examples += examples
            self._window_steps += 1
            self._window_examples += examples
        return self.take_late(leave=1)

    def take_late(self, leave: int = 0) -> bool:
        """Adds up all but the newest `leave` steps, waiting for the device; True when one of them says stop."""
        stop = False
        while len(self._late) > leave:
            metrics, before, after = self._late.popleft()
            if self.not_finite is None and not math.isfinite(loss := float(metrics["loss_sum"])):
                self.not_finite = loss, after
            self.skipped += int(metrics.get("skipped", 0))
            self.window.add(metrics)
            self.epoch.add(metrics)
            stop = stop or float(metrics["stop"]) > 0
            if after // self._num_train > before // self._num_train:
                self.last_epoch, self.epoch = self.epoch, Sums(self._objective)
        return stop

    def window_row(self) -> dict[str, float]:
        """The numbers of a train row, and the start of the next window."""
        seconds = self.training_seconds - self._window_train
        steps = self._window_steps
        row: dict[str, float] = self.window.values()
        if self.skipped > self._window_skipped:
            row["updates_skipped"] = self.skipped - self._window_skipped
        if steps:
            row["images_per_second"] = round(self._window_examples / max(seconds, 1e-9), 2)
            row["step_ms"] = round(1000 * seconds / steps, 3)
            row |= {f"{name}_wait_ms": round(1000 * s / steps, 3) for name, s in self._window_waits.items()}
        self.window = Sums(self._objective)
        self._mark()
        return row

    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        early = {name: getattr(self.early_stopping, name) for name in ("metric", "best", "evaluations_since_best")}
        return {
            "epoch": self.epoch.to_json(),
            "window": self.window.to_json(),
            "last_epoch": self.last_epoch.to_json(),
            "last_evaluation": self.last_evaluation,
            "early_stopping": early,
            "phase_seconds": self.timer.seconds,
            "hidden_seconds": self.timer.hidden_seconds,
            "wait_seconds": dict(self.wait_seconds),
            "timed_examples": self.timed_examples,
            "skipped": self.skipped,
            "elapsed": self.elapsed(),
        }
