"""What a client returns: claims, pulled values, pinned versions, and how far the run has come."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.state.position import Ranges


@dataclasses.dataclass(frozen=True)
class Claim:
    """Examples to take the gradient of, claimed in a session."""

    number: int
    caller: pb.Caller
    ranges: Ranges


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the servers had applied at one moment; sums over all workers' examples."""

    version: int = 0
    examples_seen: int = 0
    sums: tuple[float, ...] = ()  # of the objective's training sums; () before the first push

    @classmethod
    def of(cls, message: pb.Progress) -> Progress:
        return cls(message.version, message.examples_seen, tuple(message.sums))


@dataclasses.dataclass(frozen=True)
class Pulled:
    """Parameters and statistics: one buffer a server. `staleness` is that of the push that was answered, if any."""

    buffers: list[np.ndarray]
    version: int
    progress: Progress
    caller: pb.Caller
    clock_lead: int = 0
    staleness: int | None = None


@dataclasses.dataclass(frozen=True)
class PinnedVersion:
    """One version of all shards, and what was known when it was made.

    `buffers` and `vector` block while they read it from the servers, and raise what `Client.read` raises.

    Attributes:
      slots: of the optimizer's state.
      dtype: of parameters and statistics.
      read: the bytes of `what` on each server.
    """

    caller: pb.Caller
    progress: Progress
    pending: Ranges
    slots: list[str]
    dtype: np.dtype
    read: Callable[[str], list[np.ndarray]]

    def buffers(self) -> list[np.ndarray]:
        """Parameters and statistics, one buffer a server, as a pull gives them."""
        return [part.view(self.dtype) for part in self.read("")]

    def vector(self, what: str, dtype: np.dtype) -> np.ndarray:
        """'params', 'stats' or 'slot/NAME' of the whole model."""
        return np.concatenate([part.view(dtype) for part in self.read(what)])
