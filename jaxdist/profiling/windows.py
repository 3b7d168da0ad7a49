"""Which updates of a run are profiled."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdist.errors import UsageError

WARM_UP = 2  # updates: the first compiles, the second is still slow


def windows(
    profile: Mapping[str, Any], *, epoch_examples: int, batch: int, total_examples: int
) -> list[tuple[int, int]]:
    """(from, to), in order: the updates after `from` up to `to`, of `profile.at_epochs` and `profile.updates`.

    Args:
      batch: examples of one update.

    Raises:
      UsageError: they lie outside the run, or in each other.
    """
    last = total_examples // batch
    found: list[tuple[int, int]] = []
    for epoch in profile["at_epochs"]:
        start, end = (-(-(k * epoch_examples) // batch) for k in (epoch - 1, epoch))
        if start >= last:
            there = -(-total_examples // epoch_examples)
            raise UsageError(
                f"profile.at_epochs={_text(profile['at_epochs'])}: the run has {there} epochs, and no epoch {epoch}; "
                "choose one of them, or raise num_epochs."
            )
        found.append((max(start, WARM_UP), max(min(end, last), WARM_UP + 1)))
    if profile["updates"]:
        start, end = profile["updates"]
        if end > last:
            raise UsageError(
                f"profile.updates={_text(profile['updates'])}: the run has {last} updates; end the profile at {last} "
                "or before, or train longer."
            )
        found.append((start, end))
    found.sort()
    for before, after in itertools.pairwise(found):
        if before[1] > after[0]:
            raise UsageError(
                f"The profiles of the updates {before[0]} to {before[1]} and {after[0]} to {after[1]} lie in each "
                "other: leave one out of profile.at_epochs and profile.updates."
            )
    if found and found[-1][1] > last:
        raise UsageError(f"The run has {last} updates, of which the first {WARM_UP} are not profiled: train longer.")
    return found


def _text(numbers: Sequence[int]) -> str:
    return "(" + ",".join(map(str, numbers)) + ")"
