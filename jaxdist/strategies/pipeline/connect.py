"""How the stages of several processes find each other, and what all of them say to all."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import jax

from jaxdist.comm.channel import ChannelError, ChannelListener
from jaxdist.errors import ConnectionLost
from jaxdist.strategies.pipeline.links import RemoteLink
from jaxdist.strategies.process_group import ProcessGroup

_MAX_BYTES = 8 * 2**30  # of one array between stages


class StageConnector:
    """Opens the channels between stages of different processes. Collective where it says so.

    Args:
      name: of what is being built; its messages are told from others' by it.
      seconds: how long a neighbour may be silent; `connect_seconds`: how long it may take to come.
    """

    def __init__(
        self, group: ProcessGroup, process_id: int, *, name: str, seconds: float, connect_seconds: float
    ) -> None:
        self._group, self._process, self._name = group, process_id, name
        self._seconds, self._connect = seconds, connect_seconds
        self.host = group.host
        self.token = self.gather("token", uuid.uuid4().hex if process_id == 0 else "")[0]
        self._door = ChannelListener(self.token, _MAX_BYTES, group.host)
        self._doors = self.gather_addresses("door", self._door.port)
        self._channels: list[Any] = []

    def gather(self, what: str, value: Any) -> list[Any]:
        """Collective: every process's value."""
        return self._group.gather(f"{what} of {self._name}", value)

    def gather_addresses(self, what: str, port: int) -> list[str]:
        """Collective: every process's 'host:port'."""
        return self.gather(f"the address ({what})", f"{self.host}:{port}")

    def open(
        self, wanted: Sequence[tuple[tuple[int, int], tuple[int, int], int, jax.Device]]
    ) -> dict[tuple[tuple[int, int], tuple[int, int]], RemoteLink]:
        """{(own, other): link} for (own (replica, stage), other (replica, stage), other's process, own device) as
        wanted; the other side must want the same. The later stage's process knocks at the earlier's door.

        Raises:
          ConnectionLost: one did not come in time.
        """
        found: dict[tuple[tuple[int, int], tuple[int, int]], RemoteLink] = {}
        expected: dict[str, tuple[Any, ...]] = {}
        try:
            for own, other, process, device in wanted:
                title = f"{min(own, other)}"
                who = f"process {process} (stage {other[1]}, replica {other[0]})"
                if own > other:
                    channel = self._door.open(self._doors[process], who, title, self._connect)
                    self._channels.append(channel)
                    found[own, other] = RemoteLink(channel, device, self._seconds)
                else:
                    expected[title] = (own, other, device, who)
            for title, channel in self._door.accept({t: e[3] for t, e in expected.items()}, self._connect).items():
                own, other, device, _ = expected[title]
                self._channels.append(channel)
                found[own, other] = RemoteLink(channel, device, self._seconds)
        except ChannelError as e:
            raise ConnectionLost(f"the stages could not be connected: {e}") from None
        return found

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        self._door.close()
