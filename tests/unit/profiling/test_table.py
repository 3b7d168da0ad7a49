"""The rows of made-up traces, whose times are known to the microsecond."""

import numpy as np
import pytest

from jaxdist.profiling.table import EXECUTOR, IDLE, NOT_ATTRIBUTED, UNKNOWN, make_table
from jaxdist.profiling.trace import Intervals, Operation, Trace
from jaxdist.runtime import profiler
from jaxdist.runtime.program import Program

PROGRAM = Program(
    """HloModule step

%body (x: f32[8,8]) -> f32[8,8] {
  %x = f32[8,8]{1,0} parameter(0)
  ROOT %dot = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}, metadata={op_name="f/jvp(head)/Head/dense/dot_general"}
}

ENTRY %main (x: f32[8,8]) -> f32[8,8] {
  %x.1 = f32[8,8]{1,0} parameter(0)
  %conv = f32[8,8]{1,0} convolution(%x.1, %x.1), window={size=1}, dim_labels=b0f_0io->b0f, metadata={op_name="f/jvp(stem)/Stem/conv/convolution forward/conv"}
  %loop = f32[8,8]{1,0} call(%conv), to_apply=%body, metadata={op_name="f/jvp(head)/Head/dense/dot_general"}
  ROOT %all-reduce = f32[8,8]{1,0} all-reduce(%loop), metadata={op_name="f/psum"}
}
"""  # noqa: E501
)
TRAINING, NETWORK = 1, 2


def intervals(*rows, thread=0):
    """(what, start, end, thread) each, in milliseconds."""
    rows = [(*row, thread)[:4] for row in rows]
    times = np.array([row[1:3] for row in rows], float).reshape(-1, 2) / 1e3
    return Intervals(times[:, 0], times[:, 1], [row[0] for row in rows], [row[3] for row in rows])


def operations(*rows):
    return intervals(*((Operation(7, name, 0), start, end) for name, start, end in rows))


def table(ops=(), spans=(), runtime=(), training_thread=TRAINING, steps=2, **more):
    trace = Trace(operations(*ops), intervals(*spans), intervals(), intervals(*runtime), 0, 1000.0)
    options = {"begin": 0.0, "end": 0.1, "blocks": frozenset({"stem", "head"})} | more
    return make_table(trace, {7: PROGRAM}, steps=steps, training_thread=training_thread, **options)


def ms(found, kind):
    return sum(row.self_ms for row in found.rows if row.kind == kind)


def test_operations_come_before_what_the_training_thread_waits_for():
    found = table(
        ops=[("conv", 0, 20), ("loop", 20, 40), ("dot", 25, 35), ("all-reduce", 40, 50)],
        spans=[(profiler.DATA_WAIT, 45, 70, TRAINING), (profiler.DEVICE_WAIT, 70, 90, TRAINING)],
        runtime=[("ThunkExecutor", 0, 72)],
    )
    assert found.step_ms == pytest.approx(50)
    assert ms(found, "convolution forward") == pytest.approx(10)
    assert ms(found, "matrix product") == pytest.approx(10)  # its loop's own 10 ms, too
    assert ms(found, "all-reduce") == pytest.approx(5)
    assert ms(found, profiler.DATA_WAIT) == pytest.approx(10)  # 50..70
    assert ms(found, EXECUTOR) == pytest.approx(1)  # 70..72
    assert ms(found, profiler.DEVICE_WAIT) == pytest.approx(9)
    assert ms(found, NOT_ATTRIBUTED) == pytest.approx(5)
    assert sum(row.self_ms for row in found.rows) == pytest.approx(50)
    assert sum(row.share for row in found.rows) == pytest.approx(1)
    wall = {row.kind: row.wall_ms for row in found.rows}
    assert wall[profiler.DATA_WAIT] == pytest.approx(12.5) and wall[EXECUTOR] == pytest.approx(36)
    assert found.collectives == [("all-reduce", 0, 1000.04, 1000.05)]


def test_what_other_threads_do_counts_where_the_training_thread_waits():
    found = table(
        spans=[
            (profiler.SERVER_WAIT, 0, 60, TRAINING),
            (profiler.PUSH, 10, 30, NETWORK),
            (profiler.PREPROCESS, 0, 100, NETWORK),
            (profiler.LOGGING, 60, 100, TRAINING),
            (profiler.PULL, 50, 70, NETWORK),
        ]
    )
    assert ms(found, profiler.PUSH) == pytest.approx(10)
    assert ms(found, profiler.PULL) == pytest.approx(5)  # 50..60
    assert ms(found, profiler.SERVER_WAIT) == pytest.approx(15)
    assert ms(found, profiler.LOGGING) == pytest.approx(20)
    (hidden,) = (row for row in found.rows if row.kind == profiler.PREPROCESS)
    assert hidden.self_ms == 0 and hidden.wall_ms == pytest.approx(50)


def test_evaluations_are_no_part_of_a_step():
    found = table(
        ops=[("conv", 0, 20), ("conv", 40, 60)],
        spans=[(profiler.EVALUATION, 30, 70, TRAINING)],
    )
    assert found.step_ms == pytest.approx(30)  # of 100 ms, 60 were training
    assert ms(found, "convolution forward") == pytest.approx(10)
    assert [row.calls for row in found.rows if row.kind == "convolution forward"] == [0.5]
    assert ms(found, profiler.EVALUATION) == pytest.approx(20)


def test_a_server_waits_for_calls():
    found = table(spans=[(profiler.SERVER_UPDATE, 0, 10, 5), (profiler.SERVER_PULL, 20, 30, 6)], training_thread=None)
    assert ms(found, profiler.SERVER_UPDATE) == pytest.approx(5) and ms(found, profiler.SERVER_PULL) == pytest.approx(5)
    assert ms(found, IDLE) == pytest.approx(40)


def test_flops_and_bytes_are_those_of_all_calls_of_a_step():
    found = table(ops=[("dot", 0, 10), ("dot", 20, 30)], peak=1e6)
    (row,) = (row for row in found.rows if row.kind == "matrix product")
    assert row.gflop == pytest.approx(2 * 8**3 / 1e9)
    assert row.gflops_per_second == pytest.approx(row.gflop / 10e-3)
    assert row.share_of_peak == pytest.approx(row.gflops_per_second * 1e9 / 1e6)
    assert row.megabytes == pytest.approx(3 * 64 * 4 / 1e6)


def test_a_convolution_has_the_operations_of_its_definition():
    ops = [("conv", 0, 10), ("conv", 20, 30)]
    own = table(ops=ops).rows[0].gflop
    assert table(ops=ops, flops={"stem/conv": own * 1e9 / 8}, examples=4.0).rows[0].gflop == pytest.approx(own / 2)
    assert table(ops=ops, flops={"stem/conv": own * 1e9}, examples=4.0).rows[0].gflop == own  # a part of its channels


def test_operations_of_programs_that_are_gone_are_a_row():
    found = table(ops=[("somebody.else", 0, 10)])
    assert ms(found, UNKNOWN) == pytest.approx(5)
