"""A port for a process that is started later, which nobody else takes in between.

A port that the system gives (bind to 0) is free again as soon as it is known, and lies in the range from which the
system serves every outgoing connection and everybody else who asks: seconds later, when the process binds it, it may
be taken. Here

    ports of outgoing connections   are not given: /proc/sys/net/ipv4/ip_local_port_range
    what another caller was given   is marked by a UDP socket of the same number, until that caller ends
    what somebody listens at        is found by binding it
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import pathlib
import random
import socket

_FIRST, _LAST = 10000, 60000
_OUTGOING = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range")
_MARKS = 100  # open at a time
_marks: collections.deque[socket.socket] = collections.deque()


@atexit.register
def _forget() -> None:
    while _marks:
        _marks.popleft().close()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free, and stays so for this process and those that it starts.

    Raises:
      RuntimeError: no port is free.
    """
    for port in _candidates():
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            mark = opened.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            mark.bind(("127.0.0.1", port))
            with socket.socket() as s:
                s.bind(("", port))
            opened.pop_all()
            _marks.append(mark)
            if len(_marks) > _MARKS:
                _marks.popleft().close()
            return port
    raise RuntimeError("No TCP port is free on this host.")


def _candidates() -> list[int]:
    """In an order of their own for each process that asks, whatever seeds it has set."""
    ports = range(_FIRST, _LAST + 1)
    outgoing = range(0)
    with contextlib.suppress(OSError):
        first, last = map(int, _OUTGOING.read_text().split())
        outgoing = range(first, last + 1)
    inner = [port for port in ports if port not in outgoing]
    return random.SystemRandom().sample(inner or ports, min(len(inner or ports), 200))
