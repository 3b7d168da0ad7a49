"""Server 0's decisions without servers: what is accepted, in which order, and what a snapshot keeps of it.

Also of `ps/first_round.py`, which says when rounds begin, and of `ps/tally.py`, which counts.
"""

from __future__ import annotations

import json
import threading

import pytest

from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.errors import Ended, Fenced
from jaxdist.ps.first_round import FirstRound
from jaxdist.ps.run_settings import Settings
from jaxdist.ps.sequencer import Sequencer


def settings_of(bound: int, workers: int = 2, **changes) -> Settings:
    return Settings(bound, workers, share=1, total_examples=8, updates=0, examples_seen=0, pending=[], **changes)


class Sequenced:
    """A sequencer and the operations that it has emitted; the lock is never contended here."""

    def __init__(self, bound: int = -1, restored=None, **changes) -> None:
        self.operations: list[pb.Operation] = []
        settings = settings_of(bound, **changes)
        self.sequencer = Sequencer(settings, self.operations.append, threading.Condition(), restored)

    def __enter__(self) -> Sequenced:
        self.sequencer.changed.acquire()
        return self

    def __exit__(self, *_) -> None:
        self.sequencer.changed.release()

    def updates(self) -> list[tuple[int, list[int]]]:
        return [(o.version, list(o.claims)) for o in self.operations if o.kind == pb.Operation.UPDATE]


def test_a_push_is_taken_into_the_order_once():
    with Sequenced() as made:
        member = made.sequencer.join(0)
        claim = made.sequencer.claim(member, 0)
        assert made.sequencer.claim(member, 0) == claim, "the same request gets the same claim"
        for _ in range(3):
            made.sequencer.accept(member, claim.number, pb.Commit(pulled_version=0, sums=[1.0]))
            assert made.sequencer.outcome(claim.number) == pb.PushReply(version=1, staleness=0)
        assert made.updates() == [(1, [claim.number])]
        assert made.sequencer.progress() == pb.Progress(version=1, examples_seen=1, sums=[1.0])


def test_a_round_is_one_update_of_all_its_claims():
    with Sequenced(bound=0) as made:
        first = made.sequencer.join(0)
        assert made.sequencer.claim(first, 0) is None, "it waits for all workers"
        second = made.sequencer.join(1)
        claims = [made.sequencer.claim(m, 0) for m in (first, second)]
        made.sequencer.accept(second, claims[1].number, pb.Commit())
        assert made.sequencer.outcome(claims[1].number) is None and not made.operations
        made.sequencer.accept(first, claims[0].number, pb.Commit())
        assert made.updates() == [(1, [c.number for c in claims])]


def test_a_round_goes_on_without_a_worker_that_leaves():
    with Sequenced(bound=0) as made:
        first, second = made.sequencer.join(0), made.sequencer.join(1)
        mine, theirs = made.sequencer.claim(first, 0), made.sequencer.claim(second, 0)
        made.sequencer.accept(first, mine.number, pb.Commit())
        made.sequencer.leave(second, '{"seconds": 3}')
        assert made.updates() == [(1, [mine.number])]
        assert made.sequencer.report()["live"] == [0] and made.sequencer.report()["reports"] == {"1": {"seconds": 3}}
        assert made.sequencer.claim(first, 1).ranges == theirs.ranges, "its examples are handed out again"


def test_a_session_that_is_over_is_refused():
    with Sequenced() as made:
        before = made.sequencer.join(1)
        claim = made.sequencer.claim(before, 0)
        after = made.sequencer.join(1)
        with pytest.raises(Fenced, match=f"session {before.session} is over"):
            made.sequencer.member(before.session)
        with pytest.raises(Fenced, match=f"claim {claim.number} is not of session"):
            made.sequencer.accept(after, claim.number, pb.Commit())
        noted = [json.loads(e) for e in made.sequencer.tally.events]
        assert [(e["event"], e["worker"]) for e in noted] == [("worker_lost", 1), ("worker_joined_again", 1)]
        assert noted[0]["why"] == "it joined again" and noted[0]["examples_given_back"] == 1
        assert made.sequencer.report()["counted"][1]["refused"] == 1
        with pytest.raises(ValueError, match=r"has the number 2, but the run was started for 2 \(0 to 1\)"):
            made.sequencer.join(2)


