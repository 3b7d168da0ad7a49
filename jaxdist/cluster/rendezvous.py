"""How processes exchange values: all with all (`gather`), or process 0 with whoever asks (`announce`, `await_value`).

process 1..N-1                        process 0
  gather('join', value)      ----->   waits for all, then answers each with everybody's values
  await_value('next')        ----->   answers once process 0 has announced it
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from jaxdist.cluster.calls import ALONE, HEARTBEAT_SECONDS, CoordinatorClient, refusal
from jaxdist.cluster.membership import Membership
from jaxdist.comm.rpc import CallError, Method, caller_waits
from jaxdist.comm.waiting import QUIET_SECONDS, Waiting
from jaxdist.errors import UsageError, of_another_process

OWN_SECONDS = 10.0  # after which process 0, whose own service is there, need not wait where nothing listens
CLOCKS_SECONDS = 30.0  # by which two hosts' clocks may differ
_HELLO_SECONDS = 5.0  # that one attempt may take


class RendezvousServer:
    """Process 0's side: barriers that carry values, and announced values. Thread-safe."""

    def __init__(self, membership: Membership) -> None:
        self._members = membership
        self._change = membership.change
        self._gathered: dict[str, dict[int, Any]] = {}
        self._announced: dict[str, Any] = {}

    @property
    def methods(self) -> dict[str, Method]:
        return {"gather": self._gather, "await": self._await_value}

    def announce(self, name: str, value: Any) -> None:
        """Answers those that await `name`, now and later. Does not block."""
        with self._change:
            self._announced[name] = value
            self._change.notify_all()

    def _gather(self, payload: bytes) -> bytes:
        request = json.loads(payload)
        name, timeout = request["name"], request["timeout"]
        members = self._members
        begin = time.monotonic()
        deadline, logged = begin + timeout, request["process"] != 0 or members.started
        with self._change:
            table = self._gathered.setdefault(name, {})
            table[request["process"]] = request["value"]
            self._change.notify_all()
            while len(table) < members.num_processes:
                members.raise_failure()
                if not caller_waits():
                    del table[request["process"]]
                    members.withdraw(request["process"])
                    return b""
                left = deadline - time.monotonic()
                log = not logged and time.monotonic() - begin > QUIET_SECONDS
                if left <= 0 or log:
                    absent = name_processes(sorted(set(range(members.num_processes)) - set(table)))
                    known = "; ".join([members.absent(table), *members.refused[-3:]])
                    if left <= 0:
                        words = f"{absent} of {members.num_processes} did not come to {name!r} within {timeout:g} s"
                        raise refusal(f"{words} ({known})", 1 if members.started else 2)
                    logged = True
                    logging.info("Waiting for %s, for %g s at most (%s).", absent, timeout, known)
                self._change.wait(min(left, 0.5))
            members.started = True
            return json.dumps([table[i] for i in range(members.num_processes)]).encode()

    def _await_value(self, payload: bytes) -> bytes:
        request = json.loads(payload)
        name, timeout = request["name"], request["timeout"]
        deadline = time.monotonic() + timeout
        with self._change:
            while name not in self._announced:
                self._members.raise_failure()
                if time.monotonic() > deadline:
                    raise refusal(f"process 0 did not announce {name!r} within {timeout:g} s", 1)
                self._change.wait(1.0)
            return json.dumps(self._announced[name]).encode()


