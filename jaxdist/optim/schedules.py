"""Learning-rate schedules: functions of examples seen, so that any batch size and number of pushes has the same one.

step             cosine            warmup_cosine        one_cycle

----+            --.                  _.                  _.
    |              `.                / `.                / `.
    +----            `.             /    `.             /    `.
         +---          `--         /       `--         /       `---
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from jaxdist.dotted import asked_for, function_of
from jaxdist.errors import nearest

Schedule = Callable[[int], float]

# Smith and Topin 2018 (arXiv:1708.07120), with the shares that PyTorch's OneCycleLR has.
_RISING, _FIRST, _LAST = 0.3, 1 / 25, 1e-4


def constant(learning_rate: float) -> Schedule:
    return lambda examples_seen: learning_rate


def step_decay(
    learning_rate: float, *, drop_epochs: Sequence[float], drop_factor: float, examples_per_epoch: int
) -> Schedule:
    """examples_seen -> learning_rate * drop_factor ** (number of drop epochs reached)."""
    drops = [d * examples_per_epoch for d in sorted(drop_epochs)]
    return lambda examples_seen: learning_rate * drop_factor ** sum(examples_seen >= d for d in drops)


def cosine(
    learning_rate: float, *, num_epochs: float, examples_per_epoch: int, final_factor: float, warmup_epochs: float = 0.0
) -> Schedule:
    """From learning_rate to final_factor * learning_rate over what the run has after its warm-up (Loshchilov and Hutter
    2017, arXiv:1608.03983, without restarts)."""
    begin = warmup_epochs * examples_per_epoch
    length = max(num_epochs * examples_per_epoch - begin, 1.0)

    def rate(examples_seen: int) -> float:
        done = min(max((examples_seen - begin) / length, 0.0), 1.0)
        return _between(learning_rate, final_factor * learning_rate, done)

    return rate


def warmup_cosine(
    learning_rate: float, *, num_epochs: float, examples_per_epoch: int, final_factor: float, warmup_epochs: float
) -> Schedule:
    """`cosine` that must have a warm-up.

    Raises:
      ValueError: it has none, or nothing else.
    """
    if not 0 < warmup_epochs < num_epochs:
        raise ValueError(
            f"optim.schedule='warmup_cosine' needs optim.warmup_epochs above 0 and below num_epochs={num_epochs:g}, "
            f"not {warmup_epochs:g}"
        )
    return cosine(
        learning_rate,
        num_epochs=num_epochs,
        examples_per_epoch=examples_per_epoch,
        final_factor=final_factor,
        warmup_epochs=warmup_epochs,
    )


def one_cycle(learning_rate: float, *, num_epochs: float, examples_per_epoch: int) -> Schedule:
    """From 1/25 of learning_rate up to it over 30 % of the run, then down to a ten-thousandth of where it began."""
    total = max(num_epochs * examples_per_epoch, 1.0)
    first = _FIRST * learning_rate

    def rate(examples_seen: int) -> float:
        done = min(max(examples_seen / total, 0.0), 1.0)
        if done < _RISING:
            return _between(first, learning_rate, done / _RISING)
        return _between(learning_rate, _LAST * first, (done - _RISING) / (1 - _RISING))

    return rate


def _between(begin: float, end: float, done: float) -> float:
    """Half a cosine from one to the other."""
    return end + (begin - end) * (1 + math.cos(math.pi * done)) / 2


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "step": step_decay,
    "cosine": cosine,
    "warmup_cosine": warmup_cosine,
    "one_cycle": one_cycle,
}


def build(
    name: str,
    *,
    learning_rate: float,
    drop_epochs: Sequence[float],
    drop_factor: float,
    examples_per_epoch: int,
    num_epochs: float,
    warmup_epochs: float = 0.0,
    final_factor: float = 0.0,
) -> Schedule:
    """A schedule of `SCHEDULES`, or by 'package.module:function' of the user's: examples_seen -> learning rate.

    The function is given those of the settings that it has a parameter for. It counts examples, not updates: the
    schedule is the same for any batch size and for any number of pushes. During the warm-up its rate is multiplied by
    the part of it that is over, unless it is somebody's own that has a parameter `warmup_epochs`.

    Raises:
      ValueError: the function cannot be imported, or refuses the settings.
    """
    if ":" not in name and name not in SCHEDULES:
        raise ValueError(f"optim.schedule={name!r} is not known{nearest(name, SCHEDULES)}")
    function = function_of(name, "optim.schedule") if ":" in name else SCHEDULES[name]
    if name == "one_cycle" and warmup_epochs:
        raise ValueError(
            f"optim.schedule='one_cycle' has a warm-up of its own: leave out optim.warmup_epochs={warmup_epochs:g}"
        )
    settings = {
        "learning_rate": learning_rate,
        "drop_epochs": drop_epochs,
        "drop_factor": drop_factor,
        "examples_per_epoch": examples_per_epoch,
        "num_epochs": num_epochs,
        "warmup_epochs": warmup_epochs,
        "final_factor": final_factor,
    }
    rate = function(**asked_for(function, settings))
    own = ":" in name and asked_for(function, {"warmup_epochs": warmup_epochs})  # somebody's, who does it himself
    warm = 0.0 if own else warmup_epochs * examples_per_epoch
    return (lambda examples_seen: rate(examples_seen) * min(examples_seen / warm, 1.0)) if warm else rate