def test_after_the_end_everybody_is_told():
    with Sequenced() as made:
        member = made.sequencer.join(0)
        made.sequencer.end(75, "saved")
        made.sequencer.end(1, "too late")
        for call in (lambda: made.sequencer.member(member.session), lambda: made.sequencer.join(1)):
            with pytest.raises(Ended, match="saved") as caught:
                call()
            assert caught.value.code == 75


def test_a_snapshot_keeps_counts_and_gives_claims_back_under_new_numbers():
    with Sequenced() as made:
        member = made.sequencer.join(0)
        claims = [made.sequencer.claim(member, k) for k in range(3)]
        made.sequencer.accept(member, claims[1].number, pb.Commit(sums=[2.5, 1.0, 1.0]))
        made.sequencer.note("worth_a_row", why="a test")
        record = json.loads(json.dumps(made.sequencer.snapshot_record()))
    with Sequenced(restored=Sequencer.beyond(record)) as again:
        assert again.sequencer.progress() == made.sequencer.progress()
        assert again.sequencer.report()["counted"] == made.sequencer.report()["counted"]
        assert again.sequencer.tally.events == made.sequencer.tally.events
        member_again = again.sequencer.join(0)
        assert member_again.session > member.session + 10**5
        taken = [again.sequencer.claim(member_again, k) for k in range(2)]
        assert [c.ranges for c in taken] == [claims[0].ranges, claims[2].ranges]
        assert min(c.number for c in taken) > claims[-1].number + 10**8


def test_evaluations_are_noted_once_and_are_not_part_of_a_snapshot():
    with Sequenced() as made:
        for _ in range(2):
            made.sequencer.tally.note_evaluation('{"accuracy": 0.5}')
        assert made.sequencer.tally.evaluations == ['{"accuracy": 0.5}']
        assert "evaluations" not in made.sequencer.snapshot_record()


def test_rounds_begin_with_all_workers_or_after_a_lease_with_those_that_have_come_back():
    fresh = FirstRound(settings_of(0, lease_seconds=0.0), restored=False)
    fresh.joined({0})
    assert not fresh.may_begin()
    fresh.joined({0, 1})
    assert fresh.may_begin()
    assert FirstRound(settings_of(0, lease_seconds=-1.0), restored=True).may_begin()
    assert not FirstRound(settings_of(0), restored=True).may_begin()
    assert FirstRound(settings_of(3), restored=False).may_begin(), "without rounds nobody waits"


def test_who_did_not_come_is_named():
    assert FirstRound(settings_of(0, 4), restored=False).overdue({1}) == ""
    late = FirstRound(settings_of(0, 4, connect_seconds=-1.0), restored=False)
    assert late.overdue({1}) == "worker 0, 2, 3 of 4 did not come within -1 s"


def test_who_is_waited_for_how_long():
    """A worker for its lease, where others can go on without it; not at bound 0, nor the chief."""
    settings = settings_of(2, lease_seconds=3.0, timeout_seconds=20.0)
    assert [settings.patience(worker) for worker in (0, 1)] == [20.0, 3.0]
    settings = settings_of(0, lease_seconds=3.0, timeout_seconds=20.0)
    assert [settings.patience(worker) for worker in (0, 1)] == [20.0, 20.0]
    settings = settings_of(0, lease_seconds=30.0, timeout_seconds=20.0)
    assert [settings.patience(worker) for worker in (0, 1)] == [30.0, 30.0]


def test_who_joins_again_because_the_answer_was_lost_keeps_its_part_of_the_first_round():
    with Sequenced(bound=0) as made:
        first, second = made.sequencer.join(0, "process 7 on a"), made.sequencer.join(1, "process 8 on b")
        claim = made.sequencer.claim(first, 0)  # the round has a part for each
        assert made.sequencer.join(1, "process 8 on b") is second
        assert made.sequencer.member(second.session) is second  # it has the answer
        other = made.sequencer.claim(second, 0)
        for member, one in ((first, claim), (second, other)):
            made.sequencer.accept(member, one.number, pb.Commit(pulled_version=0, sums=[1.0]))
        assert made.updates() == [(1, [claim.number, other.number])]
        assert made.sequencer.join(1, "process 8 on b") is not second, "its session was over"
