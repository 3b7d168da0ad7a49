"""The norm over all servers: summed once all have said theirs, and given up where the servers go back meanwhile."""

from __future__ import annotations

import threading

import pytest
from helpers.servers import LAYOUT, SIGNATURE

from jaxdist.comm.security import OPEN
from jaxdist.optim import optimizers
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.errors import Fenced, NotNow
from jaxdist.ps.server_state import ServerState
from jaxdist.ps.squared_norms import SquaredNorms


@pytest.fixture
def first(tmp_path):
    """(state, norms) of server 0 of three, which serves a run."""
    assert LAYOUT.num_params
    state = ServerState(0, ["a:1", "b:2", "c:3"], optimizers.build("sgd"), SIGNATURE, tmp_path)
    state.run, state.incarnation = "run", 4
    yield state, SquaredNorms(state, OPEN)
    state.writer.shutdown()


def request(index: int, squares: float, **more) -> pb.SumSquaresRequest:
    return pb.SumSquaresRequest(
        **{"run": "run", "incarnation": 4, "version": 7, "index": index} | more, squares=squares
    )


def waiting(work) -> tuple[threading.Thread, list]:
    found: list = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    return thread, found


def test_all_get_the_sum_once_all_have_come(first):
    _, norms = first
    threads = [waiting(lambda: norms.total(7, 1.0)), waiting(lambda: norms.answer(request(1, 0.25)))]
    last = norms.answer(request(2, 0.5))
    for thread, _ in threads:
        thread.join(10)
    assert last.whole and last.squares == threads[0][1][0] == threads[1][1][0].squares == 1.75
    assert norms.answer(request(2, 0.5)).squares == 1.75  # asked again: the answer was lost


def test_who_comes_too_early_is_to_ask_again(first):
    _, norms = first
    assert not norms.answer(request(1, 1.0)).whole


def test_an_update_is_given_up_where_servers_go_back(first):
    state, norms = first
    thread, found = waiting(lambda: norms.total(7, 1.0))
    state.ask_rollback()  # without a word to the lock
    thread.join(10)
    assert found == [None]
    with pytest.raises(NotNow):
        norms.answer(request(1, 1.0))
    state.rollback_asked, state.incarnation = False, 5
    with pytest.raises(Fenced):
        norms.answer(request(1, 1.0))


def test_another_server_gives_up_with_the_first(tmp_path, monkeypatch):
    state = ServerState(1, ["127.0.0.1:1", "b:2"], optimizers.build("sgd"), SIGNATURE, tmp_path)
    state.run, state.incarnation = "run", 4
    norms = SquaredNorms(state, OPEN)
    thread, found = waiting(lambda: norms.total(7, 1.0))  # nobody listens there
    with state.changed:
        state.closing.set()
    thread.join(20)
    assert found == [None]
    norms.close()
    state.writer.shutdown()
