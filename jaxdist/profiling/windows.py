"""Which part of a run is profiled: updates, or the examples of an epoch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxdist.errors import UsageError


class Window(NamedTuple):
    """What comes after `start` up to `end`: updates, or examples seen.

    An epoch is a number of examples: how many updates it has, depends on the strategy.

    Attributes:
      asked_as: what the run calls it, where that is not said by the others.
    """

    start: int
    end: int
    unit: str = "updates"
    asked_as: str = ""

    def __str__(self) -> str:
        """As its folder is called, the same on all processes."""
        return self.asked_as or f"{self.unit}_{self.start}-{self.end}"

    def place(self, updates: int, examples_seen: int) -> int:
        """Where a run is, in this window's unit."""
        return updates if self.unit == "updates" else examples_seen

    def in_updates(self, updates: int, examples_seen: int, examples_per_update: int) -> Window:
        """The same in updates, of a run that is at `updates` and goes on with so many examples an update."""
        if self.unit == "updates":
            return self
        start, end = (updates + -(-(x - examples_seen) // examples_per_update) for x in self[:2])
        return Window(max(start, 1), end, asked_as=str(self))


def windows(
    profile: Mapping[str, Any], *, epoch_examples: int, smallest_update: int, total_examples: int
) -> list[Window]:
    """Those of `profile.at_epochs` and `profile.updates`, in order.

    Args:
      smallest_update: examples of the smallest update that there may be.

    Raises:
      UsageError: they lie outside the run.
    """
    found: list[Window] = []
    for epoch in sorted(profile["at_epochs"]):
        start, end = (epoch - 1) * epoch_examples, min(epoch * epoch_examples, total_examples)
        if start >= total_examples:
            there = -(-total_examples // epoch_examples)
            raise UsageError(
                f"profile.at_epochs={_text(profile['at_epochs'])}: the run has {there} epochs, and no epoch {epoch}; "
                "choose one of them, or train longer."
            )
        found.append(Window(start, end, "examples"))
    for before, after in itertools.pairwise(found):
        if before == after:
            raise UsageError(f"profile.at_epochs={_text(profile['at_epochs'])} names an epoch twice.")
    if profile["updates"]:
        if found:
            raise UsageError(
                "profile.at_epochs and profile.updates are both set: one trace runs at a time; leave one of them out."
            )
        last = total_examples // smallest_update
        start, end = profile["updates"]
        if end > last:
            raise UsageError(
                f"profile.updates={_text(profile['updates'])}: the run has {last} updates; end the profile at {last} "
                "or before, or train longer."
            )
        found.append(Window(start, end))
    return found


def _text(numbers: Sequence[int]) -> str:
    return "(" + ",".join(map(str, numbers)) + ")"
