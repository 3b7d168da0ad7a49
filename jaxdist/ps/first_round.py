"""When rounds begin (bound 0): with all workers, or after a restart with those that have come."""

from __future__ import annotations

import time
from collections.abc import Collection

from jaxdist.ps.run_settings import Settings


class FirstRound:
    """Called with server 0's lock; nothing blocks.

    Args:
      restored: the run goes on from a snapshot: who was lost with a server need not come back.
    """

    def __init__(self, settings: Settings, restored: bool) -> None:
        self._settings, self._restored = settings, restored
        self._begun = time.monotonic()
        self._open = settings.max_staleness != 0  # without rounds nobody waits for anybody

    def joined(self, present: Collection[int]) -> None:
        """A worker has come; `present`: the numbers of all that are there."""
        self._open = self._open or len(present) == self._settings.num_workers

    def may_begin(self) -> bool:
        """Whether there may be rounds; once they have begun they go on."""
        if self._restored and not self._open:
            self._open = time.monotonic() - self._begun > self._settings.lease_seconds
        return self._open

    def overdue(self, present: Collection[int]) -> str:
        """Who did not come in time, as the reason to end the run; '' while there is time."""
        if time.monotonic() - self._begun <= self._settings.connect_seconds:
            return ""
        absent = sorted(set(range(self._settings.num_workers)) - set(present))
        text = f"worker {', '.join(map(str, absent))} of {self._settings.num_workers} did not come within "
        return f"{text}{self._settings.connect_seconds:g} s"
