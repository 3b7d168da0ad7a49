"""The queue of operations: applied in their order, each once. From server to server: `ps/replication.py`."""

from __future__ import annotations

from unittest import mock

import pytest
from helpers.servers import LAYOUT, SIGNATURE

from jaxdist.comm.security import OPEN
from jaxdist.optim import optimizers
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.errors import Ended, Fenced, NotNow
from jaxdist.ps.operations import Operations
from jaxdist.ps.server_state import ServerState
from jaxdist.ps.shard import Shard
from jaxdist.ps.squared_norms import SquaredNorms


@pytest.fixture
def state(tmp_path):
    made = ServerState(1, ["a:1", "b:2"], optimizers.build("sgd"), SIGNATURE, tmp_path)
    yield made
    made.writer.shutdown()


def pin(name: str) -> pb.Operation:
    return pb.Operation(kind=pb.Operation.PIN, pin=name)


def test_operations_that_come_twice_are_applied_once_and_gaps_are_refused(state):
    state.shard = mock.Mock()
    operations = Operations(state, (), lambda version: None, SquaredNorms(state, OPEN))
    with state.changed:
        operations.receive(0, [pin("a"), pin("b")])
        operations.receive(1, [pin("b"), pin("c")])  # sent again, with one more
        operations.receive(0, [pin("a")])
        with pytest.raises(Fenced, match="operations 3 to 5 are missing"):
            operations.receive(5, [pin("f")])
    operations.drain()
    assert [call.args for call in state.shard.pin.call_args_list] == [("a",), ("b",), ("c",)]


def test_an_operation_that_fails_ends_the_server(state):
    state.shard = mock.Mock(pin=mock.Mock(side_effect=RuntimeError("out of memory")))
    operations = Operations(state, (), lambda version: None, SquaredNorms(state, OPEN))
    with state.changed:
        operations.receive(0, [pin("a")])
    operations.drain()
    assert state.ended.code == 1 and state.ended.text == "server 1 failed: RuntimeError: out of memory"


def test_callers_are_checked_against_the_run(state):
    """Of `ps/server_state.py`."""
    caller = pb.Caller(run="a run", incarnation=1)
    with pytest.raises(NotNow, match="no run has begun"):
        state.check_caller(caller)
    with pytest.raises(Fenced, match="this server has no values"):
        state.loaded_shard()
    state.run, state.incarnation, state.shard = "a run", 1, Shard(LAYOUT, 1, 2, state.rule)
    state.check_caller(caller)
    assert state.loaded_shard() is state.shard
    with pytest.raises(ValueError, match="this is server 1; server 0 answers that"):
        state.ready()
    state.incarnation = 2
    with pytest.raises(Fenced, match="incarnation 1 is over; this is 2"):
        state.check_caller(caller)
    state.rolling = True
    with pytest.raises(NotNow, match="go back to a snapshot"):
        state.check_caller(caller)
    with state.changed:
        state.finish(75, "saved")
        state.finish(1, "too late")
    with pytest.raises(Ended, match="saved"):
        state.check_caller(caller)
