"""The errors that users meet."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

STOPPED = (75, 130, 143)
"""Exit codes of a process that was asked to end."""


class UsageError(Exception):
    """Bad flags, configuration or data, found before training starts. One sentence; the process exits with 2."""


class PeerError(Exception):
    """Another process failed, was lost or does not advance. The process exits with `code`."""

    code = 1


class Unhealthy(Exception):
    """The numbers of a run are of no use: NaN, infinite, or no update at all. The process exits with 1."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """ "; nearest: 'x'" for the choice most like `word`, or an empty string."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.4)
    return f"; nearest: {found[0]!r}" if found else ""


class Preempted(Exception):
    """The run was asked to stop, saved its state and can be resumed. The process exits with 75."""


class NotSaved(Exception):
    """A checkpoint, a row or the summary could not be written: the disk is full, or failed. The process exits with
    1."""


class Terminated(BaseException):
    """SIGTERM came while there was nothing to save: the process exits with `code` at once.

    A BaseException, as KeyboardInterrupt is: it is raised wherever the process happens to be, and no library is to take
    it for an error of its own.

    Attributes:
      code: 143, or 75 where the run can be taken up again from a checkpoint.
    """

    def __init__(self, words: str, code: int = 143) -> None:
        super().__init__(words)
        self.code = code


class PeerStopped(PeerError):
    """Another process was asked to end, and nothing was saved. The process exits with the same code: 130 or 143."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def of_another_process(text: str, code: int) -> Exception:
    """The error with which a process ends because another one has: with the same exit code."""
    if code in (130, 143):
        return PeerStopped(text, code)
    if code == 75:
        return Preempted(text)
    return UsageError(text) if code == 2 else PeerError(text)


def ending(error: BaseException | None) -> tuple[int, str]:
    """(exit code, words) of a process that `error` ends; None: it has done its work."""
    match error:
        case None:
            return 0, ""
        case Terminated():
            return error.code, str(error)
        case Preempted():
            return 75, str(error)
        case UsageError():
            return 2, str(error)
        case PeerError():
            return error.code, str(error)
        case Unhealthy() | NotSaved():
            return 1, str(error)
        case KeyboardInterrupt():
            return 130, str(error) or "interrupted (SIGINT)"
    return 1, f"{type(error).__name__}: {error}"


class ConnectionLost(PeerError):
    """A connection ended, or brought nothing in time: by itself no reason, which the watchdog may still find."""
