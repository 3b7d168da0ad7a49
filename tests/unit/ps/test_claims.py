"""The claim table: every example in one claim at a time, applied exactly once."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from jaxdist.ps.claims import ClaimTable
from jaxdist.state import Position
from jaxdist.state.position import indices


@given(
    st.booleans(), st.integers(1, 4), st.integers(4, 40), st.integers(1, 4), st.integers(0, 120), st.integers(0, 2**32)
)
def test_every_example_is_applied_exactly_once_whoever_is_lost(in_rounds, share, budget, workers, actions, seed):
    """Workers take, apply, die and come back in any order: what is applied is each position once."""
    rng = random.Random(seed)  # drawing each action would cost five times as much
    table = ClaimTable(Position(), budget, share, in_rounds)
    sessions = {w: w for w in range(workers)}
    held: dict[int, list] = {s: [] for s in sessions.values()}
    applied: list[int] = []
    newest = 100
    for _ in range(actions):
        worker = rng.randrange(workers)
        session = sessions[worker]
        action = rng.choice(["take", "take", "apply", "apply", "die"])
        if action == "take" and (claim := table.take(worker, session, dict(sessions))) is not None:
            held[session].append(claim)
        if action == "apply" and held[session]:
            claim = held[session].pop(0)
            applied += list(indices(claim.ranges))
            table.retire(claim.number)
        if action == "die":
            table.drop(session)
            held[session] = []
            newest += 1
            sessions[worker] = newest
            held[newest] = []
        assert table.applied == len(applied)
    for session in list(held):
        table.drop(session)
    while (claim := table.take(0, sessions[0], {0: sessions[0]})) is not None:
        applied += list(indices(claim.ranges))
        table.retire(claim.number)
    assert sorted(applied) == list(range(budget - budget % share))
    assert table.finished


@given(
    st.booleans(), st.integers(1, 3), st.integers(1, 12), st.integers(1, 4), st.integers(0, 120), st.integers(0, 2**32)
)
def test_of_distributed_data_each_worker_takes_its_own_and_what_is_left_by_those_that_are_gone(
    in_rounds, share, rounds, workers, actions, seed
):
    rng = random.Random(seed)
    budget = rounds * share * workers
    table = ClaimTable(Position(), budget, share, in_rounds, parts=workers)
    live = {w: w for w in range(workers)}
    held: dict[int, list] = {}
    applied: list[int] = []
    newest = 100
    for _ in range(actions):
        worker = rng.randrange(workers)
        action = rng.choice(["take", "take", "take", "apply", "apply", "die", "come"])
        if action == "take" and worker in live and (claim := table.take(worker, live[worker], dict(live))) is not None:
            (one,) = claim.ranges
            owner = one[0] // share % workers
            # In rounds a slice may be allotted while its owner is gone, and taken when it is back.
            assert owner == worker or in_rounds or (owner not in live and table._of_parts({worker}) is None)
            assert one[1] - one[0] == share and one[1] <= budget
            held.setdefault(live[worker], []).append(claim)
        if action == "apply" and worker in live and held.get(live[worker]):
            claim = held[live[worker]].pop(0)
            applied += list(indices(claim.ranges))
            table.retire(claim.number)
        if action == "die" and len(live) > 1 and worker in live:
            table.drop(live[worker])
            held.pop(live.pop(worker), None)
        if action == "come" and worker not in live:
            newest += 1
            live[worker] = newest
    for session in list(live.values()):
        table.drop(session)
    for worker in sorted(live):  # the last ones take over what nobody else will
        while (claim := table.take(worker, live[worker], dict(live))) is not None:
            applied += list(indices(claim.ranges))
            table.retire(claim.number)
    assert sorted(applied) == list(range(budget))
    assert table.finished


def test_a_fast_worker_waits_for_the_others_parts_and_a_resumed_run_knows_what_is_left():
    table = ClaimTable(Position(), 12, 2, in_rounds=False, parts=3)
    live = {0: 10, 1: 11, 2: 12}
    taken = [table.take(0, 10, live).ranges for _ in range(2)]
    assert taken == [((0, 2),), ((6, 8),)] and table.take(0, 10, live) is None and not table.exhausted
    assert table.take(2, 12, live).ranges == ((4, 6),)
    for claim in list(table.outstanding):
        table.retire(claim)
    assert table.position.seen == 6 and sorted(table.position.pending) == [(2, 4)]
    again = ClaimTable(table.position, 12, 2, in_rounds=False, parts=3)
    assert again.take(1, 1, live).ranges == ((2, 4),) and again.take(0, 2, live) is None
    assert again.take(0, 2, {0: 2, 2: 3}).ranges == ((8, 10),)  # worker 1 is gone
