"""Servers that a run will need later: met at its start, and reserved until then."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdist.comm.security import Security
from jaxdist.comm.waiting import Found, Waiting, why_no_answer
from jaxdist.errors import UsageError, ending
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.errors import Ended, Fenced, Lost, Refused
from jaxdist.ps.rpc import Stub
from jaxdist.ps.signature import differences

RENEWAL_SECONDS = 4.0
GOOD_END_SECONDS = 60.0  # a server whose link is down for longer ends by itself


class ServerReservation:
    """Reserves each server again and again: others are kept off, and servers that get no calls give up after a while.

    Attributes:
      reserve: what the servers are reserved by; `Begin` and `End` have to name it.

    Args:
      addresses: of all servers, in order.
      signature: the run signature, the same on servers and workers.
      connect_seconds: for the servers to come.

    Construction blocks until all servers have answered.

    Raises:
      UsageError: a server cannot be reached in time, refuses, or is another than it should be.
    """

    def __init__(
        self, addresses: Sequence[str], security: Security, *, signature: Mapping[str, Any], connect_seconds: float
    ) -> None:
        self.reserve = uuid.uuid4().hex
        self._identity = signature.get("run", "")
        self._addresses, self._security = list(addresses), security
        self._pause = min(RENEWAL_SECONDS, connect_seconds / 3)
        self._stubs = [Stub(a, security) for a in addresses]
        self._closing = threading.Event()
        try:
            deadline = time.monotonic() + connect_seconds
            for i, stub in enumerate(self._stubs):
                check_server(i, addresses, stub, json.loads(json.dumps(dict(signature))), deadline, self.reserve)
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._renew, name="reservation", daemon=True).start()

    def _renew(self) -> None:
        while not self._closing.wait(self._pause):
            for stub in self._stubs:
                with contextlib.suppress(Exception):  # the phase that needs the server will report what is wrong
                    stub.call(
                        "Status",
                        pb.StatusRequest(reserve=self.reserve, identity=self._identity),
                        timeout=RENEWAL_SECONDS,
                    )

    def end(self, code: int, text: str) -> None:
        """Ends the servers that wait, with an exit code and its reason; one whose phase goes on is left alone.

        Blocks for their answers.
        """
        for address in reversed(self._addresses):
            end_run(address, self._security, code, text, self.reserve, self._identity)

    def close(self) -> None:
        """Idempotent; the servers are left as they are."""
        self._closing.set()
        for stub in self._stubs:
            stub.close()


def check_server(
    index: int, addresses: Sequence[str], stub: Stub, signature: Mapping[str, Any], deadline: float, reserve: str = ""
) -> None:
    """Meets one server, waiting for it until `deadline` (of `time.monotonic`), and reserves it.

    Raises:
      UsageError: it cannot be reached, believes in another list of servers, or was started with another configuration.
    """
    pause = 0.05
    waiting = Waiting(f"the parameter server {index}", addresses[index], deadline - time.monotonic())
    while True:
        try:
            asked = pb.StatusRequest(reserve=reserve, identity=signature.get("run", ""))
            status, _ = stub.call("Status", asked, timeout=10.0)
            break
        except Refused as e:
            raise UsageError(f"The parameter server {index} refuses this process: {e}.") from None
        except Lost as e:
            waiting.note(str(e), late=e.late, answered=e.answered)
            if waiting.certificate or time.monotonic() + pause > deadline:
                raise UsageError(
                    f"The parameter server {index} could not be reached at {addresses[index]} in time "
                    f"({waiting.words or e}). Is it running (--role=server --server_index={index}), and is that its "
                    "address?"
                ) from None
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
    if list(status.addresses) != list(addresses) or status.index != index:
        raise UsageError(
            f"--server_addresses={','.join(addresses)} says that server {index} is at {addresses[index]}, but there "
            f"is server {status.index} of {','.join(status.addresses)}: give all processes the same list."
        )
    differing = differences(signature, json.loads(status.signature))
    if differing:
        raise UsageError(f"This process and the parameter server {index} do not agree on {differing}.")


def end_run(address: str, security: Security, code: int, text: str, reserve: str = "", identity: str = "") -> None:
    """Ends a server that waits for a run, since none will begin; it goes on where it serves another run, is reserved by
    one, or was started for one of another `identity`."""
    stub = Stub(address, security)
    end_server(stub, "", code, text, reserve, identity)
    stub.close()


def end_server(stub: Stub, run: str, code: int, text: str, reserve: str = "", identity: str = "") -> None:
    """Ends a run on a server, which exits; one that gives no answer, or serves another run, is left alone.

    Blocks for the answer: for seconds, but for `GOOD_END_SECONDS` at a good end, while the server cannot be reached:
    one that is not told would end with an error of its own, and so would the workers that it has not told.
    """
    request = pb.EndRequest(run=run, code=code, text=text, reserve=reserve, identity=identity)
    deadline = time.monotonic() + (GOOD_END_SECONDS if code == 0 else 0.0)
    with contextlib.suppress(Fenced, Ended, Refused):
        while True:
            try:
                stub.call("End", request, timeout=5 if code in (0, 75) else 1.5)  # else they may be what was lost
                return
            except Lost:
                if time.monotonic() > deadline:
                    return
            _, found = why_no_answer(stub.address, 2.0)
            if found is Found.NOBODY:  # it has ended
                return
            if found is Found.SOMETHING:  # its link is up again, or it has an answer that will be the same
                deadline = min(deadline, time.monotonic() + 2 * RENEWAL_SECONDS)
            time.sleep(0.5)


def run_ending(error: BaseException | None) -> tuple[int, str]:
    """(exit code, reason) of a run whose chief ends with `error`; None: well."""
    code, text = ending(error)
    return code, f"worker 0 (the chief): {text}" if text else ""


def end_waiting_servers(
    addresses: Sequence[str], security: Security, identity: str, error: BaseException | None
) -> None:
    """From the chief at its end: servers that still wait for a run end too, as the chief does (None: well)."""
    for address in reversed(addresses):
        end_run(address, security, *run_ending(error), identity=identity)
