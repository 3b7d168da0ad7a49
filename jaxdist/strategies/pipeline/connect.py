"""How the stages of several processes find and connect to each other."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import jax

from jaxdist.comm.addresses import join
from jaxdist.comm.channel import ChannelError, ChannelListener
from jaxdist.errors import ConnectionLost
from jaxdist.strategies.pipeline.links import RemoteLink
from jaxdist.strategies.process_group import ProcessGroup

_MAX_BYTES = 8 * 2**30  # of one array between stages


class StageConnector:
    """Opens the channels between stages of different processes. Collective where it says so.

    Args:
      name: of what is being built; makes the names of its gathers unique.
      seconds: how long a neighbour may be silent; `connect_seconds`: how long it may take to come.
    """

    def __init__(
        self, group: ProcessGroup, process_id: int, *, name: str, seconds: float, connect_seconds: float
    ) -> None:
        self._group, self._process, self._name = group, process_id, name
        self._seconds, self._connect = seconds, connect_seconds
        self.host, self.ports, self.security = group.host, group.ports, group.security
        self.token = self.gather("token", uuid.uuid4().hex if process_id == 0 else "")[0]
        self._listener = ChannelListener(self.token, _MAX_BYTES, group.host, group.ports, group.security)
        self._listeners = self.gather_addresses("channels", self._listener.port)
        self._channels: list[Any] = []

    def gather(self, what: str, value: Any) -> list[Any]:
        """Collective: every process's value. Blocks until all have come."""
        return self._group.gather(f"{what} of {self._name}", value)

    def gather_addresses(self, what: str, port: int) -> list[str]:
        """Collective: every process's 'host:port'. Blocks until all have come."""
        return self.gather(f"the address ({what})", join(self.host, port))

    def open(
        self, wanted: Sequence[tuple[tuple[int, int], tuple[int, int], int, jax.Device]]
    ) -> dict[tuple[tuple[int, int], tuple[int, int]], RemoteLink]:
        """{(own, other): link} for (own (replica, stage), other (replica, stage), other's process, own device) as
        wanted; the other side must want the same. The later stage's process opens the channel, at the earlier one's
        listener. Blocks until all are open.

        Raises:
          ConnectionLost: one did not come in time.
        """
        found: dict[tuple[tuple[int, int], tuple[int, int]], RemoteLink] = {}
        expected: dict[str, tuple[Any, ...]] = {}
        try:
            for own, other, process, device in wanted:
                label = f"{min(own, other)} {max(own, other)}"
                who = f"process {process} (stage {other[1]}, replica {other[0]})"
                if own > other:
                    channel = self._listener.open(self._listeners[process], who, label, self._connect)
                    self._channels.append(channel)
                    found[own, other] = RemoteLink(channel, device, self._seconds)
                else:
                    expected[label] = (own, other, device, who)
            names = {label: ends[3] for label, ends in expected.items()}
            for label, channel in self._listener.accept(names, self._connect).items():
                own, other, device, _ = expected[label]
                self._channels.append(channel)
                found[own, other] = RemoteLink(channel, device, self._seconds)
        except ChannelError as e:
            raise ConnectionLost(f"the stages could not be connected: {e}") from None
        return found

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        self._listener.close()
