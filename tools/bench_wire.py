"""The measurement `wire` of tools/bench.py: an array on a device of one process to one of another, and back.

    process 0: x on its device  --wire-->  process 1: on its device  --wire-->  process 0: on its device

as activations and their gradients go between stages. The wires:

    channel      `jaxdist.comm.channel.Channel`: a socket of its own, its threads, no copy on the way out
    grpc         `jaxdist.comm.rpc.Client`: a unary call that brings the answer back
    collective   `jax.lax.ppermute` over gloo, in a program of both processes
    transfer     `jax.experimental.transfer`: a server on each side, arrays pulled by the other
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench_train import Group, spread

WIRES = ("channel", "grpc", "collective", "transfer")
_SECONDS = 60.0


def measure(megabytes: float, pairs: int, port: Callable[[], int]) -> dict[str, Any]:
    """One line of results: milliseconds there and back, and of the processors' time in both processes."""
    line: dict[str, Any] = {"bench": "wire", "megabytes": megabytes}
    with tempfile.TemporaryDirectory() as folder:
        groups: list[Group] = []
        try:
            for wire in WIRES:
                arguments = [str(int(megabytes * 1e6 / 4)), "-", "2"]
                cores = sorted(os.sched_getaffinity(0))
                groups.append(Group(wire, folder, f"127.0.0.1:{port()}", cores, arguments, script=__file__))
                groups[-1].hear()
            seconds: dict[str, list[float]] = {wire: [] for wire in WIRES}
            busy: dict[str, list[float]] = {wire: [] for wire in WIRES}
            for number in range(pairs + 1):
                for group in groups if number % 2 else groups[::-1]:
                    for worker in group.workers:
                        print(20, file=worker.stdin, flush=True)
                    reported = group.hear()
                    if number:  # the first round warms up
                        seconds[group.side].append(reported[0]["seconds"] / 20)
                        busy[group.side].append(sum(t["processor_seconds"] for t in reported) / 20)
        finally:
            for group in groups:
                group.close()
    for wire in WIRES:
        line[f"{wire}_ms"] = spread([1e3 * s for s in seconds[wire]])
        line[f"{wire}_processor_ms"] = spread([1e3 * s for s in busy[wire]])
    return line


def _exchange(folder: str, number: int, name: str, value: str) -> str:
    """Leaves the other process a value in a file; returns the one that it leaves."""
    paths = [os.path.join(folder, f"{name}-{i}") for i in (number, 1 - number)]
    with open(paths[0] + "~", "w") as f:
        f.write(value)
    os.rename(paths[0] + "~", paths[0])
    deadline = time.monotonic() + _SECONDS
    while not os.path.exists(paths[1]):
        if time.monotonic() > deadline:
            raise SystemExit(f"the other process never left {name}")
        time.sleep(0.01)
    with open(paths[1]) as f:
        return f.read()


def _channel(x: Any, number: int, folder: str, address: str) -> Callable[[], Any]:
    import jax
    import numpy as np

    from jaxdist.comm.channel import ChannelListener

    listener = ChannelListener("bench", 2**30, "127.0.0.1")
    other = _exchange(folder, number, "listener", f"127.0.0.1:{listener.port}")
    if number:
        channel = listener.open(other, "a", "wire", _SECONDS)
    else:
        channel = listener.accept({"wire": "b"}, _SECONDS)["wire"]

    def send(array: Any) -> None:
        channel.send({"kind": "F"}, lambda: np.asarray(array))

    def receive() -> Any:
        return jax.device_put(channel.receive(_SECONDS).array(x.shape, x.dtype))

    def first() -> Any:
        send(x)
        return receive()

    return (lambda: send(receive())) if number else first


def _grpc(x: Any, number: int, folder: str, address: str) -> Callable[[], Any]:
    import jax
    import numpy as np

    from jaxdist.comm.rpc import Client, Server

    def on_device(payload: bytes) -> Any:
        return jax.device_put(np.frombuffer(payload, x.dtype).reshape(x.shape))

    if number:
        server = Server("127.0.0.1:0", {"echo": lambda payload: np.asarray(on_device(payload)).tobytes()})
        _exchange(folder, number, "server", str(server.port))
        return lambda: server and None  # the server answers by itself, and lives as long as this
    client = Client(f"127.0.0.1:{_exchange(folder, number, 'server', '')}")
    return lambda: on_device(client.call("echo", np.asarray(x).tobytes(), timeout=_SECONDS))


def _collective(x: Any, number: int, folder: str, address: str) -> Callable[[], Any]:
    import jax
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = jax.make_mesh((2,), ("stage",), axis_types=(jax.sharding.AxisType.Auto,))

    def one_way(pair: tuple[int, int]) -> Callable[[Any], Any]:
        move = partial(jax.lax.ppermute, axis_name="stage", perm=[pair])
        return jax.jit(jax.shard_map(move, mesh=mesh, in_specs=P("stage"), out_specs=P("stage")))

    there, back = one_way((0, 1)), one_way((1, 0))
    whole = jax.make_array_from_single_device_arrays((2 * x.size,), NamedSharding(mesh, P("stage")), [x])
    return lambda: back(jax.block_until_ready(there(whole)))


def _transfer(x: Any, number: int, folder: str, address: str) -> Callable[[], Any]:
    import jax
    from jax.experimental import transfer

    server = transfer.start_transfer_server(jax.local_devices()[0].client, "127.0.0.1:0", ["127.0.0.1:0"])
    other = server.connect(_exchange(folder, number, "transfer", server.address()))
    like = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    taken = [0]

    def give(array: Any) -> None:
        server.await_pull(2 * taken[0] + number, [array])

    def take() -> Any:
        return jax.block_until_ready(other.pull(2 * taken[0] + 1 - number, [like])[0])

    def first() -> Any:
        taken[0] += 1
        give(x)
        return take()

    def second() -> None:
        taken[0] += 1
        give(take())

    return second if number else first


def main(argv: Sequence[str]) -> None:
    """A worker's life: each line says how many times there and back."""
    wire, folder, address, number, floats, _, _ = argv
    import jax
    import jax.numpy as jnp

    from jaxdist.runtime.allocator import keep_freed_memory

    keep_freed_memory()
    if wire == "collective":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, 2, int(number))
    own = os.path.join(folder, wire)
    os.makedirs(own, exist_ok=True)
    x = jax.device_put(jnp.arange(int(floats), dtype=jnp.float32), jax.local_devices()[0])
    wires = {"channel": _channel, "grpc": _grpc, "collective": _collective, "transfer": _transfer}
    exchange = wires[wire](x, int(number), own, address)
    print(json.dumps({"ready": True}), flush=True)
    for count, line in enumerate(sys.stdin):
        begin, busy = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            jax.block_until_ready(exchange())
        seconds = time.perf_counter() - begin
        _exchange(own, int(number), f"round {count}", "")
        print(json.dumps({"seconds": seconds, "processor_seconds": time.process_time() - busy}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
