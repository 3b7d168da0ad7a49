"""The `parameter_server` measurement of tools/bench.py: PushPull beside a bare gRPC echo and a raw socket.

    worker processes          PushPull of n bytes each way      ->  parameter servers, one process each
      (all of them at once)   gRPC call that echoes n bytes     ->  echo servers, one process each
                              n bytes there and back by TCP     ->  the same echo servers

The three take turns in one run; a model divided among servers is echoed in as many equal parts, all at once.
"""

from __future__ import annotations

import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import numpy as np

SECONDS = 60.0
SIGNATURE: dict[str, Any] = {"bench": "parameter_server"}


def measure(megabytes: float, servers: int, workers: int, rounds: int, calls: int) -> dict[str, Any]:
    """One line of measurements; starts and ends all processes."""
    from free_ports import free_port

    plan: dict[str, Any] = {
        "floats": int(megabytes * 1e6 / 4),
        "workers": workers,
        "rounds": rounds,
        "calls": calls,
        "servers": [f"127.0.0.1:{free_port()}" for _ in range(servers)],
        "echoes": [f"127.0.0.1:{free_port()}" for _ in range(servers)],
        "sockets": [f"127.0.0.1:{free_port()}" for _ in range(servers)],
    }
    with tempfile.TemporaryDirectory() as folder:
        plan["folder"] = folder
        started = [_start(role, i, plan) for role in ("server", "echo") for i in range(servers)]
        try:
            found = [_start("worker", w, plan, stdout=subprocess.PIPE) for w in range(workers)]
            started += found
            lines = [json.loads(p.communicate(timeout=600)[0].splitlines()[-1]) for p in found]
            for p in started[:servers]:  # the first worker has ended the run
                p.wait(30)
        finally:
            for p in started:
                if p.poll() is None:
                    p.kill()
                p.wait()
        updates = [json.loads(path.read_text()) for path in pathlib.Path(folder).glob("updates-*.json")]
    medians = {name: statistics.median(t for line in lines for t in line[name]) for name in lines[0]}
    moved = 2 * workers * plan["floats"] * 4 / 1e6
    return {
        "bench": "parameter_server", "megabytes": megabytes, "servers": servers, "workers": workers,
        **{f"{name}_ms": round(1e3 * t, 3) for name, t in medians.items()},
        **{f"{name}_mb_per_s": round(moved / t, 1) for name, t in medians.items()},
        "push_pull_over_echo_throughput": round(medians["echo"] / medians["push_pull"], 3),
        "server_update_ms": round(1e3 * statistics.median(u for us in updates for u in us), 3),
    }  # fmt: skip


def _start(role: str, index: int, plan: dict[str, Any], **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, __file__, role, str(index), json.dumps(plan)], text=True, **options)


def serve(index: int, plan: dict[str, Any]) -> None:
    """A parameter server with momentum SGD, until the chief ends the run."""
    from jaxdist.optim import optimizers
    from jaxdist.ps import ParameterServer

    folder = pathlib.Path(plan["folder"])
    server = ParameterServer(
        index, plan["servers"], optimizers.build("sgd"), signature=SIGNATURE, folder=folder / str(index)
    )
    server.wait()
    (folder / f"updates-{index}.json").write_text(json.dumps(server.update_seconds()[-500:]))


def echo(index: int, plan: dict[str, Any]) -> None:
    """Gives back what it gets, by gRPC and by TCP, until it is killed."""
    import grpc

    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(16), options=options)
    handler = grpc.unary_unary_rpc_method_handler(lambda payload, context: payload)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", {"Echo": handler}),))
    server.add_insecure_port(plan["echoes"][index])
    server.start()
    host, _, port = plan["sockets"][index].rpartition(":")
    with socket.create_server((host, int(port)), backlog=32) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_echo_forever, args=(connection, _part_bytes(plan)), daemon=True).start()


def _part_bytes(plan: dict[str, Any]) -> int:
    return plan["floats"] * 4 // len(plan["servers"])


def _echo_forever(connection: socket.socket, size: int) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = bytearray(size)
    while _read(connection, buffer):
        connection.sendall(buffer)


