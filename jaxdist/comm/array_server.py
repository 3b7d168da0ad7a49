"""Arrays that one process serves to others: named, as of an update, fetched in chunks when they are asked for.

    process that has them                               process that wants them
      ArrayServer.keep(version, arrays)
                        <-- fetch(version, name, offset) --   np.asarray(ArrayClient.lazy(version, name, ...))
                        --- at most 2 MiB ---------------->   ... until the array is whole
                        <-- release() ---------------------   nothing more is wanted

Process 0 serves the state of a checkpoint or of a phase's end to everybody (its `methods` are a part of the service at
the coordinator's address); the others serve their shards and stages to it (`ArrayExchange`, each at a port of its own).
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdist.comm.addresses import join
from jaxdist.comm.ports import Ports
from jaxdist.comm.rpc import CallError, Client, Method, Server
from jaxdist.comm.security import OPEN, Security, same
from jaxdist.errors import ConnectionLost, Preempted
from jaxdist.state import LazyArray

_CHUNK = 2 * 2**20
_SECONDS = 120.0  # how long an array may take to come, and the chief to ask for the next


class ArrayServer:
    """Hands out the arrays that it was given, to those who know the token. Thread-safe.

    An array may be lazy: it is made when it is first asked for, and the last one alone is kept.

    Args:
      token: what callers must bring; '' where whoever reaches the server may ask.
      wait_seconds: how long a caller waits for a version that is not here yet.
    """

    def __init__(self, token: str = "", *, wait_seconds: float = 0.0) -> None:
        self._token, self._wait_seconds = token, wait_seconds
        self._change = threading.Condition()
        self._kept: dict[int, dict[str, Any]] = {}
        self._making = threading.Lock()  # a slow disk holds up those alone who want an array from it
        self._last_made: tuple[Any, np.ndarray | None] = (None, None)
        self._last_request = time.monotonic()
        self._released = threading.Event()

    @property
    def methods(self) -> dict[str, Method]:
        """Its method table, for a `Server`."""
        return {"greet": self._greet, "fetch": self._fetch, "release": self._release}

    def keep(self, version: int, arrays: Mapping[str, Any]) -> None:
        """Serves arrays as of an update. Older ones go when these are first asked for: the chief writes one checkpoint
        after the other."""
        with self._change:
            self._kept[version] = dict(arrays)
            self._change.notify_all()

    def replace(self, version: int, arrays: Mapping[str, Any]) -> None:
        """Serves these arrays alone from now on. Blocks while one of the former is being made."""
        with self._change:
            self._kept = {version: dict(arrays)}
            self._change.notify_all()
        with self._making:
            self._last_made = (None, None)

    def clear(self) -> None:
        """Serves nothing from now on. Blocks while an array is being made."""
        self.replace(-1, {})

    def wait_until_released(self) -> None:
        """Blocks until a caller needs no more arrays (`release`), or none has asked for any for a long while."""
        self._last_request = time.monotonic()
        while not self._released.wait(0.2) and time.monotonic() - self._last_request < _SECONDS:
            pass

    def _greet(self, payload: bytes) -> bytes:
        self._read(payload)
        return b""

    def _fetch(self, payload: bytes) -> bytes:
        request = self._read(payload)
        version, name = request["version"], request["name"]
        with self._change:
            if not self._change.wait_for(lambda: version in self._kept, self._wait_seconds):
                raise LookupError(f"update {version} is not served here; there are {sorted(self._kept)}")
            for old in [kept for kept in self._kept if kept < version]:
                del self._kept[old]
            if name not in self._kept[version]:
                raise LookupError(f"there is no array {name!r} here")
            array = self._kept[version][name]
        view = self._made(array).reshape(-1).view(np.uint8).data
        return bytes(view[request["offset"] : request["offset"] + _CHUNK])

    def _made(self, array: Any) -> np.ndarray:
        if isinstance(array, np.ndarray) and array.flags.c_contiguous:
            return array
        with self._making:
            last, made = self._last_made
            if made is None or last is not array:
                made = np.ascontiguousarray(array)
                self._last_made = (array, made)
            return made

    def _release(self, payload: bytes) -> bytes:
        self._read(payload)
        self._released.set()
        return b""

    def _read(self, payload: bytes) -> dict[str, Any]:
        request = json.loads(payload)
        if not same(str(request.get("token", "")), self._token):
            raise PermissionError("another run's token")
        self._last_request = time.monotonic()
        return request


class ArrayClient:
    """Fetches the arrays that one other process serves.

    Args:
      client: of the `Server` that has the `ArrayServer`'s methods.
      process: whose it is, for messages.
      seconds: how long each chunk may take to come.
    """

    def __init__(self, client: Client, process: int, *, token: str = "", seconds: float = _SECONDS) -> None:
        self._client, self._process, self._token, self._seconds = client, process, token, seconds

    def fetch(self, version: int, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array of that shape and dtype, as of that update. Blocks.

        Raises:
          ConnectionLost: it does not come, or has another size.
        """
        found = np.empty(shape, dtype)
        view = found.reshape(-1).view(np.uint8).data
        for offset in range(0, len(view), _CHUNK):
            request = {"token": self._token, "version": version, "name": name, "offset": offset}
            try:
                chunk = self._client.call("fetch", json.dumps(request).encode(), timeout=self._seconds)
            except CallError as e:
                raise ConnectionLost(f"{name} could not be fetched from process {self._process}: {e}") from None
            expected = min(_CHUNK, len(view) - offset)
            if len(chunk) != expected:
                raise ConnectionLost(
                    f"{name} could not be fetched from process {self._process}: {len(chunk)} bytes came where "
                    f"{expected} were expected"
                )
            view[offset : offset + expected] = chunk
        return found

    def lazy(self, version: int, name: str, shape: tuple[int, ...], dtype: np.dtype) -> LazyArray:
        """The same, fetched when it is asked for. Does not block."""
        return LazyArray(shape, dtype, lambda: self.fetch(version, name, shape, dtype))

    def greet(self) -> None:
        """Finds out now, rather than at the first array, whether that process can be reached. Blocks for its answer.

        Raises:
          ConnectionLost: it cannot, or is not who it should be.
        """
        try:
            self._client.call("greet", json.dumps({"token": self._token}).encode(), timeout=self._seconds)
        except CallError as e:
            where = f"process {self._process} at {self._client.address}"
            raise ConnectionLost(f"{where}, whose arrays are needed, cannot be reached: {e}") from None

    def release(self) -> None:
        """Lets the server end: no more arrays are wanted. Blocks for a few seconds at most."""
        with contextlib.suppress(CallError):
            self._client.call("release", json.dumps({"token": self._token}).encode(), timeout=5)


