"""What a knob of the configuration is: each is declared once, in the room of what it belongs to. Imports no jax."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Collection
from typing import Any

from jaxdist.errors import UsageError, nearest

Values = dict[str, Any]  # {'optim.learning_rate': 0.1, ...}: a whole configuration, flat


@dataclasses.dataclass(frozen=True)
class Knob:
    """One key of the configuration.

    Attributes:
      key: as users write it, 'optim.momentum'.
      default: its value; None where it is `unset` by default.
      meaning: one line, for whoever lists the knobs.
      must: (value) -> '' or what it must be instead, as in 'at least 0'.
      choices: the values it may take; or 'module:NAME' of a collection of them, or of a function that returns one,
        looked at when values are checked: so the names of strategies, models and optimizers stand in one place each,
        and declaring a knob imports nothing.
      dotted: 'package.module:function' is a choice too.
      unset: the type of a knob that may be left unset.
      only_where_it_counts: a value other than the default is refused where the knob means nothing to the strategy.
      local: the processes of a run may differ in it; it does not change the numbers.
    """

    key: str
    default: Any
    meaning: str
    must: Callable[[Any], str] | None = None
    choices: Collection[str] | str = ()
    dotted: bool = False
    unset: type | None = None
    only_where_it_counts: bool = False
    local: bool = False

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition(".")[2]

    def known_choices(self) -> tuple[str, ...]:
        """The values it may take; () where any value of its type is one."""
        if not isinstance(self.choices, str):
            return tuple(self.choices)
        module, _, name = self.choices.partition(":")
        found = getattr(importlib.import_module(module), name)
        return tuple(found() if callable(found) else found)

    def check(self, value: Any) -> None:
        """Refuses a value that cannot mean anything.

        Raises:
          UsageError: with the value and what is allowed.
        """
        if self.choices:
            known = self.known_choices()
            if value not in known and not (self.dotted and ":" in str(value)):
                also = " or 'package.module:function'" if self.dotted else ""
                words = ", ".join(choice or "''" for choice in known)
                raise UsageError(
                    f"{self.key}={value!r} is not known{nearest(str(value), known)}; one of {words}{also}."
                )
        if self.must is not None and (problem := self.must(value)):
            raise UsageError(f"{self.key}={value} must be {problem}.")


def at_least_zero(value: float) -> str:
    return "" if 0 <= value < math.inf else "at least 0"


def above_zero(value: float) -> str:
    return "" if 0 < value < math.inf else "above 0 and finite"
