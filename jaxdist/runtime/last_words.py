"""The last line of every process: `jaxdist: done|stopped|error: WORDS`, on standard error and in its log file."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading

from jaxdist.errors import STOPPED

_saying = threading.Lock()
_said: list[int] = []  # the exit code of the line


def say(code: int, words: str, *, alone: bool = False) -> int:
    """Writes the line of a process that is about to exit with `code`; returns the code to exit with.

    Several threads may find at once that the process has to end, and each ends it after its words. The first has the
    line and the code; the others wait here until its words are out, for an exit before that would lose them. What a
    stream or a file does not take changes nothing about how the process ends.

    Args:
      alone: nothing else comes to standard error from now on: threads in C++ may have much to say of a process that was
        lost, and would say it after the line.
    """
    with _saying:
        if not _said:
            _said.append(code)
            _write(code, words, alone)
        return _said[0]


def _write(code: int, words: str, alone: bool) -> None:
    outcome = "done" if code == 0 else "stopped" if code in STOPPED else "error"
    line = f"jaxdist: {outcome}: {words}"
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
