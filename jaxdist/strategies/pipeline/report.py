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
    """Of the stage workers of this process.

    Attributes:
      places: theirs; set when the stages are chosen.
      devices: of each stage of a replica, (process, device): those of one device take turns.
      plan: what the summary says of the stages; set when they are chosen.
      gather_timelines: collective over the processes of the pipeline; set when they are connected.
    """

    def __init__(self) -> None:
        self.places: Sequence[Place] = ()
        self.devices: Sequence[tuple[int, int]] = ()
        self.plan: Mapping[str, Any] = {}
        self.gather_timelines: Callable[[list[Any]], list[list[Any]]] = lambda own: [own]
        self._compiled = False
        self._steps: list[_Timed] = []
        self._spans: dict[Place, Any] = {}
        self._live: dict[Place, int] = {}
        self._waited: float | None = None

    def note(self, steps: Sequence[Step]) -> None:
        """A training step is done: what each stage worker did in it."""
        spent = steps[0].spent
        stages = range(len(self.plan["balance"]))
        if self._compiled and all(s in spent for s in stages):  # not the step that compiled
            replica = self.places[0].replica
            ends = [
                (step.spans[0][1], step.spans[-1][2])
                for place, step in zip(self.places, steps, strict=True)
                if place.replica == replica
            ]
            wall = max(end for _, end in ends) - min(begin for begin, _ in ends)
            self._steps.append(_Timed([spent[s][0] for s in stages], [spent[s][1] for s in stages], wall))
        self._compiled = True
        waits = [step.waited for step in steps if step.waited is not None]
        if waits:  # stages of one process wait beside each other
            self._waited = (self._waited or 0.0) + sum(waits) / len(waits)
        for place, own in zip(self.places, steps, strict=True):
            self._spans[place] = own.spans
            self._live[place] = max(self._live.get(place, 0), own.live_bytes)

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
        devices = sorted(set(self.devices))
        shares = np.bincount([devices.index(device) for device in self.devices], weights=busy) / wall
        return {
            "bubble": round(float(1 - shares.mean()), 4),
            "busy": [round(float(share), 4) for share in shares],
            "stage_ms": [round(1000 * float(b) / len(steps), 2) for b in busy],
            "stage_bytes_sent": [round(float(s) / len(steps)) for s in sent],
            "bytes_sent": int(sent.sum()),
            "live_activation_bytes": max(self._live.values()),
        }

    def summary(self) -> dict[str, Any]:
        own = [
            {
                "replica": p.replica,
                "stage": p.stage,
                "process": p.process,
                "live_activation_bytes": self._live.get(p, 0),
                "spans": [[str(action), begin, end] for action, begin, end in self._spans.get(p, ())],
            }
            for p in self.places
        ]
        every = self.gather_timelines(own)
        return dict(self.plan) | {"timeline": [stage for process in every for stage in process]}
