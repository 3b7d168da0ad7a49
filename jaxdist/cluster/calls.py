"""Calls to the service of process 0: JSON both ways, and refusals that carry the exit code they are worth."""

from __future__ import annotations

import json
from typing import Any

from jaxdist.cluster.identity import caller
from jaxdist.comm.rpc import CallError, Client
from jaxdist.comm.security import OPEN, Security
from jaxdist.errors import PeerError, of_another_process

HEARTBEAT_SECONDS = 0.5  # what process 0 has to say reaches everybody within two of them


ALONE = -2  # in place of an exit code: this caller is refused, with 2, and nobody else


def refusal(text: str, code: int) -> ValueError:
    """What a caller gets in place of a reply: the text, and the exit code it is worth."""
    return ValueError(json.dumps({"text": text, "code": code}))


class CoordinatorClient:
    """This process's calls to the service of process 0. Thread-safe.

    Args:
      run: which one it belongs to (`identity`).
      security: what process 0 asks for.

    Attributes:
      rpc: for calls whose failures mean something else than in `ask`.
    """

    def __init__(self, address: str, process_id: int, run: str = "", security: Security = OPEN) -> None:
        self.address, self.process_id = address, process_id
        self.rpc = Client(address, caller(run, process_id), security)

    @property
    def is_chief(self) -> bool:
        return self.process_id == 0

    def ask(self, name: str, timeout: float, /, **request: Any) -> Any:
        """The reply to a request in this process's name. Blocks for `timeout` seconds at most.

        Raises:
          PeerError: process 0 gives no answer, or refuses.
          Preempted: it refuses, because it was stopped after saving.
        """
        try:
            reply = self.rpc.call(name, self.payload(**request), timeout=timeout)
        except CallError as e:
            if e.late or e.lost:
                raise self.lost(name) from None
            text, code = self.refused(e)
            raise of_another_process(text, 1 if code in (2, ALONE) else code) from None
        return json.loads(reply) if reply else None

    def payload(self, **request: Any) -> bytes:
        return json.dumps({"process": self.process_id, **request}).encode()

    def lost(self, name: str) -> PeerError:
        """What it means that a call is not answered."""
        return PeerError(f"process 0 was lost: no answer from {self.address} to {name!r}")

    @staticmethod
    def refused(error: CallError) -> tuple[str, int]:
        """(text, exit code) of a `refusal`, of a caller that has not the token, or of another service."""
        if error.denied:
            return str(error), ALONE
        try:
            refused = json.loads(str(error))
            return refused["text"], refused["code"]
        except (ValueError, TypeError, KeyError):
            return f"what listens there is no process 0 of this version of this program ({error})", ALONE

    def close(self) -> None:
        self.rpc.close()
