"""Leaves of the canonical state that other processes hold: kept there as of an update, fetched when asked for."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdist.errors import ConnectionLost
from jaxdist.task import Leaf
from jaxdist.transport import CallError, Client, Server

_CHUNK = 2 * 2**20
_SECONDS = 120.0  # how long a leaf may take to come, and the chief to ask for the next


class LeafService:
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


class RemoteLeaves:
    """On the chief: the other processes' services."""

    def __init__(self, addresses: Sequence[str], token: str) -> None:
        self._clients = {process: Client(address) for process, address in enumerate(addresses) if process}
        self._token = token

    def leaves(
        self, process: int, generation: int, described: Mapping[str, tuple[tuple[int, ...], np.dtype]]
    ) -> dict[str, Leaf]:
        """Leaves of these shapes and dtypes, as `process` kept them."""

        def leaf(name: str, shape: tuple[int, ...], dtype: np.dtype) -> Leaf:
            return Leaf(shape, dtype, lambda: self._fetch(process, generation, name, shape, dtype))

        return {name: leaf(name, *what) for name, what in described.items()}

    def _fetch(self, process: int, generation: int, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
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
