"""Faults on purpose, for tests and trials: `JAXDIST_FAULT='kill@process=1,update=7;delay@process=0,seconds=2'`.

A fault is `action@key=value,...` with the actions kill (SIGKILL), stop (SIGSTOP), term (SIGTERM), raise, full (as if
the disk were), delay (sleep `seconds`), slow (be `factor` times as slow as it is), drop (a server loses the reply to
the push that makes the version), and the keys

    process      only on this worker (default: all)
    server       on this parameter server instead; its updates are versions
    update       only after this update (default: after each)
    point        'update' (default); 'compile', before the first step is compiled; 'checkpoint', just before a
                 finished checkpoint gets its name; 'switch' and 'switched', at the two ends of a hand-over
    probability  of each occurrence (default 1), drawn from a generator seeded by the process id
    seconds      of a delay
    factor       of slow: after each update it sleeps factor - 1 times what has passed since it slept last
"""

from __future__ import annotations

import dataclasses
import errno
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
    server: int = -1
    update: int = -1
    point: str = "update"
    probability: float = 1.0
    seconds: float = 1.0
    factor: float = 1.0


class Faults:
    """The faults meant for one process: worker or server `index`."""

    def __init__(self, index: int, text: str | None = None, role: str = "worker") -> None:
        text = os.environ.get("JAXDIST_FAULT", "") if text is None else text
        every = [_parse(part) for part in text.split(";") if part.strip()]
        if role == "server":
            self._faults = [f for f in every if f.server == index]
        else:
            self._faults = [f for f in every if f.server == -1 and f.process in (-1, index)]
        self._random = random.Random(index)
        self._reached: dict[_Fault, bool] = {}
        self._woke: float | None = None

    def at(self, point: str, update: int) -> None:
        """Lets the faults of this point and update happen."""
        for fault in self._faults:
            if fault.point != point or fault.action == "drop" or not self._is_due(fault, update):
                continue
            if fault.probability < 1.0 and self._random.random() >= fault.probability:
                continue
            if fault.action == "delay":
                time.sleep(fault.seconds)
            elif fault.action == "slow":
                self._sleep_in_proportion(fault.factor)
            elif fault.action == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            elif fault.action == "raise":
                raise RuntimeError(f"JAXDIST_FAULT asked for this at update {update}")
            else:
                os.kill(os.getpid(), _SIGNALS[fault.action])

    def _sleep_in_proportion(self, factor: float) -> None:
        if self._woke is not None:
            time.sleep((factor - 1.0) * (time.monotonic() - self._woke))
        self._woke = time.monotonic()

    def _is_due(self, fault: _Fault, update: int) -> bool:
        """At its update; or, where updates are passed over, at the first one after it that is seen."""
        if fault.update == -1:
            return True
        due = update >= fault.update and not self._reached.get(fault, False)
        self._reached[fault] = self._reached.get(fault, False) or update >= fault.update
        return due

    def asked(self, action: str, update: int) -> bool:
        """Whether the caller is to do `action` now."""
        return any(f.action == action and self._is_due(f, update) for f in self._faults)


def _parse(text: str) -> _Fault:
    action, _, rest = text.strip().partition("@")
    fields: dict[str, type] = dict.fromkeys(("process", "server", "update"), int)
    fields |= {"point": str, "probability": float, "seconds": float, "factor": float}
    try:
        pairs = dict(part.split("=", 1) for part in rest.split(",") if part)
        values = {key: fields[key](value) for key, value in pairs.items()}
    except (KeyError, ValueError) as e:
        raise UsageError(f"JAXDIST_FAULT: {text!r} cannot be read ({e}); keys: {', '.join(fields)}.") from e
    known = (*_SIGNALS, "raise", "full", "delay", "slow", "drop")
    if action not in known:
        raise UsageError(f"JAXDIST_FAULT: unknown action {action!r}; one of {', '.join(known)}.")
    return _Fault(action, **values)
