"""Pipeline schedules: drawn tables, and properties of all sizes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdist.parallel import schedules
from jaxdist.parallel.schedules import SCHEDULES, Action, bubble, draw, most_in_flight, predicted_bubble, simulate

GPIPE_3_4 = """\
stage 0   F0 F1 F2 F3 .  .  .  .  B3 B2 B1 B0
stage 1   .  F0 F1 F2 F3 .  .  B3 B2 B1 B0 .
stage 2   .  .  F0 F1 F2 F3 B3 B2 B1 B0 .  ."""

ONE_F_ONE_B_3_4 = """\
stage 0   F0 F1 F2 .  .  B0 F3 B1 .  B2 .  B3
stage 1   .  F0 F1 .  B0 F2 B1 F3 B2 .  B3 .
stage 2   .  .  F0 B0 F1 B1 F2 B2 F3 B3 .  ."""

sizes = {"num_stages": st.integers(1, 6), "num_microbatches": st.integers(1, 9)}
names = st.sampled_from(sorted(SCHEDULES))


@pytest.mark.parametrize(("name", "table"), [("gpipe", GPIPE_3_4), ("1f1b", ONE_F_ONE_B_3_4)])
def test_tables(name, table):
    assert draw(SCHEDULES[name](3, 4)) == table
    assert all(line in schedules.__doc__ for line in table.splitlines())


@given(name=names, **sizes)
def test_every_stage_does_everything_once(name, num_stages, num_microbatches):
    everything = {Action(kind, m) for kind in "FB" for m in range(num_microbatches)}
    for actions in SCHEDULES[name](num_stages, num_microbatches):
        assert len(actions) == len(everything) and set(actions) == everything
        for m in range(num_microbatches):
            assert actions.index(Action("F", m)) < actions.index(Action("B", m))


@given(name=names, ratio=st.floats(0.5, 4), **sizes)
def test_equal_stages_idle_as_the_paper_says(name, ratio, num_stages, num_microbatches):
    spans = simulate(SCHEDULES[name](num_stages, num_microbatches), [1.0] * num_stages, [ratio] * num_stages)
    assert predicted_bubble(spans) == pytest.approx(bubble(num_stages, num_microbatches))


@given(**sizes)
def test_activations_kept(num_stages, num_microbatches):
    assert most_in_flight(SCHEDULES["gpipe"](num_stages, num_microbatches)) == [num_microbatches] * num_stages
    kept = most_in_flight(SCHEDULES["1f1b"](num_stages, num_microbatches))
    assert kept == [min(num_stages - s, num_microbatches) for s in range(num_stages)]


@given(
    name=names,
    times=st.lists(st.tuples(st.floats(0.1, 5), st.floats(0.1, 5), st.floats(0, 2)), min_size=1, max_size=5),
    num_microbatches=st.integers(1, 6),
)
def test_nobody_starts_before_what_it_needs(name, times, num_microbatches):
    forward, backward, transfer = zip(*times, strict=True)
    spans = simulate(SCHEDULES[name](len(times), num_microbatches), forward, backward, transfer[:-1])
    ended = {(s, span.action): span.end for s, row in enumerate(spans) for span in row}
    for s, row in enumerate(spans):
        for before, after in itertools.pairwise(row):
            assert after.begin >= before.end
        for span in row:
            if span.action.kind == "F" and s > 0:
                assert span.begin >= ended[(s - 1, span.action)] + transfer[s - 1]
            if span.action.kind == "B" and s < len(times) - 1:
                assert span.begin >= ended[(s + 1, span.action)] + transfer[s]


def test_a_schedule_that_waits_for_itself():
    late = ((Action("B", 0), Action("F", 0)), (Action("F", 0), Action("B", 0)))
    with pytest.raises(ValueError, match="waits for itself"):
        simulate(late, [1.0, 1.0], [1.0, 1.0])
