"""Leaves of the canonical state that other processes hold: kept there as of an update, fetched when asked for."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdist.comm.rpc import CallError, Client, Server
from jaxdist.errors import ConnectionLost, Preempted
from jaxdist.state import LazyArray

_CHUNK = 2 * 2**20
_SECONDS = 120.0  # how long a leaf may take to come, and the chief to ask for the next


class ArrayServer:
    """Hands out what `keep` was given, to those who know the token.

    What is older than what is asked for is dropped: the chief writes one checkpoint after the other.
    """

    def __init__(self, host: str, token: str) -> None:
        self._token = token
        self._asked = time.monotonic()
        self._change = threading.Condition()
        self._kept: dict[int, dict[str, np.ndarray]] = {}
        self._done = threading.Event()
        self._server = Server(f"{host}:0", {"leaf": self._leaf, "done": self._note_done})
        self.port = self._server.port

    def keep(self, generation: int, leaves: Mapping[str, np.ndarray]) -> None:
        with self._change:
            self._kept[generation] = dict(leaves)
            self._change.notify_all()

    def _leaf(self, payload: bytes) -> bytes:
        asked = self._read(payload)
        generation = asked["generation"]
        with self._change:
            if not self._change.wait_for(lambda: generation in self._kept, _SECONDS):
                raise LookupError(f"update {generation} was not exported here; there are {sorted(self._kept)}")
            for old in [kept for kept in self._kept if kept < generation]:
                del self._kept[old]
            leaf = self._kept[generation][asked["name"]]
        view = leaf.reshape(-1).view(np.uint8).data
        return bytes(view[asked["offset"] : asked["offset"] + _CHUNK])

    def _note_done(self, payload: bytes) -> bytes:
        self._read(payload)
        self._done.set()
        return b""

    def _read(self, payload: bytes) -> dict[str, Any]:
        asked = json.loads(payload)
        if asked.get("token") != self._token:
            raise PermissionError("another run's token")
        self._asked = time.monotonic()
        return asked

    def close(self, *, waits: bool) -> None:
        """`waits`: until the chief has said that it needs no more leaves, or asks for none for a long while."""
        self._asked = time.monotonic()
        while waits and not self._done.wait(0.2) and time.monotonic() - self._asked < _SECONDS:
            pass
        self._server.close()


class ArrayClient:
    """On the chief: the other processes' services."""

    def __init__(self, addresses: Sequence[str], token: str) -> None:
        self._clients = {process: Client(address) for process, address in enumerate(addresses) if process}
        self._token = token

    def fetch(self, process: int, generation: int, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A leaf of that shape and dtype, as `process` kept it. Blocks.

        Raises:
          ConnectionLost: it does not come.
        """
        found = np.empty(shape, dtype)
        view = found.reshape(-1).view(np.uint8).data
        for offset in range(0, len(view), _CHUNK):
            asked = {"token": self._token, "name": name, "generation": generation, "offset": offset}
            try:
                part = self._clients[process].call("leaf", json.dumps(asked).encode(), timeout=_SECONDS)
                view[offset : offset + len(part)] = part
            except CallError as e:
                raise ConnectionLost(f"{name} could not be fetched from process {process}: {e}") from None
        return found

    def close(self) -> None:
        """Tells the services that no more leaves are needed."""
        for client in self._clients.values():
            with contextlib.suppress(CallError):
                client.call("done", json.dumps({"token": self._token}).encode(), timeout=5)
            client.close()


class ArrayExchange:
    """One process's end: others keep leaves for the chief, who fetches them. Collective to open.

    Args:
      host: where this process listens.
      token: the same on all, and known to nobody else.
      gather: (what, value) -> every process's value; collective.
    """

    def __init__(self, host: str, token: str, *, is_chief: bool, gather: Callable[[str, Any], list[Any]]) -> None:
        self.is_chief = is_chief
        self._service = None if is_chief else ArrayServer(host, token)
        port = self._service.port if self._service is not None else 0
        addresses = gather("the address (leaves)", f"{host}:{port}")
        self._remote = ArrayClient(addresses, token) if is_chief else None

    def keep(self, generation: int, leaves: Mapping[str, np.ndarray]) -> None:
        """Keeps leaves as of an update for the chief; nothing on the chief."""
        if self._service is not None:
            self._service.keep(generation, leaves)

    def leaf(self, process: int, generation: int, name: str, shape: tuple[int, ...], dtype: np.dtype) -> LazyArray:
        """What `process` keeps, fetched when asked for; for the chief alone."""
        remote = self._remote
        assert remote is not None
        return LazyArray(shape, dtype, lambda: remote.fetch(process, generation, name, shape, dtype))

    def close(self, error: BaseException | None) -> None:
        """Waits, where the run is well, until the chief needs nothing more."""
        if self._remote is not None:
            self._remote.close()
        if self._service is not None:
            self._service.close(waits=error is None or isinstance(error, Preempted))
