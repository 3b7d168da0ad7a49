"""Standard output and error that may be closed, by whoever started the process or by whoever read them.

What a run says never decides how it ends: `2>&-` and `| head` change nothing but what is seen. The log file has it all.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Any, TextIO, cast


def secure() -> None:
    """Makes this process's streams safe to write to. To be called first, in the main thread."""
    _occupy()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w")  # noqa: SIM115 - for the process's life
        setattr(sys, name, cast(TextIO, _Lenient(stream, name)))


def _occupy() -> None:
    """A closed descriptor 2 would be given to the next file that is opened, and C++ writes its messages there."""
    nothing = os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
    while nothing <= 2:
        nothing = os.dup(nothing)
    os.close(nothing)


class _Lenient:
    """A stream whose reader may go away; the first time is noted in the log, by whose file handler it is kept."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name, self._lost = stream, name, False

    def write(self, text: str) -> int:
        if not self._lost:
            try:
                return self._stream.write(text)
            except (OSError, ValueError):
                self._lose()
        return len(text)

    def flush(self) -> None:
        if not self._lost:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._lose()

    def isatty(self) -> bool:
        return not self._lost and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self) -> None:
        self._lost = True
        with contextlib.suppress(OSError):  # what is still buffered goes nowhere, also when the interpreter ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        logging.warning("Nobody reads this process's %s any more; the log file goes on.", self._name)
