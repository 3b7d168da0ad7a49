"""Traces begin, end and leave nothing open."""

import jax
import jax.numpy as jnp
import pytest

from jaxdist.profiling.trace import count_events, read
from jaxdist.runtime import profiler


def test_a_trace_has_programs_and_spans_and_is_forgotten():
    function = jax.jit(lambda x: jnp.cos(x @ x))
    x = function(jnp.ones((32, 32)))
    assert profiler.span(profiler.PUSH) is profiler.span(None)  # nothing is traced yet
    with profiler.tracing() as trace:
        assert profiler.is_tracing()
        with profiler.span(profiler.PUSH):
            function(x).block_until_ready()
        trace.stop()
        found = read(trace.path(), frozenset({profiler.PUSH}))
        assert count_events(trace.path()) == found.num_events
        folder = trace.path().parent
    assert not profiler.is_tracing() and not folder.exists()
    assert found.spans.what == [profiler.PUSH]
    start, end = found.spans.start[0], found.spans.end[0]
    assert any(start <= one <= end for one in found.operations.start)
    assert all(found.operations.end >= found.operations.start)
    assert any("lambda" in module.name for module in profiler.programs())


def test_only_one_runs_at_a_time():
    with profiler.tracing(), pytest.raises(RuntimeError):
        profiler.Trace()
    with profiler.tracing():
        pass


def test_a_named_function_is_one_span_a_call():
    @profiler.named(profiler.PULL)
    def pull(number):
        return number + 1

    with profiler.tracing() as trace:
        assert [pull(1), pull(2)] == [2, 3]
        trace.stop()
        found = read(trace.path(), frozenset({profiler.PULL}))
    assert found.spans.what == [profiler.PULL] * 2


def test_a_trace_without_a_file_says_so():
    with profiler.tracing() as trace:
        trace.stop()
        trace.path().unlink()
        with pytest.raises(OSError, match="a million events"):
            trace.path()
