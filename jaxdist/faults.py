"""Faults on purpose, for tests and trials: `JAXDIST_FAULT='kill@process=1,update=7;delay@process=0,seconds=2'`.

A fault is `action@key=value,...` with the actions kill (SIGKILL), stop (SIGSTOP), term (SIGTERM), raise and delay
(sleep `seconds`), and the keys

    process      only on this process (default: all)
    update       only after this update (default: after each)
    point        'update' (default) or 'checkpoint', just before a finished checkpoint gets its name
    probability  of each occurrence (default 1), drawn from a generator seeded by the process id
    seconds      of a delay
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import time

from jaxdist.errors import UsageError

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}


@dataclasses.dataclass(frozen=True)
class _Fault:
    action: str
    process: int = -1
    update: int = -1
    point: str = "update"
    probability: float = 1.0
    seconds: float = 1.0


class Faults:
    """The faults meant for one process."""

    def __init__(self, process_id: int, text: str | None = None) -> None:
        text = os.environ.get("JAXDIST_FAULT", "") if text is None else text
        every = [_parse(part) for part in text.split(";") if part.strip()]
        self._faults = [f for f in every if f.process in (-1, process_id)]
        self._random = random.Random(process_id)

    def at(self, point: str, update: int) -> None:
        """Lets the faults of this point and update happen."""
        for fault in self._faults:
            if fault.point != point or fault.update not in (-1, update):
                continue
            if fault.probability < 1.0 and self._random.random() >= fault.probability:
                continue
            if fault.action == "delay":
                time.sleep(fault.seconds)
            elif fault.action == "raise":
                raise RuntimeError(f"JAXDIST_FAULT asked for this at update {update}")
            else:
                os.kill(os.getpid(), _SIGNALS[fault.action])


def _parse(text: str) -> _Fault:
    action, _, rest = text.strip().partition("@")
    fields: dict[str, type] = {"process": int, "update": int, "point": str, "probability": float, "seconds": float}
    try:
        pairs = dict(part.split("=", 1) for part in rest.split(",") if part)
        values = {key: fields[key](value) for key, value in pairs.items()}
    except (KeyError, ValueError) as e:
        raise UsageError(f"JAXDIST_FAULT: {text!r} cannot be read ({e}); keys: {', '.join(fields)}.") from e
    if action not in (*_SIGNALS, "raise", "delay"):
        raise UsageError(f"JAXDIST_FAULT: unknown action {action!r}; one of kill, stop, term, raise, delay.")
    return _Fault(action, **values)