class Rendezvous:
    """A process's side.

    Attributes:
      run_has_begun: fates have been shared once: that process 0 does not answer means from then on that it was lost,
        and not that the user gave a wrong address.
    """

    def __init__(self, client: CoordinatorClient, num_processes: int) -> None:
        self._client, self._num_processes = client, num_processes
        self.run_has_begun = False

    def reach(self, timeout: float) -> None:
        """At the start: blocks until process 0 answers, for `timeout` seconds at most, and logs what keeps it from
        that, if it lasts. Warns of clocks that differ.

        Raises:
          UsageError: it cannot be reached, is no process 0 of this run, or refuses this process.
        """
        client = self._client
        address = f"--coordinator_address={client.address}"
        waiting = Waiting("process 0", client.address, timeout)
        while True:
            asked = time.time()
            try:
                reply = client.rpc.call("hello", client.payload(), timeout=min(timeout, _HELLO_SECONDS))
                break
            except CallError as e:
                if not (e.late or e.lost):
                    raise UsageError(f"{address}: {client.refused(e)[0]}.") from None
                waiting.note(str(e), late=e.late)
                elsewhere = client.is_chief and waiting.refused and waiting.waited > OWN_SECONDS
                if elsewhere or waiting.certificate or waiting.over:
                    words = waiting.words or str(e)
                    if elsewhere:
                        words += (
                            "; process 0 must run on the host that this address leads to: --process_id may be wrong"
                        )
                    raise UsageError(
                        f"Process 0 could not be reached at {address} within {waiting.waited:.0f} s: {words}."
                    ) from None
                time.sleep(0.1)
        ahead = (asked + time.time()) / 2 - json.loads(reply)
        if abs(ahead) > CLOCKS_SECONDS:
            logging.warning(
                "This host's clock is %.0f s %s that of process 0's host: times in logs and metrics do not compare.",
                abs(ahead),
                "ahead of" if ahead > 0 else "behind",
            )

    def gather(self, name: str, value: Any, timeout: float) -> list[Any]:
        """Collective: every process's JSON value, in order of process id; `name` is used once. Blocks until all have
        come, for `timeout` seconds at most.

        Raises:
          UsageError: at the start, somebody did not come in time or process 0 cannot be reached.
          PeerError: the same later, or another process failed or was lost.
          Preempted: another process was stopped after saving.
        """
        client = self._client
        payload = client.payload(name=name, value=value, timeout=timeout)
        begin = time.monotonic()
        try:
            reply = client.rpc.call("gather", payload, timeout=timeout + 5, wait=True)
        except CallError as e:
            if self.run_has_begun and (e.late or e.lost):
                raise client.lost(name) from None
            if e.late or e.lost:
                raise UsageError(
                    f"Process 0 could not be reached at --coordinator_address={client.address} within "
                    f"{time.monotonic() - begin:.0f} s: is it running, and is that its address and port?"
                ) from None
            text, code = client.refused(e)
            if code == ALONE:
                raise UsageError(f"--coordinator_address={client.address}: {text}.") from None
            if code != 2:
                raise of_another_process(text, code) from None
            if client.is_chief:
                time.sleep(2 * HEARTBEAT_SECONDS)  # for the others' answers to leave before this process does
            raise UsageError(
                f"The {self._num_processes} processes cannot start together: {text.rstrip('.')}."
            ) from None
        return json.loads(reply)

    def agree(self, name: str, signature: dict[str, Any], timeout: float) -> None:
        """Collective: refuses to go on unless all processes have an equal `signature`. Blocks as `gather` does.

        Raises:
          UsageError: they differ; names the fields, by process.
          PeerError, Preempted: as `gather`.
        """
        differing = differences(self.gather(name, signature, timeout))
        if differing:
            raise UsageError(f"The processes do not agree on {name}: {'; '.join(differing)}.")

    def await_value(self, name: str, timeout: float) -> Any:
        """What process 0 announces under `name`. Blocks until it has, for `timeout` seconds at most; not collective.

        Raises:
          PeerError: process 0 failed, was lost or announced nothing in time.
          Preempted: it was stopped after saving.
        """
        return self._client.ask("await", timeout + 5, name=name, timeout=timeout)


def differences(signatures: list[dict[str, Any]]) -> list[str]:
    """The fields in which the signatures of the processes (in order of their ids) differ, as text."""
    found = []
    for key in sorted(set().union(*signatures)):
        by_value: dict[str, list[int]] = {}
        for i, signature in enumerate(signatures):
            by_value.setdefault(json.dumps(signature.get(key)), []).append(i)
        if len(by_value) > 1:
            found.append(f"{key} is " + " but ".join(f"{v} on {name_processes(ids)}" for v, ids in by_value.items()))
    return found


def name_processes(ids: list[int]) -> str:
    """'process 1', 'processes 0, 2'."""
    return f"process{'es' if len(ids) > 1 else ''} {', '.join(map(str, ids))}"
