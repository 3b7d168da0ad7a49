"""When this process was started, before its interpreter and imports: what counts as a run's time 0."""

from __future__ import annotations

import os
import time

_OWN = "/proc/self/stat"
_LONGEST_SECONDS = 60.0


def started() -> float:
    """`time.monotonic()` at the start of this process; to be called in the first line of its `main`.

    Exact to a hundredth of a second. A shell that becomes a command by `exec` hands its own start on. So one of more
    than 60 s ago is taken for that of a script with other work before, and counts as this moment. So does one that the
    kernel does not say (it does on Linux).
    """
    now = time.monotonic()
    try:
        with open(_OWN) as f:
            ticks = int(f.read().rpartition(")")[2].split()[19])  # field 22, starttime: since the machine was started
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return now
    return now - max(age, 0.0) if age < _LONGEST_SECONDS else now
