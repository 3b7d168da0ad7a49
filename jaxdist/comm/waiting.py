"""Why an address gives no answer, in words, for a process that waits for another one at the start."""

from __future__ import annotations

import enum
import errno
import logging
import socket
import time

from jaxdist.comm.addresses import is_literal, is_loopback, join, split

QUIET_SECONDS = 5.0  # within which processes that are started together come
_PROBE_SECONDS = 3.0


class Waiting:
    """Logs what keeps an answer away, as soon as that lasts, and again whenever it is something else.

    Args:
      what: is waited for: 'process 0'.
      address: 'host:port'.
      seconds: how long it may take to come.

    Attributes:
      words: why the last attempt failed; '' before `note`.
      refused: its host is there, and nothing listens.
      certificate: another than it should be listens: that will not change by waiting.
    """

    def __init__(self, what: str, address: str, seconds: float) -> None:
        self._what, self._address, self._seconds = what, address, seconds
        self._begin = time.monotonic()
        self.words, self.refused, self.certificate = "", False, False

    @property
    def waited(self) -> float:
        """Seconds since this was made."""
        return time.monotonic() - self._begin

    @property
    def over(self) -> bool:
        """Whether it has taken too long."""
        return self.waited > self._seconds

    def note(self, details: str, *, late: bool = False, answered: bool = False) -> None:
        """After an attempt that failed. Blocks for a few seconds at most.

        Args:
          details: what gRPC said.
          late: there was a connection, and no answer in time.
          answered: `details` are the other side's own words: not now.
        """
        if self.waited < min(QUIET_SECONDS, self._seconds):
            return
        if answered:
            words, self.refused = details, False
        else:
            words, found = why_no_answer(self._address, min(_PROBE_SECONDS, max(self._seconds - self.waited, 0.5)))
            self.refused = found is Found.NOBODY
            if found is Found.SOMETHING:
                self.certificate = "verif" in details.lower()  # as OpenSSL and gRPC put it, each in several ways
                why = "it is another program, or TLS is set up on one side alone"
                if late:
                    why = "it is too busy to answer"
                elif self.certificate:
                    why = "its certificate is not for this name or address, or not of the authority in JAXDIST_TLS_CA"
                words += f" that does not answer: {why} ({details})"
        if words != self.words:
            logging.warning(
                "Waiting for %s at %s, for %.0f s at most (cluster.connect_timeout_seconds): %s.",
                self._what,
                self._address,
                self._seconds,
                words,
            )
        self.words = words


class Found(enum.Enum):
    """At an address."""

    NOTHING = enum.auto()  # no host, no way to it, no name
    NOBODY = enum.auto()  # its host, where nothing listens
    SOMETHING = enum.auto()  # that listens


def why_no_answer(address: str, seconds: float = _PROBE_SECONDS) -> tuple[str, Found]:
    """(words, what was found there). Blocks for `seconds` for each address that the host has."""
    host, port = split(address)
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except OSError as e:
        return f"this host does not know the name {host} ({e.strerror or e})", Found.NOTHING
    problems, refused = [], True
    for where in found:
        known = where if is_literal(host) else f"{host} ({where})"
        try:
            socket.create_connection((where, port), seconds).close()
        except OSError as e:
            refused = refused and isinstance(e, ConnectionRefusedError)
            problems.append(_problem(e, known, port, leads_here=not is_loopback(host) and is_loopback(where)))
        else:
            return f"something listens at {join(where, port)}", Found.SOMETHING
    return "; ".join(problems), Found.NOBODY if refused else Found.NOTHING


def _problem(error: OSError, known: str, port: int, *, leads_here: bool) -> str:
    if leads_here:
        return (
            f"nothing listens at port {port} of {known}, and that name leads to this host itself: where it is another "
            "host, correct /etc/hosts here or give its address"
        )
    if isinstance(error, ConnectionRefusedError):
        return f"{known} is there, but nothing listens at its port {port}: not yet, no more, or at another port"
    if isinstance(error, TimeoutError):
        what = f"it is off, the link is down, or a firewall drops what comes to port {port}"
        return f"{known} gives no answer at all: {what}"
    if error.errno == errno.ENETUNREACH:
        return f"no route leads from this host to {known}"
    if error.errno == errno.EHOSTUNREACH:
        return (
            f"{known} cannot be reached (no route to host): it is off, or a firewall rejects what comes to port {port}"
        )
    return f"{known} cannot be reached ({error.strerror or error})"
