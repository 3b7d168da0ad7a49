"""What a push does to parameters, momentum and statistics, and values of any size.

Promises of `ps/shard.py` and `ps/transfers.py`, under real servers.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
from helpers.servers import Servers, buffers, push, struct, values, wait_for_snapshot

from jaxdist.parallel.flat_layout import Layout
from jaxdist.ps.errors import Fenced


def test_momentum_is_cut_before_an_update(tmp_path):
    with Servers(tmp_path, momentum=0.5) as servers:
        (client,) = servers.begin()
        cuts = enumerate((0.0, 0.0, 0.5, 1.0))
        found = [push(client, version=k, learning_rate=1.0, momentum_cut=cut).buffers[0][0] for k, cut in cuts]
    # v = 1; 0.5 + 1; 0.5 * 0.5 * 1.5 + 1; 1
    assert np.allclose(-np.diff([0.0, *found]), [1.0, 1.5, 1.375, 1.0])


def test_statistics_are_merged_by_staleness(tmp_path):
    with Servers(tmp_path) as servers:
        (client,) = servers.begin()
        shard = client.flat_shards[0]
        for version, expected in ((0, 8.0), (0, 8.0)):  # fresh: as written; one version late: half of the way
            claim = client.claim()
            commit = {"pulled_version": version, "learning_rate": 0.0}
            pulled = client.push_pull(claim, buffers(client, 0.0, expected), commit, ahead=0)
        np.testing.assert_array_equal(pulled.buffers[0][shard.num_params :], 8.0)
        commit = {"pulled_version": 1, "learning_rate": 0.0}
        pulled = client.push_pull(client.claim(), buffers(client, 0.0, 0.0), commit, ahead=0)
        np.testing.assert_array_equal(pulled.buffers[0][shard.num_params :], 4.0)


def test_a_gradient_that_is_not_finite_is_passed_over(tmp_path):
    with Servers(tmp_path) as servers:
        first, second = servers.begin(2, bound=0, total=4)
        claims = [first.claim(), second.claim()]
        done = []
        thread = threading.Thread(target=lambda: done.append(second.push_pull(claims[1], [], {"skip": True}, ahead=0)))
        thread.start()
        pulled = push(first, 3.0, 0, claim=claims[0])
        thread.join(10)
        assert pulled.version == done[0].version == 1
        np.testing.assert_array_equal(values(pulled, first), -3.0)
        first.heartbeat()
        assert first.report["counted"]["1"]["not_finite"] == 1


def test_a_model_of_many_chunks(tmp_path):
    """Values larger than one message, on two servers."""
    layout = Layout.of({"big/kernel": struct(5_000_011)}, {})
    with Servers(tmp_path, 2) as servers:
        client = servers.client(0, layout)
        settings = {"max_staleness": -1, "num_workers": 1, "share": 1, "total_examples": 9, "updates": 0}
        start = np.arange(5_000_011, dtype=np.float32)
        values = {"params": start, "stats": np.zeros(0, np.float32)}
        client.begin(settings | {"examples_seen": 0, "pending": ()}, values)
        client.join()
        pulled = push(client, 2.0)
        np.testing.assert_array_equal(np.concatenate(pulled.buffers), start - 2)
        read = client.read_one_version(lambda pinned: pinned.vector("params", np.dtype(np.float32)))
        np.testing.assert_array_equal(read, start - 2)


def clipped_round(clients, version: int, gradients) -> list:
    """Every client pushes at once; what each then pulls."""
    done: list = [None] * len(clients)

    def work(k: int) -> None:
        done[k] = push(clients[k], gradients[k], version)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return done


@pytest.mark.parametrize("count", [1, 3])
def test_a_round_is_clipped_by_the_norm_of_its_mean_over_all_servers(tmp_path, count):
    with Servers(tmp_path, count) as servers:
        clients = servers.begin(2, bound=0, total=8, clip_global_norm=1.0)
        size = values_size(clients[0])
        pulled = clipped_round(clients, 0, [3.0, 1.0])[0]  # mean 2
        np.testing.assert_allclose(values(pulled, clients[0]), -1.0 / np.sqrt(size), rtol=1e-6)
        again = clipped_round(clients, 1, [0.02, 0.04])[0]  # shorter than 1: as it is
        np.testing.assert_allclose(values(again, clients[0]), values(pulled, clients[0]) - 0.03, rtol=1e-5)


def values_size(client) -> int:
    return sum(shard.num_params for shard in client.flat_shards)


def test_a_server_that_is_lost_in_a_clipped_round_comes_back_and_the_round_is_made_again(tmp_path):
    with Servers(tmp_path, 2) as servers:
        clients = servers.begin(2, bound=0, total=40, clip_global_norm=1.0, snapshot_seconds=0.1)
        clipped_round(clients, 0, [3.0, 1.0])
        wait_for_snapshot(tmp_path, 1)
        servers.servers[1].close()
        claims = [client.claim() for client in clients]
        servers.servers[1] = servers.start(1)
        versions = []

        def work(k: int) -> None:
            pulled = None
            for _ in range(200):  # the servers go back, and the sessions with them
                try:
                    claim = claims[k] if pulled is None else clients[k].claim()
                    pulled = pulled or clients[k].pull(start=False)
                    pulled = push(clients[k], 2.0, pulled.version, claim=claim)
                    versions.append(pulled.version)
                    return
                except Fenced:
                    clients[k].rejoin(claims[k].caller)
                    pulled = clients[k].pull(start=False)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(versions) == 2 and min(versions) >= 2
