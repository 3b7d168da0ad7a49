"""What the chief decides about a run on parameter servers; it travels as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the chief decides about the run.

    Attributes:
      max_staleness: the bound; -1 for none.
      staleness_high: above max_staleness, the bound follows the workers' speeds between the two (DSSP).
      num_workers: expected; at bound 0 the first round waits for all of them.
      share: examples of one push.
      total_examples: of the whole run.
      lease_seconds: silence after which a worker is lost.
      timeout_seconds: the same where nobody can go on without it (`patience`).
      connect_seconds: for the workers to come, at bound 0.
      phase: of a run in phases; who joins must have come to the same one.
      momentum_ramp: (examples_seen, examples) over which momentum grows to its value; for the workers.
      data_parts: over how many workers the data are distributed (`ClaimTable`); 0: not at all.
      clip_global_norm: servers scale the mean gradient of an update down to this norm; 0: never.
      profile: the windows of updates that servers profile, too, each the fields of a `Window`.
    """

    max_staleness: int
    num_workers: int
    share: int
    total_examples: int
    updates: int
    examples_seen: int
    pending: list[list[int]]
    lease_seconds: float = 10.0
    timeout_seconds: float = 0.0
    connect_seconds: float = 300.0
    snapshot_seconds: float = 10.0
    staleness_high: int = 0
    phase: int = 0
    momentum_ramp: tuple[int, int] | None = None
    clip_global_norm: float = 0.0
    data_parts: int = 0
    profile: Sequence[Sequence[Any]] = ()

    def patience(self, worker: int) -> float:
        """Seconds of silence after which that worker is lost.

        Others soon go on without a worker. Without the chief nobody can; and rounds of fewer workers are other updates,
        which a link that is down for a moment must not make of them.
        """
        waits = worker == 0 or self.max_staleness == 0
        return max(self.lease_seconds, self.timeout_seconds) if waits else self.lease_seconds
