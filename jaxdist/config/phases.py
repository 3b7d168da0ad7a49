"""The schedule of a run that changes its strategy: which, for how much of the run, with what options.

allreduce:0.5,parameter_server                         half of the run, then the rest
allreduce:0.25,parameter_server(max_staleness=3):0.5,allreduce

examples  0 ............ 0.25 ..................... 0.75 ........... 1
          | allreduce     | parameter_server         | allreduce     |
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdist.errors import UsageError, nearest
from jaxdist.knobs import Knob, above_zero
from jaxdist.strategies import registry

NAME = "switch"  # `strategy.name` of a run that has a schedule
_KEY = "strategy.schedule"
_PHASE = re.compile(r"(?P<name>\w+)\s*(?:\((?P<options>[^()]*)\))?\s*(?::\s*(?P<fraction>[^:]+))?")


KNOBS = (
    Knob(
        _KEY,
        "",
        "Phases with their shares of the run, and their options, as in "
        "'allreduce:0.25,parameter_server(max_staleness=3):0.5,allreduce'.",
        only_where_it_counts=True,
    ),
    Knob(
        "strategy.switch_when",
        "",
        "'': a phase ends at its share. plateau: it ends when the loss no longer falls, at the latest at its share.",
        choices=("", "plateau"),
        only_where_it_counts=True,
    ),
    Knob(
        "strategy.switch_threshold",
        0.2,
        "plateau: the metric of a window has to improve by this share of that of the window before.",
        lambda value: "" if -1 < value < 1 else "between -1 and 1",
    ),
    Knob("strategy.switch_metric", "loss", "plateau: what it looks at: loss, or a metric of training rows."),
    Knob("strategy.switch_window_epochs", 0.5, "plateau: length of a window, in epochs.", above_zero),
    Knob(
        "strategy.switch_after_drop",
        True,
        "plateau: the rule waits for the first drop of the learning rate, where the schedule has one.",
    ),
    Knob(
        "strategy.momentum_handover",
        "zero",
        "What an asynchronous phase does with the momentum. scale: divide it by the workers. ramp: "
        "grow it back over an epoch.",
        choices="jaxdist.optim.momentum:CHOICES",
    ),
)


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase.

    Attributes:
      name: of its strategy.
      options: keys of `config.strategy` that differ from the run's.
      fraction: of the run; None: the rest (the last phase), or as long as the rule lets it.
    """

    name: str
    options: dict[str, Any]
    fraction: float | None

    def __str__(self) -> str:
        options = ", ".join(f"{k}={v}" for k, v in self.options.items())
        return f"{self.name}({options})" if options else self.name

    def settings(self, strategy: Mapping[str, Any]) -> dict[str, Any]:
        """`config.strategy` as this phase has it."""
        return {**strategy, **self.options, "name": self.name}


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The phases of a run; `text` is '' for a run of one strategy, which is one phase."""

    text: str
    phases: tuple[Phase, ...]


def is_scheduled(strategy: Mapping[str, Any]) -> bool:
    """Whether `config.strategy` describes phases instead of one strategy."""
    return strategy["name"] == NAME


def names() -> tuple[str, ...]:
    """What `strategy.name` may be, with the strategies that were registered by now."""
    return (*registry.SPECS, NAME)


def where_it_counts(knob: Knob) -> list[str]:
    """Values of `strategy.name` with which a knob means something, the plainest first."""
    if knob in KNOBS:
        return [NAME]
    return [*registry.where_it_counts(knob), NAME]


def unscheduled() -> dict[str, Any]:
    """The keys of `config.strategy` that are of the schedule, as a run without one has them."""
    return {knob.name: knob.default for knob in KNOBS}


def schedule_of(strategy: Mapping[str, Any]) -> Schedule:
    """The phases that `config.strategy` describes.

    Raises:
      UsageError: the schedule cannot be read, or has a phase or an option that there is not.
    """
    if not is_scheduled(strategy):
        return Schedule("", (Phase(strategy["name"], {}, None),))
    keys = sorted({knob.name for spec in registry.SPECS.values() for knob in spec.knobs})
    phases = parse(strategy["schedule"], keys, by_rule=bool(strategy["switch_when"]))
    for number, phase in enumerate(phases, 1):
        if phase.name not in registry.SPECS:
            raise UsageError(
                f"{_KEY}: {phase.name!r} cannot be a phase{nearest(phase.name, registry.SPECS)}; one of "
                f"{', '.join(registry.SPECS)}."
            )
        own = [knob.name for knob in registry.SPECS[phase.name].knobs]
        foreign = sorted(set(phase.options) - set(own))
        if foreign:
            raise UsageError(
                f"Phase {number} of {_KEY}, {phase}: {foreign[0]} means nothing to {phase.name}; it has "
                f"{', '.join(own)}."
            )
    return Schedule(strategy["schedule"], phases)


def parse(text: str, keys: Sequence[str], *, by_rule: bool = False) -> tuple[Phase, ...]:
    """The phases of a schedule.

    Args:
      keys: what options a phase may have: the keys of `config.strategy`.
      by_rule: whether phases end by a rule; fractions are then the latest end, and may be left out.

    Raises:
      UsageError: it cannot be read, or its fractions do not make a run.
    """
    phases = tuple(_phase(part, keys) for part in _split(text))
    if not phases:
        raise UsageError(f"{_KEY}={text!r} is empty: say for example 'allreduce:0.5,parameter_server'.")
    for phase in phases[:-1]:
        if phase.fraction is None and not by_rule:
            raise UsageError(
                f"{_KEY}={text!r} does not say how long {str(phase)!r} is: add its fraction of the run, as in "
                f"'{phase}:0.5', or set strategy.switch_when (only the last phase takes the rest)."
            )
    given = [p.fraction for p in phases if p.fraction is not None]
    total = sum(given)
    words = " + ".join(f"{f:g}" for f in given)
    if total > 1 + 1e-9:
        raise UsageError(f"{_KEY}={text!r}: the fractions are {words} = {total:g}, more than the whole run (1).")
    if phases[-1].fraction is not None and total < 1 - 1e-9:
        raise UsageError(
            f"{_KEY}={text!r}: the fractions are {words} = {total:g}, and nothing is said of the remaining "
            f"{1 - total:g}: leave the last one out to let {str(phases[-1])!r} take the rest."
        )
    return phases


def boundaries(phases: Sequence[Phase], updates: int) -> list[int]:
    """Where each phase ends, in updates of the global batch, `updates` being the whole run's. Never falls."""
    ends = list(itertools.accumulate(1.0 if p.fraction is None else p.fraction for p in phases))
    return [min(round(end * updates), updates) for end in ends[:-1]] + [updates]


