"""What a pipeline measures of itself: how busy its stages are, what they send and keep, and when they worked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdist.strategies.pipeline.placement import Place
from jaxdist.strategies.pipeline.stage_worker import Step
from jaxdist.strategies.report import Report, Wait


class _Timed(NamedTuple):
    """Of one step of the first replica here, by stage: seconds at work, bytes sent; and seconds of the whole."""

    busy: list[float]
    sent: list[int]
    wall: float


class PipelineReport(Report):
    """Of the stage workers at `places`, those of this process.

    Attributes:
      plan: what the summary says of the stages; set when they are chosen.
      gather_timelines: collective over the processes of the pipeline; set when they are connected.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = list(places)
        self.plan: Mapping[str, Any] = {}
        self.gather_timelines: Callable[[list[Any]], list[list[Any]]] = lambda own: [own]
        self._compiled = False
        self._steps: list[_Timed] = []
        self._spans: dict[Place, Any] = {}
        self._live = [0] * len(self._places)
        self._waited: float | None = None

    def note(self, steps: Sequence[Step]) -> None:
        """A training step is done: what each stage worker did in it."""
        first = steps[0]
        if self._compiled:  # not the step that compiled
            self._steps.append(_Timed(first.busy, first.sent, first.spans[-1][2] - first.spans[0][1]))
        self._compiled = True
        waits = [step.waited for step in steps if step.waited is not None]
        if waits:  # stages of one process wait beside each other
            self._waited = (self._waited or 0.0) + sum(waits) / len(waits)
        for i, (place, own) in enumerate(zip(self._places, steps, strict=True)):
            self._spans[place] = own.spans
            self._live[i] = max(self._live[i], own.live_bytes)

    def waits(self) -> Mapping[str, Wait]:
        """'network': for stages in other processes, until they had computed and sent; the mean of the stages here. What
        the sums over replicas wait for is inside a compiled program."""
        waited, self._waited = self._waited, None
        return {} if waited is None else {"network": Wait(waited)}

    def row(self) -> dict[str, Any]:
        steps, self._steps = self._steps, []
        if not steps:
            return {}
        busy = np.sum([step.busy for step in steps], axis=0)
        sent = np.sum([step.sent for step in steps], axis=0)  # by each stage, to both sides
        wall = sum(step.wall for step in steps)
        return {
            "bubble": round(float(1 - busy.sum() / (len(busy) * wall)), 4),
            "stage_ms": [round(1000 * float(b) / len(steps), 2) for b in busy],
            "stage_bytes_sent": [round(float(s) / len(steps)) for s in sent],
            "bytes_sent": int(sent.sum()),
            "live_activation_bytes": max(self._live),
        }

    def summary(self) -> dict[str, Any]:
        own = [
            {
                "replica": p.replica,
                "stage": p.stage,
                "live_activation_bytes": live,
                "spans": [[str(action), begin, end] for action, begin, end in self._spans.get(p, ())],
            }
            for p, live in zip(self._places, self._live, strict=True)
        ]
        every = self.gather_timelines(own)
        return dict(self.plan) | {"timeline": [stage for process in every for stage in process]}