class ArrayExchange:
    """One process's end: the others keep arrays for the chief, which fetches them. Collective to open.

    Args:
      host: where this process listens.
      token: the same on all, and known to nobody else.
      ports: where it may listen.
      security: what encrypts the connections; `token` is what callers are asked for.
      gather: (what, value) -> every process's value; collective.

    Raises:
      ConnectionLost: on the chief, another process cannot be reached.
    """

    def __init__(
        self,
        host: str,
        token: str,
        *,
        ports: Ports,
        is_chief: bool,
        gather: Callable[[str, Any], list[Any]],
        security: Security = OPEN,
    ) -> None:
        self.is_chief, self._security = is_chief, security
        self._arrays: ArrayServer | None = None
        port = 0
        if not is_chief:
            self._arrays = ArrayServer(token, wait_seconds=_SECONDS)
            methods = self._arrays.methods
            security.check_certificate("A process whose arrays others fetch")
            self._server = ports.first(lambda port: Server(join(host, port), methods, security=security), "its arrays")
            port = self._server.port
        addresses = gather("the address (arrays)", join(host, port))
        self._connect(addresses if is_chief else (), token)

    def _connect(self, addresses: Sequence[str], token: str) -> None:
        self._clients = {
            process: Client(address, security=self._security) for process, address in enumerate(addresses) if process
        }
        self._remote = {process: ArrayClient(client, process, token=token) for process, client in self._clients.items()}
        for remote in self._remote.values():
            remote.greet()

    def keep(self, version: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps arrays as of an update for the chief; nothing on the chief. Does not block."""
        if self._arrays is not None:
            self._arrays.keep(version, arrays)

    def lazy(self, process: int, version: int, name: str, shape: tuple[int, ...], dtype: np.dtype) -> LazyArray:
        """What `process` keeps, fetched when it is asked for; for the chief alone. Does not block."""
        return self._remote[process].lazy(version, name, shape, dtype)

    def close(self, error: BaseException | None) -> None:
        """Blocks, where the run is well, until the chief needs nothing more."""
        for remote in self._remote.values():
            remote.release()
        for client in self._clients.values():
            client.close()
        if self._arrays is not None:
            if error is None or isinstance(error, Preempted):
                self._arrays.wait_until_released()
            self._server.close()
