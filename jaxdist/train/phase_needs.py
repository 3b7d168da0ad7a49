"""What a run's phases need, known before any of them begins: a rendezvous, collectives, and whether they can work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxdist import strategies
from jaxdist.config.phases import Schedule
from jaxdist.errors import UsageError
from jaxdist.strategies.spec import StrategySpec
from jaxdist.task import Task


def check(
    schedule: Schedule, settings: Mapping[str, Any], task: Task, *, partition: str = "", **resources: Any
) -> None:
    """Refuses phases that cannot work, before anything is built; `resources` as `strategies.check` takes them.

    `partition`: over the workers, of the data; '': there is none.

    Raises:
      UsageError: with the arithmetic and the remedy.
    """
    for number, phase in enumerate(schedule.phases, 1):
        try:
            own = phase.settings(settings)
            if partition:
                strategies.check_partition(own, partition, resources["num_processes"], resources["num_devices"])
                if own["switch_when"] and strategies.spec_of(phase.name).asynchronous(own):
                    raise UsageError(
                        f"data.partition={partition!r} and strategy.switch_when={own['switch_when']!r}: an "
                        "asynchronous phase that ends before its share leaves workers in different places of their "
                        "parts. Give the phases shares in strategy.schedule alone."
                    )
            strategies.check(own, task, **resources)
        except UsageError as e:
            if not schedule.text:
                raise
            raise UsageError(f"Phase {number} of strategy.schedule, {phase}: {e}") from None


def fate_sharing(schedule: Schedule) -> bool:
    """Whether the processes meet at process 0 and know of each other: in every run but one of a strategy whose
    processes' fates are their own."""
    return len(schedule.phases) > 1 or bool(schedule.text) or _first(schedule).fate_sharing


def needs_collectives(schedule: Schedule, settings: Mapping[str, Any], num_processes: int) -> bool:
    """Whether the run needs JAX's collectives from its beginning; phases open them as they need them."""
    return not schedule.text and _first(schedule).needs_collectives(
        schedule.phases[0].settings(settings), num_processes
    )


def _first(schedule: Schedule) -> StrategySpec:
    return strategies.spec_of(schedule.phases[0].name)
