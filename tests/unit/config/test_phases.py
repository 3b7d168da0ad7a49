"""A schedule's text: what it means, where its phases end, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdist.config import default_config, validate
from jaxdist.config.phases import Phase, boundaries, parse
from jaxdist.errors import UsageError

KEYS = list(default_config().strategy)


def test_a_schedule_with_options():
    text = "allreduce:0.25, parameter_server(max_staleness=3, overlap=True):0.5, allreduce(spmd=jit)"
    assert parse(text, KEYS) == (
        Phase("allreduce", {}, 0.25),
        Phase("parameter_server", {"max_staleness": 3, "overlap": True}, 0.5),
        Phase("allreduce", {"spmd": "jit"}, None),
    )
    assert boundaries(parse(text, KEYS), 40) == [10, 30, 40]


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6), st.integers(1, 10**6))
def test_boundaries_rise_to_the_end_of_the_run(parts, updates):
    fractions = [p / max(sum(parts), 1.0) for p in parts]
    text = ",".join(f"allreduce:{f!r}" for f in fractions) + ",parameter_server"
    ends = boundaries(parse(text, KEYS), updates)
    assert len(ends) == len(parts) + 1 and ends == sorted(ends) and ends[-1] == updates
    assert all(abs(end - sum(fractions[: k + 1]) * updates) <= 1 for k, end in enumerate(ends[:-1]))


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("", "is empty"),
        ("allreduce:0.7,parameter_server:0.6", r"0\.7 \+ 0\.6 = 1\.3, more than the whole run"),
        ("allreduce:0.7,parameter_server:0.2", r"nothing is said of the remaining 0\.1"),
        ("allreduce,parameter_server", "does not say how long 'allreduce' is"),
        ("allreduce:half,parameter_server", "'half'.*is not a number"),
        ("allreduce:1.5", "must be from 0 to 1"),
        ("allreduce:0.5:0.5", "cannot be read"),
        ("allreduce:0.5,parameter_server(max_stale=3)", "max_stale=3.*nearest: 'max_staleness'"),
        ("allreduce:0.5,parameter_server(max_staleness=-3)", "max_staleness=-3 must be -1"),
        ("allreduce:0.5,parameter_server(schedule=x)", "is not a key"),
        ("allreduce(spmd=jitt):0.5,parameter_server", "nearest: 'jit'"),
        ("allreduce:0.5,switch", "'switch' cannot be a phase"),
        ("allreduce:0.5,parameter_sever", "cannot be a phase; nearest: 'parameter_server'"),
        ("allreduce(max_staleness=0):0.5,allreduce", "max_staleness means nothing to allreduce"),
    ],
)
def test_schedules_that_are_refused(schedule, words):
    config = default_config()
    config.strategy.update({"name": "switch", "schedule": schedule})
    with pytest.raises(UsageError, match=words):
        validate(config)


def test_a_schedule_without_switch_is_refused():
    config = default_config()
    config.strategy.schedule = "allreduce:0.5,parameter_server"
    with pytest.raises(UsageError, match=r"means nothing to strategy.name='allreduce': use strategy.name='switch'"):
        validate(config)
