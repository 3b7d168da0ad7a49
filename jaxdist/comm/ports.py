"""`cluster.port_range`: the ports at which a process may listen, so that a firewall can be told."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from jaxdist.errors import UsageError

T = TypeVar("T")


def must_be(text: str) -> str:
    """What a range must be instead, '' where it is one."""
    found = re.fullmatch(r"(\d+)-(\d+)", text)
    if not text or (found and 1 <= int(found[1]) <= int(found[2]) <= 65535):
        return ""
    return "FIRST-LAST, as in 7800-7899, from 1 to 65535"


class Ports:
    """Where a process may listen.

    Args:
      text: 'FIRST-LAST'; '' for any free port.
    """

    def __init__(self, text: str = "") -> None:
        self.text = text
        first, _, last = text.partition("-")
        self._candidates = range(int(first), int(last) + 1) if text else range(1)  # 0: the system takes a free one

    def __contains__(self, port: int) -> bool:
        return not self.text or port in self._candidates

    def first(self, listen: Callable[[int], T], what: str) -> T:
        """What `listen` returns at the first port that it can have.

        Args:
          listen: raises `OSError` where a port is taken.
          what: it is for, in messages.

        Raises:
          UsageError: no port of the range is free.
          OSError: without a range, what `listen` raised.
        """
        for port in self._candidates:
            try:
                return listen(port)
            except OSError:
                if not self.text:
                    raise
        raise UsageError(
            f"cluster.port_range={self.text}: all {len(self._candidates)} ports are taken on this host, and {what} "
            "needs one. A process listens at up to two besides those that flags name (JAX's service and a channel on "
            "process 0, a channel and arrays elsewhere): widen the range."
        )
