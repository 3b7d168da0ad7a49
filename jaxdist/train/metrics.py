"""Sums and counts of metrics, and the seconds of each phase of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass
class Sums:
    """Metrics as sums over examples: divided once, when asked for; exact under any sharding and padding."""

    loss_sum: float = 0.0
    correct: float = 0.0
    count: float = 0.0

    def add(self, metrics: dict[str, Any]) -> None:
        """Adds one step's sums; waits for the device if they are still being computed."""
        self.loss_sum += float(metrics["loss_sum"])
        self.correct += float(metrics["correct"])
        self.count += float(metrics["count"])

    @property
    def loss(self) -> float:
        """Mean; NaN of nothing."""
        return self.loss_sum / self.count if self.count else math.nan

    @property
    def accuracy(self) -> float:
        """Share; NaN of nothing."""
        return self.correct / self.count if self.count else math.nan


class PhaseTimer:
    """Seconds spent in each phase of a run: read, compile, train, evaluate, checkpoint; and others, where there are."""

    def __init__(self, before: dict[str, float] | None = None) -> None:
        self.seconds = dict.fromkeys(("read", "compile", "train", "evaluate", "checkpoint"), 0.0) | (before or {})

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds.setdefault(name, 0.0)
            self.seconds[name] += time.monotonic() - begin
