"""What connects neighbouring stages: activations one way, their gradients the other, each way in order."""

from __future__ import annotations

import abc
import queue
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxdist.comm.channel import Channel, ChannelError
from jaxdist.errors import ConnectionLost

_NOTHING = np.empty(0, np.uint8)


class Link(abc.ABC):
    """One end of the connection between two stages.

    Attributes:
      waited: seconds that `receive` has blocked for another process; None within one.
    """

    waited: float | None = None

    @abc.abstractmethod
    def send(self, header: Mapping[str, Any], array: jax.Array | None) -> None:
        """Sends an array (None: the header alone) that must not be donated. Does not block."""

    @abc.abstractmethod
    def receive(self, shape: Sequence[int], dtype: Any) -> tuple[Mapping[str, Any], jax.Array]:
        """(header, array on this end's device). Blocks.

        Raises:
          ConnectionLost: the other end is gone, failed or silent.
        """

    @abc.abstractmethod
    def fail(self, error: BaseException) -> None:
        """The other end is not to wait any longer."""


class LocalLink(Link):
    """Between two stages of one process; `pair` makes both ends."""

    def __init__(self, incoming: queue.SimpleQueue, outgoing: queue.SimpleQueue, device: jax.Device) -> None:
        self._incoming, self._outgoing, self._device = incoming, outgoing, device

    @classmethod
    def pair(cls, before: jax.Device, after: jax.Device) -> tuple[LocalLink, LocalLink]:
        """(the end of the stage on `before`, that of the next stage, on `after`)."""
        forth: queue.SimpleQueue = queue.SimpleQueue()
        back: queue.SimpleQueue = queue.SimpleQueue()
        return cls(back, forth, before), cls(forth, back, after)

    def send(self, header: Mapping[str, Any], array: jax.Array | None) -> None:
        self._outgoing.put((header, array))

    def receive(self, shape: Sequence[int], dtype: Any) -> tuple[Mapping[str, Any], jax.Array]:
        found = self._incoming.get()
        if isinstance(found, BaseException):
            raise ConnectionLost(f"another stage of this process failed: {found}") from found
        header, array = found
        return header, jax.device_put(array if array is not None else _NOTHING, self._device)

    def fail(self, error: BaseException) -> None:
        self._outgoing.put(error)


class RemoteLink(Link):
    """To a stage of another process."""

    def __init__(self, channel: Channel, device: jax.Device, seconds: float) -> None:
        """`seconds`: how long the other end may be silent."""
        self._channel, self._device, self._seconds = channel, device, seconds
        self.waited: float = 0.0

    def send(self, header: Mapping[str, Any], array: jax.Array | None) -> None:
        try:
            # np.asarray waits for the device on the channel's thread, and copies nothing on CPU.
            self._channel.send(header, lambda: np.asarray(array if array is not None else _NOTHING))
        except ChannelError as e:
            raise ConnectionLost(str(e)) from None

    def receive(self, shape: Sequence[int], dtype: Any) -> tuple[Mapping[str, Any], jax.Array]:
        begin = time.monotonic()
        try:
            frame = self._channel.receive(self._seconds)
            self.waited += time.monotonic() - begin
            return frame.header, jax.device_put(frame.array(shape, dtype), self._device)
        except ChannelError as e:
            raise ConnectionLost(str(e)) from None

    def fail(self, error: BaseException) -> None:
        pass  # the watchdog tells the others
