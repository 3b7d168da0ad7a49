"""What server 0 knows and decides: who takes part, who may start, what is applied and in which order.

    worker                          server 0                                  every shard, in this order
    Push (gradient) ----> stage     accept: known session? new claim?
    commit          ----> accept -> version 7, staleness 1     ----->         7: UPDATE claim 31
    Pull            <---- may_start, and version 7 applied     ----->         7: PIN 'chief'  ...

One lock, no I/O: every method is called with the lock and returns at once. Who waits, waits on `changed`.
"""

from __future__ import annotations

import collections
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.claims import Claim, ClaimTable
from jaxdist.ps.errors import Ended, Fenced
from jaxdist.ps.first_round import FirstRound
from jaxdist.ps.places import Places
from jaxdist.ps.run_settings import Settings
from jaxdist.ps.staleness import Member, StalenessController
from jaxdist.ps.tally import Counted, Tally
from jaxdist.state import Position
from jaxdist.state.position import bounds


class Sequencer:
    """The one order of a run.

    Args:
      emit: called, under the lock, with each operation that all shards are to apply.
      changed: the lock, notified whenever somebody may have waited for what happened.
      restored: what `snapshot_record` returned, for a run that goes on from a snapshot.
    """

    def __init__(
        self,
        settings: Settings,
        emit: Callable[[pb.Operation], None],
        changed: threading.Condition,
        restored: dict[str, Any] | None = None,
    ) -> None:
        self.settings = settings
        self.changed = changed
        self._emit = emit
        self._begun = time.monotonic()
        record = restored or {}
        start = Position(settings.examples_seen, tuple((a, b) for a, b in settings.pending))
        if restored:
            start = Position(record["examples_seen"], tuple((a, b) for a, b in record["pending"]))
        self.version: int = record.get("version", settings.updates)
        self.tally = Tally(record)
        self._next_session: int = record.get("next_session", 1)
        in_rounds = settings.max_staleness == 0
        first, parts = record.get("next_claim", 1), settings.data_parts
        self.claim_table = ClaimTable(start, settings.total_examples, settings.share, in_rounds, first, parts)
        self.controller = StalenessController(settings.max_staleness, settings.staleness_high)
        self._sessions: dict[int, Member] = {}
        self._places = Places()
        self._accepted: collections.OrderedDict[int, pb.PushReply | None] = collections.OrderedDict()
        self._round: dict[int, tuple[Claim, pb.Commit]] = {}  # pushed, and waiting for the rest of the round
        self._first_round = FirstRound(settings, restored is not None)
        self._looked = time.monotonic()
        self._evaluator_heard = 0.0
        self.ended: Ended | None = None

    # Everything below is called with `changed` held.

    def progress(self) -> pb.Progress:
        return pb.Progress(version=self.version, examples_seen=self.claim_table.applied, sums=self.tally.sums)

    def note(self, event: str, **fields: Any) -> None:
        """Remembers something worth a row."""
        self.tally.note(event, self.version, **fields)

    def end(self, code: int, text: str) -> None:
        """Ends the run, once: every caller gets to know it, and the monitor ends the servers."""
        if self.ended is None:
            self.ended = Ended(code, text)
        self.changed.notify_all()

    def join(self, worker: int, process: str = "") -> Member | None:
        """A new session of a process; an earlier one of the worker is over. None for an evaluator (worker -1). The same
        again where a process asks again that has not called with it.

        Raises:
          Ended: the run is over.
          ValueError: there is no such worker in this run, or another process has taken this one's place.
        """
        self._check_alive()
        if worker < 0:
            self._evaluator_heard = time.monotonic()
            return None
        n = self.settings.num_workers
        if worker >= n:
            raise ValueError(f"a worker has the number {worker}, but the run was started for {n} (0 to {n - 1})")
        self._places.take(worker, process)
        before = self.controller.members.get(worker)
        if before is not None and before.process == process != "" and not before.used:
            return before  # the answer was lost: to drop it now would give back its part of the first round
        if before is not None:
            self._drop(before, "it joined again")
        member = self.controller.join(worker, self._next_session, time.monotonic(), process)
        self._sessions[member.session] = member
        self._next_session += 1
        if worker in self.tally.counted:
            self.note("worker_joined_again", worker=worker)
        self.tally.counted.setdefault(worker, Counted())
        self._first_round.joined(self.controller.members)
        self.changed.notify_all()
        return member

    def member(self, session: int) -> Member:
        """The live member of a session; a sign of life.

        Raises:
          Ended: the run is over.
          Fenced: the session is over.
        """
        self._check_alive()
        member = self._sessions.get(session)
        if member is None:
            raise Fenced(f"session {session} is over: its lease ended, or the servers have gone back to a snapshot")
        member.heard, member.used = time.monotonic(), True
        return member

    def evaluator_heartbeat(self) -> None:
        """A sign of life of the evaluator.

        Raises:
          Ended: the run is over.
        """
        self._check_alive()
        self._evaluator_heard = time.monotonic()

    @property
    def chief_lives(self) -> bool:
        """Whether the run goes on, as far as is known."""
        chief = self.controller.members.get(0)
        alive = chief is not None and time.monotonic() - chief.heard < self.settings.lease_seconds
        return self.ended is None and alive

    @property
    def has_evaluator(self) -> bool:
        return time.monotonic() - self._evaluator_heard < self.settings.lease_seconds and self._evaluator_heard > 0

    def _check_alive(self) -> None:
        if self.ended is not None:
            raise self.ended

    def claim(self, member: Member, number: int) -> Claim | None:
        """The claim of a session's request `number`; the same request again gets the same. None: nothing now."""
        known = member.claims.get(number)
        if known is not None:
            return self.claim_table.outstanding.get(known)
        if not self._first_round.may_begin():
            overdue = self._first_round.overdue(self.controller.members)
            if overdue:
                self.end(2, overdue)
            return None
        live = {w: m.session for w, m in self.controller.members.items()}
        claim = self.claim_table.take(member.worker, member.session, live)
        if claim is None:
            starved = not self.claim_table.has_outstanding(member.session)
            if starved != member.starved:
                member.starved = starved
                self.changed.notify_all()
            return None
        if member.starved:
            member.starved = False
            self.controller.level(member)
        member.claims = {number: claim.number} | {n: c for n, c in member.claims.items() if n > number - 4}
        return claim

    @staticmethod
    def beyond(record: dict[str, Any]) -> dict[str, Any]:
        """`snapshot_record` for a new incarnation: with numbers that no session and no claim of before can have."""
        beyond = {"next_session": record["next_session"] + 10**6, "next_claim": record["next_claim"] + 10**9}
        return record | beyond

    def close(self, member: Member) -> None:
        """Hands out no more examples, and takes back those of the caller; what others have may still be pushed."""
        self.claim_table.close()
        self._forget_claims(member)
        self._complete_rounds()
        self.changed.notify_all()

    def accept(self, member: Member, number: int, commit: pb.Commit) -> None:
        """Takes a push into the order, once; `outcome` returns what became of it.

        Raises:
          Fenced: the claim is no longer this session's.
        """
        if number in self._accepted:
            return
        claim = self.claim_table.outstanding.get(number)
        if claim is None or claim.session != member.session:
            self.tally.counted[member.worker].refused += 1
            raise Fenced(f"claim {number} is not of session {member.session} any more")
        if commit.pulled_version > self.version or (
            self.settings.max_staleness == 0 and commit.pulled_version != self.version and not commit.skip
        ):
            self.tally.counted[member.worker].refused += 1
            raise Fenced(f"a gradient taken at version {commit.pulled_version} does not fit version {self.version}")
        if commit.skip:
            self.tally.counted[member.worker].not_finite += 1
            if self.tally.counted[member.worker].not_finite <= 100:  # the summary has the number
                self.note("not_finite", worker=member.worker, examples_passed_over=self.settings.share)
        if self.settings.max_staleness == 0:
            self._accepted[number] = None
            self._round[number] = (claim, commit)
            self._complete_rounds()
        else:
            staleness = self.version - commit.pulled_version
            self._apply([(claim, commit)], staleness, 1.0 / (1 + max(staleness, 0)))
        while len(self._accepted) > 4096:
            self._accepted.popitem(last=False)
        self.changed.notify_all()

    def _complete_rounds(self) -> None:
        while self._round:
            expected = self.claim_table.members_of(self.claim_table.lowest_round)
            if any(c.number not in self._round for c in expected):
                return
            self._apply([self._round.pop(c.number) for c in expected], 0, 1.0)

    def _apply(self, pushes: list[tuple[Claim, pb.Commit]], staleness: int, stats_weight: float) -> None:
        """One update: the next version, on all shards. Without a gradient among the pushes there is none."""
        gradients = [(claim, commit) for claim, commit in pushes if not commit.skip]
        self.version += bool(gradients)
        for claim, commit in pushes:
            self.claim_table.retire(claim.number)
            self.tally.add(claim.worker, commit, staleness)
            self._accepted[claim.number] = pb.PushReply(version=self.version, staleness=staleness)
            member = self._sessions.get(claim.session)
            if member is not None:
                self.controller.pushed(member, time.monotonic())
        if gradients:
            self._emit(
                pb.Operation(
                    kind=pb.Operation.UPDATE,
                    version=self.version,
                    claims=[claim.number for claim, _ in gradients],
                    learning_rate=gradients[0][1].learning_rate,
                    stats_weight=stats_weight,
                    momentum_cut=gradients[0][1].momentum_cut,
                    clip_global_norm=self.settings.clip_global_norm,
                    part=len(gradients) / self.settings.num_workers,
                )
            )
        self.changed.notify_all()

    def outcome(self, number: int) -> pb.PushReply | None:
        """The reply to an accepted push, or None while its round is not complete."""
        return self._accepted.get(number)

    def may_start(self, member: Member, pulling: pb.Pulling) -> int | None:
        """The clock lead of the step that a worker wants to start, or None: it must wait."""
        if self.settings.max_staleness == 0:
            claim = self.claim_table.outstanding.get(pulling.claim)
            ready = claim is None or claim.round <= self.claim_table.lowest_round
            return 0 if ready else None
        if not self.controller.may_start(member, pulling.ahead):
            return None
        lead = self.controller.lead(member, pulling.ahead)
        counted = self.tally.counted[member.worker]
        counted.clock_lead_max = max(counted.clock_lead_max, lead)
        return lead

    def set_away(self, member: Member, away: bool) -> None:
        """Nobody waits for a worker that is away; at bound 0 everybody does."""
        if away == member.away:
            return
        member.away = away
        if not away:
            self.controller.level(member)
        self.changed.notify_all()

    def pin(self, name: str, unpin: bool) -> pb.PinReply:
        """Has all shards keep the present version for a reader, or (`unpin`) keep it no longer."""
        kind = pb.Operation.UNPIN if unpin else pb.Operation.PIN
        self._emit(pb.Operation(kind=kind, version=self.version, pin=name))
        reply = pb.PinReply(progress=self.progress(), pending=bounds(self.claim_table.position.pending))
        self.changed.notify_all()
        return reply

    def leave(self, member: Member, report: str) -> None:
        """A worker goes in good order."""
        self.tally.reports[str(member.worker)] = json.loads(report or "null")
        self._drop(member, "")

    def drop_silent(self) -> None:
        """Ends the sessions whose lease is over; without the chief the run ends."""
        if self.ended is not None:
            return
        now = time.monotonic()
        if now - self._looked > max(self.settings.lease_seconds / 2, 2.0):  # this server itself stood still
            for member in self.controller.members.values():
                member.heard = now
        self._looked = now
        for member in self.controller.silent(now, self.settings.patience):
            why = f"nothing was heard of it for {self.settings.patience(member.worker):g} s"
            if member.worker == 0:
                self.end(1, f"worker 0 (the chief) was lost: {why}; start the run again to go on from its checkpoint")
            self._drop(member, why)
        chief_due = self._begun + self.settings.connect_seconds
        if 0 not in self.controller.members and "0" not in self.tally.reports and now > chief_due:
            self.end(1, f"worker 0 (the chief) did not come back within {self.settings.connect_seconds:g} s")

    def _drop(self, member: Member, why: str) -> None:
        """Ends a session: its claims are handed out again, and what it pushed for an open round is forgotten."""
        self.controller.members.pop(member.worker, None)
        self._sessions.pop(member.session, None)
        given_back = self._forget_claims(member)
        if why:
            self.note("worker_lost", worker=member.worker, why=why, examples_given_back=given_back)
        self._complete_rounds()
        self.changed.notify_all()

    def _forget_claims(self, member: Member) -> int:
        """Gives back what a session has claimed and not had applied; returns the number of examples."""
        numbers = self.claim_table.drop(member.session)
        for number in numbers:
            self._round.pop(number, None)
            self._accepted.pop(number, None)
        if numbers:
            self._emit(pb.Operation(kind=pb.Operation.FORGET, version=self.version, claims=numbers))
        return self.settings.share * len(numbers)

    def snapshot_record(self) -> dict[str, Any]:
        """What a server 0 that starts again needs of this moment. Claims are given back: their sessions are over."""
        position = self.claim_table.position
        return {
            "version": self.version,
            "examples_seen": position.seen,
            "pending": position.pending,
            **self.tally.record(),
            "next_session": self._next_session,
            "next_claim": self.claim_table.next_number,
        }

    def report(self) -> dict[str, Any]:
        """For the chief: who is still there, what those that left reported, and what was counted of each."""
        return {"live": sorted(self.controller.members), **self.tally.report()}
