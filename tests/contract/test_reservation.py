"""Which run servers serve: reserved for one, begun by its chief, kept for its next phase, ended.

Promises of `ps/reservation.py`, `ps/served_run.py`, `ps/chief.py` and `ps/run_settings.py`.
"""

from __future__ import annotations

import time

import pytest
from helpers.servers import SIGNATURE, VALUES, Servers, push, settings_of_a_run, wait_for_snapshot
from helpers.waiting import wait_until

from jaxdist.comm.security import Security
from jaxdist.comm.waiting import Found
from jaxdist.errors import PeerError, UsageError
from jaxdist.ps import ServerReservation, end_run, reservation
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.errors import Lost
from jaxdist.ps.reservation import end_waiting_servers
from jaxdist.ps.rpc import Stub


@pytest.mark.parametrize("count", [1, 2])
def test_servers_stay_for_the_next_phase(tmp_path, count):
    with Servers(tmp_path, count) as servers:
        reserved = ServerReservation(servers.addresses, Security(), signature=SIGNATURE, connect_seconds=5.0)
        for phase in range(3):
            client = servers.client(0, phase=phase, reserve=reserved.reserve)
            client.begin(settings_of_a_run(), VALUES)
            client.join()
            assert push(client).version == 1  # nothing of the phase before is left
            client.leave([])
            client.end_phase()
            client.close()
            assert all(Stub(a).call("Status", pb.StatusRequest(), timeout=5)[0].run == "" for a in servers.addresses)
        reserved.end(0, "")
        assert all(server.wait().code == 0 for server in servers.servers)
        reserved.close()


def test_a_worker_joins_the_phase_that_it_has_come_to(tmp_path):
    with Servers(tmp_path) as servers:
        chief, early, late = (servers.client(w, phase=p, timeout_seconds=5.0) for w, p in ((0, 1), (1, 2), (1, 0)))
        chief.begin(settings_of_a_run(), VALUES)
        chief.join()
        early._session.connect_seconds = 1.0
        with pytest.raises(PeerError, match="phase 2 has not begun"):
            early.join()
        with pytest.raises(UsageError, match="phase 0 of the run is over; this is 1"):
            late.join()


def test_reserved_servers_are_kept_for_their_run(tmp_path):
    """A second start of the same command must not end the servers that a run will need."""
    with Servers(tmp_path, 2) as servers:
        reserved = ServerReservation(servers.addresses, Security(), signature=SIGNATURE, connect_seconds=5.0)
        with pytest.raises(UsageError, match="reserved by another run"):
            ServerReservation(servers.addresses, Security(), signature=SIGNATURE, connect_seconds=1.0)
        with pytest.raises(UsageError, match="reserved by another run"):
            servers.client(0).begin(settings_of_a_run(), VALUES)
        for address in servers.addresses:
            end_run(address, Security(), 2, "a mistake")
        for server in servers.servers:
            server.stop_if_idle()
            assert server._state.ended is None
        reserved.close()


@pytest.mark.parametrize("count", [1, 2])
def test_a_stranger_can_neither_reserve_nor_begin_nor_end(tmp_path, count):
    """Another job's chief with the same configuration, at servers that wait for their own: it is refused alone."""
    with Servers(tmp_path, count, signature=SIGNATURE | {"run": "workdir=/own"}) as servers:
        strange = SIGNATURE | {"run": "workdir=/other"}
        with pytest.raises(UsageError, match="started for another run: for workdir=/own, not for workdir=/other"):
            ServerReservation(servers.addresses, Security(), signature=strange, connect_seconds=1.0)
        with pytest.raises(UsageError, match=r"do not agree on run \('workdir=/own' here, 'workdir=/other' there\)"):
            servers.client(0, signature=strange).begin(settings_of_a_run(), VALUES)
        end_waiting_servers(servers.addresses, Security(), "workdir=/other", UsageError("wrong flags"))
        own = servers.client(0, signature=SIGNATURE | {"run": "workdir=/own"})
        own.begin(settings_of_a_run(), VALUES)
        own.join()
        with pytest.raises(UsageError, match="do not agree on run"):
            servers.client(0, signature=strange).join()
        assert push(own).version == 1
        assert all(server._state.ended is None for server in servers.servers)


@pytest.mark.parametrize("count", [1, 2])
def test_a_second_chief_disturbs_nobody(tmp_path, count):
    with Servers(tmp_path, count) as servers:
        (client,) = servers.begin()
        for address in servers.addresses:
            end_run(address, Security(), 2, "a chief with bad flags")
        with pytest.raises(UsageError, match="serves another run, whose chief is alive"):
            servers.begin()
        assert push(client).version == 1


def test_what_a_killed_run_has_left_is_forgotten(tmp_path, monkeypatch):
    """Servers that would go back to a snapshot, while the run goes on in another phase, must not wait for its chief."""
    monkeypatch.setattr("jaxdist.ps.served_run.RESERVED_SECONDS", 0.5)
    with Servers(tmp_path, 2) as servers:
        (client,) = servers.begin(lease_seconds=1.0, snapshot_seconds=0.1)
        push(client)
        wait_for_snapshot(tmp_path)
        client.close()
        for index, server in enumerate(servers.servers):
            server.close()
            servers.servers[index] = servers.start(index)
        reserved = ServerReservation(servers.addresses, Security(), signature=SIGNATURE, connect_seconds=30.0)
        again = servers.client(0, reserve=reserved.reserve)

        def forgotten() -> bool:
            # Server 0 alone: the request to go back that it had sent may reach another server after the reservation.
            return not Stub(servers.addresses[0]).call("Status", pb.StatusRequest(), timeout=5)[0].run

        wait_until(forgotten, "server that has forgotten", 30)
        again.begin(settings_of_a_run(), VALUES)
        again.join()
        assert push(again).version == 1
        reserved.close()


def test_a_good_end_reaches_a_server_whose_link_was_down(tmp_path, monkeypatch):
    """The first calls get no answer, and its host says nothing, either: the chief tells it when it can."""
    with Servers(tmp_path) as servers:
        (client,) = servers.begin()
        call, missed = Stub.call, []

        def without_answer(self, name, *rest, **options):
            if name == "End" and len(missed) < 2:
                missed.append(name)
                raise Lost("nothing came back")
            return call(self, name, *rest, **options)

        monkeypatch.setattr(Stub, "call", without_answer)
        monkeypatch.setattr(reservation, "why_no_answer", lambda *_: ("its link is down", Found.NOTHING))
        client.end(0, "")
        assert servers.servers[0].wait().code == 0
    missed.clear()
    monkeypatch.undo()
    begin = time.monotonic()
    end_run(servers.addresses[0], Security(), 0, "")
    assert time.monotonic() - begin < 5, "nobody waits for one that has ended"
