"""What a strategy has to say besides its metrics: one object, for rows, events and the summary."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Wait:
    """Seconds that others took.

    Attributes:
      visible: the training thread was blocked for them.
      hidden: it went on meanwhile.
    """

    visible: float = 0.0
    hidden: float = 0.0


class Report:
    """Says nothing; strategies with something to say have one of their own.

    All methods are called by the training thread and none blocks, but for `gather`.
    """

    def row(self) -> dict[str, Any]:
        """What is added to a train row; measured since the last call."""
        return {}

    def waits(self) -> Mapping[str, Wait]:
        """What steps have waited for since the last call: 'server', 'network'. Left out is what this process cannot
        see, as the waiting inside a compiled program."""
        return {}

    def events(self) -> list[dict[str, Any]]:
        """What has happened since the last call and is worth a row of its own ({'event': ..., ...})."""
        return []

    def evaluations(self) -> list[dict[str, Any]] | None:
        """Rows that another process has evaluated since the last call; None where this one is to evaluate."""
        return None

    def gather(self, own: list[Any], *, all_needed: bool = False) -> list[list[Any] | None]:
        """Every worker's list at the end of the run or of a phase, on the chief, where the strategy and not the process
        group connects the processes; None for a worker that was lost. Blocks for the others; where `all_needed`, also
        for those that were lost, which may come back."""
        return [own]

    def summary(self) -> dict[str, Any]:
        """What is added to the summary; called after `gather`. Collective where the strategy is."""
        return {}
