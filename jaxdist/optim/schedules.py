"""Learning-rate schedules: functions of examples seen, so that any batch size and number of pushes has the same one."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def step_decay(
    base: float, *, drop_epochs: Sequence[float], drop_factor: float, examples_per_epoch: int
) -> Callable[[int], float]:
    """examples_seen -> base * drop_factor ** (number of drop epochs reached).

    Counts examples, not updates: the schedule is the same for any batch size and for any number of pushes.
    """
    drops = [d * examples_per_epoch for d in sorted(drop_epochs)]
    return lambda examples_seen: base * drop_factor ** sum(examples_seen >= d for d in drops)
