"""Servers that a run will need later: met at its start, and kept waiting until then."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdist.errors import UsageError
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.facts import differences
from jaxdist.ps.rpc import Lost, Refused, Stub
from jaxdist.ps.sequencer import Ended, Fenced
from jaxdist.security import Security

KEEP_SECONDS = 5.0


class Keeper:
    """Asks each server for its status now and then: servers that hear nothing give up after a while.

    Args:
      addresses: of all servers, in order.
      facts: what must be the same on servers and workers.
      connect_seconds: for the servers to come.

    Raises:
      UsageError: a server cannot be reached in time, refuses, or is another than it should be.
    """

    def __init__(
        self, addresses: Sequence[str], security: Security, *, facts: Mapping[str, Any], connect_seconds: float
    ) -> None:
        self._stubs = [Stub(a, security) for a in addresses]
        self._closing = threading.Event()
        try:
            deadline = time.monotonic() + connect_seconds
            for i, stub in enumerate(self._stubs):
                check_server(i, addresses, stub, json.loads(json.dumps(dict(facts))), deadline)
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._keep, name="keeper", daemon=True).start()

    def _keep(self) -> None:
        while not self._closing.wait(KEEP_SECONDS):
            for stub in self._stubs:
                with contextlib.suppress(Lost, Refused, Fenced, Ended):  # the phase that needs it will say so
                    stub.call("Status", pb.Empty(), timeout=KEEP_SECONDS)

    def close(self) -> None:
        """Idempotent; the servers are left as they are."""
        self._closing.set()
        for stub in self._stubs:
            stub.close()


def check_server(index: int, addresses: Sequence[str], stub: Stub, facts: Mapping[str, Any], deadline: float) -> None:
    """Meets one server, waiting for it until `deadline` (of `time.monotonic`).

    Raises:
      UsageError: it cannot be reached, believes in another list of servers, or was started with another configuration.
    """
    pause = 0.05
    while True:
        try:
            status, _ = stub.call("Status", pb.Empty(), timeout=10.0)
            break
        except Refused as e:
            raise UsageError(f"The parameter server {index} refuses this process: {e}.") from None
        except Lost as e:
            if time.monotonic() + pause > deadline:
                raise UsageError(
                    f"The parameter server {index} could not be reached at {addresses[index]} in time ({e}). Is it "
                    f"running (--role=server --server_index={index}), and is that its address?"
                ) from None
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
    if list(status.addresses) != list(addresses) or status.index != index:
        raise UsageError(
            f"--server_addresses={','.join(addresses)} says that server {index} is at {addresses[index]}, but there "
            f"is server {status.index} of {','.join(status.addresses)}: give all processes the same list."
        )
    differing = differences(facts, json.loads(status.facts))
    if differing:
        raise UsageError(f"This process and the parameter server {index} do not agree on {differing}.")
