"""The last line of every process: `jaxdist: done|stopped|error: WORDS`, on standard error and in its log file."""

from __future__ import annotations

import contextlib
import logging
import os
import sys

from jaxdist.errors import STOPPED

_said: list[str] = []


def said() -> bool:
    """Whether this process has said its last line."""
    return bool(_said)


def say(code: int, words: str, *, alone: bool = False) -> None:
    """Writes the line of a process that is about to exit with `code`.

    What a stream or a file does not take changes nothing about how the process ends.

    Args:
      alone: nothing else comes to standard error from now on: threads in C++ may have much to say of a process that was
        lost, and would say it after the line.
    """
    outcome = "done" if code == 0 else "stopped" if code in STOPPED else "error"
    line = f"jaxdist: {outcome}: {words}"
    _said.append(line)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(logging.makeLogRecord({"levelname": "ERROR" if outcome == "error" else "INFO", "msg": line}))
    with contextlib.suppress(OSError, ValueError):
        if alone and sys.stderr.fileno() == 2:
            sys.stderr.flush()
            kept = os.dup(2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os.write(kept, f"{line}\n".encode())
            return
    print(line, file=sys.stderr, flush=True)
