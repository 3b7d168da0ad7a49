"""When this process was started, before its interpreter and imports: what counts as a run's time 0."""

from __future__ import annotations

import os
import time

_OWN = "/proc/self/stat"


def started() -> float:
    """`time.monotonic()` at the start of this process; of a command that a shell became by `exec`, of that shell's.

    Exact to a hundredth of a second. Where the kernel does not say (it does on Linux), this moment.
    """
    now = time.monotonic()
    try:
        with open(_OWN) as f:
            ticks = int(f.read().rpartition(")")[2].split()[19])  # field 22, starttime: since the machine was started
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return now
    return now - max(age, 0.0)
