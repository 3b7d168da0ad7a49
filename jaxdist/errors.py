"""The errors that users meet."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Bad flags, configuration or data, found before training starts. One sentence; the process exits with 2."""


class PeerError(Exception):
    """Another process failed, was lost or does not advance. The process exits with 1."""


class Unhealthy(Exception):
    """The numbers of a run are of no use: NaN, infinite, or no update at all. The process exits with 1."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """ "; nearest: 'x'" for the choice most like `word`, or an empty string."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.4)
    return f"; nearest: {found[0]!r}" if found else ""


class Preempted(Exception):
    """The run was asked to stop, saved its state and can be resumed. The process exits with 75."""


class ConnectionLost(PeerError):
    """A connection ended, or brought nothing in time: by itself no reason, which the watchdog may still find."""
