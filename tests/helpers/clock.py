"""Time that passes when a test says so: for what is judged by a clock, on machines however slow."""

from __future__ import annotations


class Clock:
    """What modules use of `time`, to be put in its place."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
