"""Real parameter servers in the test's own process, their clients, and what workers push."""

from __future__ import annotations

import json
import pathlib
import random
import threading
import time

import numpy as np
from free_ports import free_port
from helpers.waiting import wait_until

from jaxdist.comm.security import Security
from jaxdist.optim import optimizers
from jaxdist.parallel.flat_layout import Layout
from jaxdist.ps import Client, ParameterServer
from jaxdist.state.position import size

SIGNATURE = {"optim.name": "sgd"}


def struct(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


PARAMS = {"a/kernel": struct(7, 5), "a/bias": struct(5), "b/kernel": struct(3)}
STATS = {"a/mean": struct(5)}
LAYOUT = Layout.of(PARAMS, STATS)
VALUES = {"params": np.zeros(LAYOUT.num_params, np.float32), "stats": np.zeros(LAYOUT.num_stats, np.float32)}


def settings_of_a_run(workers=1, bound=-1, total=1000, share=1, **changes):
    return {
        "max_staleness": bound,
        "num_workers": workers,
        "share": share,
        "total_examples": total,
        "updates": 0,
        "examples_seen": 0,
        "pending": (),
        "lease_seconds": 30.0,
    } | changes


def wait_for_snapshot(folder, version: int = 0, seconds: float = 30) -> None:
    """Blocks until server 0 (whose `Servers` have this folder) may go back to a version at or after `version`."""
    path = pathlib.Path(folder) / "0" / "run.json"

    def there() -> bool:
        return path.exists() and json.loads(path.read_text())["sequencer"]["version"] >= version

    wait_until(there, f"snapshot of version {version}", seconds)


class Servers:
    """Real servers in this process, on free ports of the loopback interface."""

    def __init__(self, folder, count=1, momentum=0.0, **options):
        self.folder, self.options = folder, options
        self.rule = optimizers.build("sgd", momentum=momentum)
        self.client_security = Security()
        self.addresses = [f"127.0.0.1:{free_port()}" for _ in range(count)]
        self.servers = [self.start(i) for i in range(count)]
        self.clients: list[Client] = []

    def start(self, index):
        folder = pathlib.Path(self.folder) / str(index)
        options = {"signature": SIGNATURE} | self.options
        return ParameterServer(index, self.addresses, self.rule, folder=folder, **options)

    def client(self, worker=0, layout=LAYOUT, addresses=None, signature=SIGNATURE, **options) -> Client:
        options = {"timeout_seconds": 10.0, "connect_seconds": 10.0, "security": self.client_security} | options
        client = Client(addresses or self.addresses, worker, layout, signature=signature, **options)
        self.clients.append(client)
        return client

    def begin(self, workers=1, bound=-1, total=1000, share=1, **changes) -> list[Client]:
        clients = [self.client(w) for w in range(workers)]
        clients[0].begin(settings_of_a_run(workers, bound, total, share, **changes), VALUES)
        for c in clients:
            c.join()
        return clients

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for c in self.clients:
            c.close()
        for s in self.servers:
            s.close()


def buffers(client: Client, gradient: float, stats: float = 0.0) -> list[np.ndarray]:
    made = []
    for shard in client.flat_shards:
        parts = np.full(shard.num_params, gradient, np.float32), np.full(shard.num_stats, stats, np.float32)
        made.append(np.concatenate(parts))
    return made


def push(client: Client, gradient: float = 1.0, version: int = 0, ahead: int = 0, claim=None, **commit):
    claim = claim or client.claim()
    commit = {"pulled_version": version, "learning_rate": 1.0, "sums": [0.0, 0.0, float(size(claim.ranges))]} | commit
    return client.push_pull(claim, buffers(client, gradient), commit, ahead=ahead)


def values(pulled, client) -> np.ndarray:
    return np.concatenate([p[: shard.num_params] for p, shard in zip(pulled.buffers, client.flat_shards, strict=True)])


def record_on(servers: Servers, clients: list[Client], ahead: int = 0) -> list[dict]:
    """Threads as workers, of very different speed; what each saw."""
    workers = len(clients)
    history: list[dict] = []
    lock = threading.Lock()

    def work(w: int) -> None:
        client, rng = clients[w], random.Random(w)
        pulled = client.pull(start=True, ahead=ahead)
        while (claim := client.claim()) is not None:
            time.sleep(0.02 * rng.random() * (5 if w == 0 else 1))
            before = pulled.version
            pulled = push(client, 1.0, before, ahead, claim)
            entry = {"worker": w, "before": before, "after": pulled.version, "staleness": pulled.staleness}
            entry |= {"lead": pulled.clock_lead, "value": float(values(pulled, client)[0]), "claim": claim.number}
            entry |= {"low": float(values(pulled, client).min()), "high": float(values(pulled, client).max())}
            with lock:
                history.append(entry)

    threads = [threading.Thread(target=work, args=(w,)) for w in range(workers)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
        assert not t.is_alive()
    return history