def _read(connection: socket.socket, buffer: bytearray) -> bool:
    view, got = memoryview(buffer), 0
    while got < len(buffer):
        count = connection.recv_into(view[got:])
        if not count:
            return False
        got += count
    return True


def work(index: int, plan: dict[str, Any]) -> None:
    """Times the three in turn, in step with the other workers; prints {name: seconds of each call}."""
    runs = {"push_pull": _push_pull(index, plan), "echo": _echo_by_grpc(plan), "raw": _echo_by_tcp(plan)}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(plan["rounds"] + 1):
        for name, run in runs.items():
            _meet(index, plan, f"{number}-{name}")
            for _ in range(plan["calls"]):
                begin = time.perf_counter()
                run()
                if number:  # the first round warms up
                    times[name].append(time.perf_counter() - begin)
    _meet(index, plan, "end")
    print(json.dumps(times), flush=True)
    if index == 0:  # ends the run for all
        runs["push_pull"](end=True)  # type: ignore[call-arg]


def _meet(index: int, plan: dict[str, Any], name: str) -> None:
    """Waits until all workers have come to `name`."""
    folder = pathlib.Path(plan["folder"])
    (folder / f"{name}-{index}").touch()
    while not all((folder / f"{name}-{i}").exists() for i in range(plan["workers"])):
        time.sleep(0.001)


def _push_pull(index: int, plan: dict[str, Any]) -> Callable[[], None]:
    from jaxdist.parallel.flat_layout import Layout
    from jaxdist.ps import Client

    layout = Layout.of({"all/kernel": np.zeros((plan["floats"],), np.float32)}, {})
    client = Client(plan["servers"], index, layout, signature=SIGNATURE)
    client.check_servers()
    total = 10**9
    settings = {"max_staleness": -1, "num_workers": plan["workers"], "share": 1, "total_examples": total}
    if index == 0:
        values = {"params": np.ones(plan["floats"], np.float32), "stats": np.zeros(0, np.float32)}
        client.begin(settings | {"updates": 0, "examples_seen": 0, "pending": ()}, values)
    client.join()
    gradient = [np.full(s.num_params, 1e-6, np.float32) for s in client.flat_shards]
    claims = [client.claim() for _ in range((plan["rounds"] + 1) * plan["calls"])]
    version = 0

    def run(end: bool | None = None) -> None:
        nonlocal version
        if end is not None:
            return client.end(0, "")
        claim = claims.pop()
        assert claim is not None
        commit = {"pulled_version": version, "learning_rate": 0.1}
        version = client.push_pull(claim, gradient, commit, ahead=0).version

    return run


def _echo_by_grpc(plan: dict[str, Any]) -> Callable[[], None]:
    import grpc

    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    calls = [grpc.insecure_channel(a, options=options).unary_unary("/bench/Echo") for a in plan["echoes"]]
    payload = bytes(_part_bytes(plan))

    def run() -> None:
        if len(calls) == 1:  # the quicker way
            assert len(calls[0](payload, wait_for_ready=True, timeout=SECONDS)) == len(payload)
            return
        for future in [call.future(payload, wait_for_ready=True, timeout=SECONDS) for call in calls]:
            assert len(future.result()) == len(payload)

    return run


def _echo_by_tcp(plan: dict[str, Any]) -> Callable[[], None]:
    connections = []
    for address in plan["sockets"]:
        host, _, port = address.rpartition(":")
        connections.append(socket.create_connection((host, int(port)), timeout=SECONDS))
        connections[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    payload, buffer = bytes(_part_bytes(plan)), bytearray(_part_bytes(plan))

    def run() -> None:
        # The other side reads all before it writes: nothing can block both.
        for connection in connections:
            connection.sendall(payload)
        for connection in connections:
            assert _read(connection, buffer)

    return run


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from jaxdist.runtime.allocator import keep_freed_memory

    keep_freed_memory()  # all of it, for the echo too; a run maps arrays above 32 MiB
    {"server": serve, "echo": echo, "worker": work}[sys.argv[1]](int(sys.argv[2]), json.loads(sys.argv[3]))
