"""Who belongs to the run and in which state it is, as process 0 knows it: what the parts of its service share.

fate-sharing on     phase -1      a process that fails or is lost ends the run; another one with its id is refused
fate-sharing off    phase >= 0    a process that fails or is lost is missed by nobody; started again, it comes in,
                                  asks which phase is under way, and takes part in it
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Container

from jaxdist.cluster.calls import ALONE, refusal
from jaxdist.comm.rpc import Method
from jaxdist.comm.security import DENIED
from jaxdist.errors import STOPPED

GONE_SECONDS = 3.0  # within which a killed process's call is known to have ended


class Membership:
    """The shared state of the service. Read and written while holding `change`, which is notified of every change.

    Attributes:
      failure, code: why the run ends, and the exit code it is worth; '' while it is well.
      left: processes whose disappearance means nothing.
      tokens: process -> the token with which it first came; names: what it calls itself; heard: when it last called
        (`time.monotonic`).
      started: everybody has met once.
      refused: who was refused, in words, for those who wait for somebody in vain.
      phase: that is under way while fate-sharing is off, for processes that are started again; -1: it is on.
    """

    def __init__(self, num_processes: int, run: str = "") -> None:
        self.num_processes, self.run = num_processes, run
        self.change = threading.Condition()
        self.failure = ""
        self.code = 1
        self.left: set[int] = set()
        self.tokens: dict[int, str] = {}
        self.names: dict[int, str] = {}
        self.heard: dict[int, float] = {}
        self.refused: list[str] = []
        self.started = False
        self.phase = -1

    @property
    def methods(self) -> dict[str, Method]:
        return {"hello": _hello, "fail": self._fail, "leave": self._leave, "phase": self._phase_under_way}

    def admit(self, method: str, caller: str) -> str:
        """What is wrong with a call by a caller (`identity.caller`), as a `refusal`'s text; '' for nothing.

        A stranger is refused alone: nothing that it says changes anything here. Who says `hello` alone has no id yet.
        Blocks for a moment where another process has its id and may have been killed, before the start.
        """
        it = json.loads(caller or "{}")  # nothing: of another version, or no member at all
        process, token, name = it.get("process", -1), it.get("token", ""), it.get("name", "a process without a name")
        with self.change:
            if (theirs := it.get("run", "none")) != self.run:
                problem = (
                    f"another run is served there: {self.run}, and this process belongs to {theirs}. Two jobs use one "
                    "port: give this one another; or, where both are one run, the same --run_id"
                )
            elif not 0 <= process < self.num_processes:
                problem = f"a process has the id {process}, but ids run from 0 to {self.num_processes - 1}"
            elif method == "hello":
                return ""
            elif self.tokens.get(process, token) == token or self._has_gone(process):
                self.tokens[process], self.names[process], self.heard[process] = token, name, time.monotonic()
                return ""
            else:
                problem = f"--process_id={process} is taken by {self.names[process]}; {name} has it, too"
            self._note_refused(f"{name} was refused, with --process_id={process}")
        return refusal(problem, ALONE).args[0]

    def note_denied(self, host: str) -> None:
        """Somebody called from there without the token."""
        with self.change:
            self._note_refused(f"a process at {host} was refused: {DENIED}")

    def _note_refused(self, words: str) -> None:
        if words not in self.refused:
            self.refused.append(words)

    def _has_gone(self, process: int) -> bool:
        """Whether the process that had this id does not need it any more."""
        if self.started:
            return self.phase >= 0 and process in self.left  # and fate-sharing is off
        return self.change.wait_for(lambda: process not in self.tokens, GONE_SECONDS)

    def absent(self, present: Container[int]) -> str:
        """What is known of those that are not among `present`: 'process 2: never heard of'. Hold `change`."""
        now, known = time.monotonic(), []
        for i in (i for i in range(self.num_processes) if i not in present):
            heard = (
                f"{self.names[i]}, last heard of {now - self.heard[i]:.0f} s ago"
                if i in self.names
                else "never heard of"
            )
            known.append(f"process {i}: {heard}")
        return "; ".join(known)

    def withdraw(self, process: int) -> None:
        """A process was killed before the start: another may come in its place. Hold `change`."""
        if not self.started:
            self.tokens.pop(process, None)
            self.change.notify_all()

    def set_failure(self, text: str, code: int = 1) -> None:
        """The run ends for this reason, unless it already does for another. Hold `change`."""
        if not self.failure:
            self.failure, self.code = text, code
        self.change.notify_all()

    def raise_failure(self) -> None:
        """Refuses a caller once the run has failed. Hold `change`."""
        if self.failure:
            raise refusal(self.failure, self.code)

    def announce_phase(self, phase: int) -> None:
        """What processes that are started again are answered; -1: fate-sharing is on, there is no coming back."""
        with self.change:
            self.phase = phase
            if phase >= 0:  # all have met for it; what becomes of one of them is its own affair now
                self.left, self.failure = set(range(self.num_processes)), ""

    def wait_until_all_left(self, seconds: float) -> None:
        """Blocks for `seconds` at most, and not after a failure."""
        deadline = time.monotonic() + seconds
        with self.change:
            while len(self.left) < self.num_processes and not self.failure and time.monotonic() < deadline:
                self.change.wait(0.2)

    def _fail(self, payload: bytes) -> bytes:
        request = json.loads(payload)
        process = request["process"]
        with self.change:
            self.left.add(process)
            if self.phase < 0 or process == 0:  # else fate-sharing is off
                how = "was stopped" if request["code"] in STOPPED else "failed"
                self.set_failure(f"process {process} {how}: {request['text']}", request["code"])
        return b""

    def _leave(self, payload: bytes) -> bytes:
        with self.change:
            self.left.add(json.loads(payload)["process"])
            self.change.notify_all()
        return b""

    def _phase_under_way(self, payload: bytes) -> bytes:
        with self.change:
            return json.dumps(self.phase).encode()


def _hello(payload: bytes) -> bytes:
    """Process 0 is there, and what its clock says: seconds since 1970."""
    return json.dumps(time.time()).encode()
