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
