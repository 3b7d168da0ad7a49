"""The knobs of a profile."""

from __future__ import annotations

from typing import Any

from jaxdist.knobs import Knob


def epochs(value: Any) -> str:
    """'' or what `profile.at_epochs` must be."""
    good = isinstance(value, tuple | list) and all(isinstance(v, int) and v > 0 for v in value)
    return "" if good else "numbers of epochs, the first of them 1, as in (1,3)"


def updates(value: Any) -> str:
    """'' or what `profile.updates` must be."""
    whole = isinstance(value, tuple | list) and all(isinstance(v, int) for v in value)
    if whole and (not value or (len(value) == 2 and 0 < value[0] < value[1])):
        return ""
    return "(FROM, TO), the update after which it begins, at least 1 since the first step compiles, and its last one"


KNOBS = (
    Knob(
        "profile.at_epochs",
        (),
        "Epochs (the first is 1) whose steps are recorded operator by operator, on every process, into profile/.",
        epochs,
        local=True,
    ),
    Knob(
        "profile.updates",
        (),
        "(FROM, TO): the same for the updates after FROM, up to TO.",
        updates,
        local=True,
    ),
)
