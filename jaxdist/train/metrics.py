"""Sums and counts of metrics, and the seconds of each phase of a run."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxdist.data.prefetch import Prefetched, Work
from jaxdist.task import Objective
from jaxdist.task.objectives.objective import COUNT
from jaxdist.task.update import SKIPPED

NO_SUMS = ("stop", SKIPPED, "elsewhere")  # what a step says besides


class Sums:
    """Metrics as sums over examples: divided once, when asked for; exact under any sharding and padding.

    Args:
      objective: what the sums are of.
      kept: what `to_json` gave, of an earlier part of the run.
    """

    def __init__(self, objective: Objective, kept: Mapping[str, float] | None = None, *, training: bool = True) -> None:
        self._objective, self._training = objective, training
        # Of other metrics, before the run was started again with these: of no use.
        same = kept is not None and set(kept) == set(objective.training_sums)
        self.totals: dict[str, Any] = dict(kept or {}) if same else {}

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Adds one step's sums; waits for the device if they are still being computed."""
        for name in metrics:
            if name not in NO_SUMS:
                value = np.asarray(metrics[name], np.float64)
                self.totals[name] = self.totals.get(name, 0.0) + (float(value) if not value.ndim else value)

    @property
    def count(self) -> float:
        """Of examples."""
        return self.totals.get(COUNT, 0.0)

    @property
    def loss(self) -> float:
        """Mean; NaN of nothing."""
        return self.values()["loss"]

    def values(self) -> dict[str, Any]:
        """{'loss': mean, metric: value}; NaN of nothing."""
        if not self.count:
            names = ("loss", *(m.name for m in self._objective.training_metrics)) if self._training else ("loss",)
            return dict.fromkeys(names, math.nan)
        return self._objective.values(self.totals, training=self._training)

    def to_json(self) -> dict[str, float]:
        """Of training sums, which are single numbers."""
        return dict(self.totals)


class PhaseTimer:
    """Where a run's time goes: each moment of the training thread counts to one phase, so the phases add up to the time
    since `begin`. A phase inside another interrupts it.

        startup   imports, meeting the others, restoring a checkpoint, giving the state to the strategy
        read      opening and reading the data set, the checks and sums over all of it
        preprocess   decoding, normalising, augmenting, batching, placing: what training or an evaluation waited for it
        compile, train, evaluate, checkpoint     the first step; steps; evaluations; saving
        other     rows, events, callbacks, and the loop itself

    and others, where there are. What other threads do meanwhile is hidden: it is counted apart.

    Args:
      begin: the `time.monotonic()` that counts as the run's beginning; default now.
    """

    def __init__(self, begin: float | None = None) -> None:
        names = ("startup", "read", "preprocess", "compile", "train", "evaluate", "checkpoint", "other")
        self._seconds = dict.fromkeys(names, 0.0)
        self.begin = time.monotonic() if begin is None else begin
        self._now, self._since = "startup", self.begin
        self._hidden: dict[str, float] = {}
        self._lock = threading.Lock()  # hidden seconds come from any thread, the rest from the training thread alone

    @property
    def seconds(self) -> dict[str, float]:
        """Of each phase up to now, the present one's among them; of the runs before a resume too."""
        self._lap()
        return dict(self._seconds)

    @property
    def hidden_seconds(self) -> dict[str, float]:
        """Of work on other threads for which the training thread did not wait. Called from any thread."""
        with self._lock:
            return {name: max(seconds, 0.0) for name, seconds in self._hidden.items()}

    def go_on(self, seconds: Mapping[str, float], hidden: Mapping[str, float], elapsed: float) -> None:
        """Adds what a checkpoint has kept. What checkpoints of earlier versions left out of `elapsed` is 'other'."""
        unsaid = max(elapsed - sum(seconds.values()), 0.0) if "startup" not in seconds else 0.0
        for name, value in (*seconds.items(), ("other", unsaid)):
            self._seconds[name] = self._seconds.get(name, 0.0) + value
        for name, value in hidden.items():
            self.hide(name, value)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts what is inside to phase `name`."""
        before = self._now
        self.enter(name)
        try:
            yield
        finally:
            self.enter(before)

    def enter(self, name: str) -> None:
        """Counts what follows to phase `name`."""
        self._lap()
        self._now = name
        self._seconds.setdefault(name, 0.0)

    def attribute(self, name: str, seconds: float) -> None:
        """Counts the last seconds of the present phase to `name`: what they were for is known only now."""
        self._lap()
        self._seconds[self._now] -= seconds
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def hide(self, name: str, seconds: float) -> None:
        """Adds work on another thread, or takes off what the training thread waited for it. From any thread."""
        with self._lock:
            self._hidden[name] = self._hidden.get(name, 0.0) + seconds

    def _lap(self) -> None:
        now = time.monotonic()
        self._seconds[self._now] += now - self._since
        self._since = now


def waited_for_batch(timer: PhaseTimer, batches: Prefetched, *, whole: bool = True) -> Work:
    """Counts what the last `next(batches)` waited for to preprocessing, and what else its threads did as hidden.

    Args:
      whole: waiting for the items counts too; else for what was made of them alone.

    Returns:
      What threads did that was not waited for.
    """
    hidden = batches.take_work() - batches.waited
    timer.attribute("preprocess", batches.waited.making + (batches.waited.items if whole else 0.0))
    timer.hide("preprocess", hidden.making)
    return hidden
