"""The staleness controller in simulated time: clock lead and staleness keep their bounds, whoever is fast."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdist.ps import largest_staleness
from jaxdist.ps.staleness import StalenessController, further_steps


@settings(max_examples=60)
@given(st.integers(2, 5), st.sampled_from([1, 2, 3, 10]), st.booleans(), st.integers(0, 2**32))
def test_clock_lead_and_staleness_keep_their_bounds(workers, bound, overlap, seed):
    """A simulation of the controller with workers of any speed: pulls are granted, pushes applied, in random order."""
    rng = random.Random(seed)  # drawing each number would cost ten times as much
    controller = StalenessController(bound)
    members = [controller.join(w, w, 0.0) for w in range(workers)]
    ahead = int(overlap)
    version, worst = 0, 0
    queue: list[list[int]] = [[] for _ in members]  # versions pulled for steps not pushed yet
    waiting = [True] * workers  # for a pull to be granted
    speed = [rng.choice([1, 1, 5, 20]) for _ in members]
    for w in range(workers):  # the first pull serves as many steps as may be under way
        if controller.may_start(members[w], ahead):
            queue[w] += [version] * (1 + ahead)
            waiting[w] = False
    for _ in range(600):
        w = rng.choices(range(workers), weights=[1 / s for s in speed])[0]
        if waiting[w]:
            if controller.may_start(members[w], ahead):
                assert controller.lead(members[w], ahead) <= bound
                queue[w].append(version)
                waiting[w] = False
        elif queue[w]:
            worst = max(worst, version - queue[w].pop(0))
            version += 1
            members[w].completed += 1
            waiting[w] = True
    assert worst <= largest_staleness(bound, workers, overlap)


def test_dssp_lets_a_fast_worker_run_until_the_slow_one_is_about_to_push():
    # Fast: a step a second, last at 10. Slow: one in 4 seconds, last at 9: next at 13, 17, ...
    assert further_steps([9.0, 10.0], [5.0, 9.0], 8) == 3
    assert further_steps([9.0, 10.0], [5.0, 9.0], 2) == 2
    assert further_steps([9.0, 10.0], [9.0, 10.0], 8) in range(9)
    assert further_steps([9.0], [5.0, 9.0], 8) == 0


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(0, 8), st.floats(1.0, 9.0))
def test_dssp_stays_inside_its_range(low, width, slowness):
    """Two workers in simulated time; the fast one's lead is above the low bound only as far as the range allows."""
    controller = StalenessController(low, low + width)
    fast, slow = controller.join(0, 0, 0.0), controller.join(1, 1, 0.0)
    ends = {0: 1.0, 1: slowness}
    leads = []
    for _ in range(200):
        w = min(ends, key=lambda k: ends[k])
        now, member = ends[w], (fast, slow)[w]
        controller.pushed(member, now)
        ends[w] = float("inf")
        for other, m, pace in ((0, fast, 1.0), (1, slow, slowness)):
            if ends[other] == float("inf") and controller.may_start(m, 0):
                leads.append(controller.lead(m, 0))
                ends[other] = now + pace
    assert max(leads) <= low + width