def _split(text: str) -> list[str]:
    """At the commas that are outside parentheses."""
    parts = [part.strip() for part in re.split(r",(?![^()]*\))", text)]
    if parts == [""]:
        return []
    return parts


def _phase(text: str, keys: Sequence[str]) -> Phase:
    found = _PHASE.fullmatch(text)
    if found is None:
        raise UsageError(f"{_KEY}: {text!r} cannot be read: a phase is NAME:FRACTION or NAME(KEY=VALUE):FRACTION.")
    fraction = None
    if found["fraction"] is not None:
        try:
            fraction = float(found["fraction"])
        except ValueError:
            raise UsageError(f"{_KEY}: {found['fraction']!r} in {text!r} is not a number.") from None
        if not 0 <= fraction <= 1:
            raise UsageError(f"{_KEY}: the fraction in {text!r} must be from 0 to 1.")
    options = {}
    for pair in filter(None, (part.strip() for part in (found["options"] or "").split(","))):
        key, equals, value = pair.partition("=")
        key = key.strip().removeprefix("strategy.")
        if not equals or key not in keys:
            raise UsageError(f"{_KEY}: {pair!r} in {text!r} is not a key of config.strategy{nearest(key, keys)}.")
        options[key] = _value(value.strip())
    return Phase(found["name"], options, fraction)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
