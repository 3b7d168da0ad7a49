"""Learning-rate schedules: functions of examples seen, so that any batch size and number of pushes has the same one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxdist.dotted import asked_for, function_of


def constant(learning_rate: float) -> Callable[[int], float]:
    return lambda examples_seen: learning_rate


def step_decay(
    learning_rate: float, *, drop_epochs: Sequence[float], drop_factor: float, examples_per_epoch: int
) -> Callable[[int], float]:
    """examples_seen -> learning_rate * drop_factor ** (number of drop epochs reached)."""
    drops = [d * examples_per_epoch for d in sorted(drop_epochs)]
    return lambda examples_seen: learning_rate * drop_factor ** sum(examples_seen >= d for d in drops)


SCHEDULES: dict[str, Callable[..., Callable[[int], float]]] = {"constant": constant, "step": step_decay}


def build(
    name: str,
    *,
    learning_rate: float,
    drop_epochs: Sequence[float],
    drop_factor: float,
    examples_per_epoch: int,
    num_epochs: float,
) -> Callable[[int], float]:
    """A schedule of `SCHEDULES`, or by 'package.module:function' of the user's: examples_seen -> learning rate.

    The function is given those of the settings that it has a parameter for. It counts examples, not updates: the
    schedule is the same for any batch size and for any number of pushes.

    Raises:
      ValueError: the function cannot be imported.
    """
    function = function_of(name, "optim.schedule") if ":" in name else SCHEDULES[name]
    settings = {
        "learning_rate": learning_rate,
        "drop_epochs": drop_epochs,
        "drop_factor": drop_factor,
        "examples_per_epoch": examples_per_epoch,
        "num_epochs": num_epochs,
    }
    return function(**asked_for(function, settings))
