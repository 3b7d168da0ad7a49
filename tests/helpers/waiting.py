"""Waiting for what comes, not for an amount of time."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Blocks until `condition()` is true.

    Raises:
      TimeoutError: it was not, in that time; `what` did not happen.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"in {seconds:g} s there was no {what}")
        time.sleep(0.02)
