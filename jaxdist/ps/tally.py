"""What is counted and noted of a run, for its rows and its summary."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from jaxdist.ps import parameter_server_pb2 as pb


@dataclasses.dataclass
class Counted:
    """What was counted of one worker over all its sessions."""

    pushes: int = 0
    refused: int = 0
    not_finite: int = 0
    staleness: dict[int, int] = dataclasses.field(default_factory=dict)
    clock_lead_max: int = 0


class Tally:
    """Server 0's counts. Called with its lock; nothing blocks.

    Args:
      record: what `record` returned, for a run that goes on from a snapshot; empty for a new one.

    Attributes:
      sums: of all pushes applied, whatever workers add up (losses, counts); [] before the first.
      counted: of each worker.
      reports: {worker as text: what it reported when it left}.
      events: JSON, in order, for every worker.
      evaluations: JSON, in order, for the chief; not part of the record: the evaluator gives them again.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.sums: list[float] = record.get("sums", [])
        self.counted: dict[int, Counted] = {int(w): _counted(c) for w, c in record.get("counted", {}).items()}
        self.reports: dict[str, Any] = record.get("reports", {})
        self.events: list[str] = record.get("events", [])
        self.evaluations: list[str] = []

    def note(self, event: str, version: int, **fields: Any) -> None:
        """Remembers something worth a row."""
        fields = {"event": event, "number": len(self.events), "version": version} | fields
        self.events.append(json.dumps(fields))

    def add(self, worker: int, commit: pb.Commit, staleness: int) -> None:
        """Counts a push that is applied, or whose examples are passed over."""
        if commit.sums:
            before = self.sums or [0.0] * len(commit.sums)
            self.sums = [a + b for a, b in zip(before, commit.sums, strict=True)]
        if not commit.skip:
            counted = self.counted[worker]
            counted.pushes += 1
            counted.staleness[staleness] = counted.staleness.get(staleness, 0) + 1

    def note_evaluation(self, text: str) -> None:
        """Remembers an evaluation, once."""
        if text not in self.evaluations:
            self.evaluations.append(text)

    def record(self) -> dict[str, Any]:
        """What a server 0 that starts again needs of it."""
        return {
            "sums": list(self.sums),
            "counted": {w: dataclasses.asdict(c) for w, c in self.counted.items()},
            "reports": dict(self.reports),
            "events": list(self.events),
        }

    def report(self) -> dict[str, Any]:
        """For the chief: what the workers that left reported, and what was counted of each."""
        counted = {w: dataclasses.asdict(c) for w, c in sorted(self.counted.items())}
        return {"reports": self.reports, "counted": counted}


def _counted(stored: dict[str, Any]) -> Counted:
    return Counted(**stored | {"staleness": {int(k): v for k, v in stored["staleness"].items()}})
