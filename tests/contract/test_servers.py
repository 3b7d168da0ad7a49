"""The parameter server's contract (`jaxdist/ps/__init__.py`): real servers over loopback, recorded histories."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import json
import pathlib
import random
import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import optax
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from helpers.processes import free_port
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdist.comm.security import Security
from jaxdist.errors import PeerError, UsageError
from jaxdist.optim import optimizers
from jaxdist.parallel.flat_layout import Layout, pack, unpack
from jaxdist.ps import (
    Client,
    Fenced,
    ParameterServer,
    Refused,
    ServerReservation,
    end_run,
    largest_staleness,
    wire,
)
from jaxdist.ps import parameter_server_pb2 as pb
from jaxdist.ps.claims import ClaimTable
from jaxdist.ps.errors import Lost
from jaxdist.ps.layout_header import layout_from_header, layout_header
from jaxdist.ps.rpc import SERVICE, Stub
from jaxdist.ps.shard import check_elementwise
from jaxdist.ps.staleness import StalenessController, further_steps
from jaxdist.ps.transfers import push_chunks
from jaxdist.state import Position
from jaxdist.state.position import indices, size

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
        return ParameterServer(index, self.addresses, self.rule, signature=SIGNATURE, folder=folder, **self.options)

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
    commit = {"pulled_version": version, "learning_rate": 1.0, "count": float(size(claim.ranges))} | commit
    return client.push_pull(claim, buffers(client, gradient), commit, ahead=ahead)


def values(pulled, client) -> np.ndarray:
    return np.concatenate([p[: shard.num_params] for p, shard in zip(pulled.buffers, client.flat_shards, strict=True)])


# The wire.


@given(st.binary(max_size=300), st.integers(0, 2**63), st.text(max_size=20))
def test_bulk_data_beside_a_message_is_the_ordinary_message(data, number, text):
    message = pb.PushRequest(claim=number, caller=pb.Caller(run=text))
    whole = pb.PushRequest.FromString(wire.encode(message, data))
    assert whole.data == data and whole.claim == number and whole.caller.run == text
    read, view = wire.decode(pb.PushRequest, whole.SerializeToString())
    assert bytes(view) == data and read == message


@given(st.binary(max_size=200))
def test_decoding_random_bytes_is_an_error_or_a_message(payload):
    for kind in (pb.PushRequest, pb.PullRequest, pb.JoinRequest, pb.ApplyRequest):
        try:
            wire.decode(kind, payload)
        except ValueError:
            continue


def test_stubs_match_the_proto(tmp_path):
    root = pathlib.Path(__file__).resolve().parents[2]
    for kind in ("python", "pyi"):
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root}", f"--{kind}_out={tmp_path}"]
        subprocess.run([*command, str(root / "jaxdist/ps/parameter_server.proto")], check=True, timeout=60)
    text = (tmp_path / "jaxdist/ps/parameter_server_pb2.py").read_text()
    made = ast.literal_eval(text.split("AddSerializedFile(")[1].split(")\n\n")[0])
    assert made == pb.DESCRIPTOR.serialized_pb, "run python -m grpc_tools.protoc as BUILD_NOTES.md says"
    types = "jaxdist/ps/parameter_server_pb2.pyi"
    assert (tmp_path / types).read_text() == (root / types).read_text()


# Placement.


@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["kernel", "bias", "scale"])), min_size=1, max_size=12),
    st.integers(1, 7),
)
def test_servers_hold_equal_shares_and_everything_once(tensors, count):
    params = {f"{i}/{group}": struct(n) for i, (n, group) in enumerate(tensors)}
    layout = Layout.of(params, {})
    shards = [layout.shard(i, count) for i in range(count)]
    sizes = [p.num_params for p in shards]
    assert sum(sizes) == layout.num_params and max(sizes) - min(sizes) <= 1
    assert all(sum(p.groups.values()) == p.num_params for p in shards)
    vector = np.arange(layout.num_params)
    named = unpack(layout.params, vector)
    np.testing.assert_array_equal(pack(layout.params, named), vector)
    groups = np.concatenate([[t.group] * t.size for t in layout.params if t.size] or [[]])
    for shard in shards:
        for group, part in shard.split(vector[shard.params]).items():
            assert set(groups[part]) == {group}
    assert layout_from_header(layout_header(layout)) == layout


def test_a_tensor_larger_than_a_share_is_split():
    layout = Layout.of({"big/kernel": struct(1000), "small/bias": struct(2)}, {})
    assert [layout.shard(i, 3).num_params for i in range(3)] == [334, 334, 334]


def test_only_elementwise_rules_are_served():
    for name in optimizers.OPTIMIZERS:
        check_elementwise(optimizers.build(name))
    clipped = optimizers.Optimizer(optax.chain(optax.clip_by_global_norm(1.0)))
    clipped = dataclasses.replace(clipped, rule=optax.clip_by_global_norm(1.0))
    with pytest.raises(ValueError, match="not elementwise"):
        check_elementwise(clipped)


# Examples.


@given(st.data())
def test_every_example_is_applied_exactly_once_whoever_is_lost(drawn):
    """Workers take, apply, die and come back in any order: what is applied is each position once."""
    in_rounds = drawn.draw(st.booleans())
    share, budget = drawn.draw(st.integers(1, 4)), drawn.draw(st.integers(4, 40))
    table = ClaimTable(Position(), budget, share, in_rounds)
    sessions = {w: w for w in range(drawn.draw(st.integers(1, 4)))}
    held: dict[int, list] = {s: [] for s in sessions.values()}
    applied: list[int] = []
    newest = 100
    for _ in range(drawn.draw(st.integers(0, 120))):
        worker = drawn.draw(st.sampled_from(sorted(sessions)))
        session = sessions[worker]
        action = drawn.draw(st.sampled_from(["take", "take", "apply", "apply", "die"]))
        if action == "take" and (claim := table.take(worker, session, dict(sessions))) is not None:
            held[session].append(claim)
        if action == "apply" and held[session]:
            claim = held[session].pop(0)
            applied += list(indices(claim.ranges))
            table.retire(claim.number)
        if action == "die":
            table.drop(session)
            held[session] = []
            newest += 1
            sessions[worker] = newest
            held[newest] = []
        assert table.applied == len(applied)
    for session in list(held):
        table.drop(session)
    while (claim := table.take(0, sessions[0], {0: sessions[0]})) is not None:
        applied += list(indices(claim.ranges))
        table.retire(claim.number)
    assert sorted(applied) == list(range(budget - budget % share))
    assert table.finished


@given(st.lists(st.integers(1, 9), max_size=20), st.data())
def test_positions_come_back(counts, drawn):
    position, taken = Position(), []
    for count in counts:
        ranges, position = position.take(count)
        if drawn.draw(st.booleans()):
            taken += list(indices(ranges))
        else:
            position = position.give_back(ranges)
    rest, after = position.take(position.next - position.seen)
    assert sorted(taken + (list(indices(rest)) if rest else [])) == list(range(after.next))
    assert not after.pending


# The staleness controller.


@settings(max_examples=60)
@given(st.integers(2, 5), st.sampled_from([1, 2, 3, 10]), st.booleans(), st.randoms(use_true_random=False))
def test_clock_lead_and_staleness_keep_their_bounds(workers, bound, overlap, rng):
    """A simulation of the controller with workers of any speed: pulls are granted, pushes applied, in random order."""
    controller = StalenessController(bound)
    members = [controller.join(w, w, 0.0) for w in range(workers)]
    ahead = int(overlap)
    version, worst = 0, 0
    queue: list[list[int]] = [[] for _ in members]  # versions pulled for steps not pushed yet
    waiting = [True] * workers  # for a pull to be granted
    speed = [rng.choice([1, 1, 5, 20]) for _ in members]
    for w in range(workers):  # the first pull serves as many steps as may be under way
        if controller.may_start(members[w], ahead):
            queue[w] += [version] * (1 + ahead)
            waiting[w] = False
    for _ in range(600):
        w = rng.choices(range(workers), weights=[1 / s for s in speed])[0]
        if waiting[w]:
            if controller.may_start(members[w], ahead):
                assert controller.lead(members[w], ahead) <= bound
                queue[w].append(version)
                waiting[w] = False
        elif queue[w]:
            worst = max(worst, version - queue[w].pop(0))
            version += 1
            members[w].completed += 1
            waiting[w] = True
    assert worst <= largest_staleness(bound, workers, overlap)


def test_dssp_lets_a_fast_worker_run_until_the_slow_one_is_about_to_push():
    # Fast: a step a second, last at 10. Slow: one in 4 seconds, last at 9: next at 13, 17, ...
    assert further_steps([9.0, 10.0], [5.0, 9.0], 8) == 3
    assert further_steps([9.0, 10.0], [5.0, 9.0], 2) == 2
    assert further_steps([9.0, 10.0], [9.0, 10.0], 8) in range(9)
    assert further_steps([9.0], [5.0, 9.0], 8) == 0


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(0, 8), st.floats(1.0, 9.0))
def test_dssp_stays_inside_its_range(low, width, slowness):
    """Two workers in simulated time; the fast one's lead is above the low bound only as far as the range allows."""
    controller = StalenessController(low, low + width)
    fast, slow = controller.join(0, 0, 0.0), controller.join(1, 1, 0.0)
    ends = {0: 1.0, 1: slowness}
    leads = []
    for _ in range(200):
        w = min(ends, key=lambda k: ends[k])
        now, member = ends[w], (fast, slow)[w]
        controller.pushed(member, now)
        ends[w] = float("inf")
        for other, m, pace in ((0, fast, 1.0), (1, slow, slowness)):
            if ends[other] == float("inf") and controller.may_start(m, 0):
                leads.append(controller.lead(m, 0))
                ends[other] = now + pace
    assert max(leads) <= low + width


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


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("bound", [-1, 0, 1, 3])
def test_a_recorded_history_keeps_the_contract(tmp_path, bound, count):
    with Servers(tmp_path, count) as servers:
        history = record_on(servers, servers.begin(3, bound, total=60))
        client = servers.clients[0]
        client.heartbeat()
        updates = 20 if bound == 0 else 60
        assert client.progress.version == updates and client.progress.examples_seen == 60
        assert sum(c["pushes"] for c in client.report["counted"].values()) == 60
        # Gradient 1 and rate 1: a parameter is minus the number of updates that it has had.
        final = client.pull(start=False, min_version=updates)
        np.testing.assert_array_equal(values(final, client), -updates)
    for w in range(3):
        mine = [e for e in history if e["worker"] == w]
        assert all(a["after"] < b["after"] for a, b in itertools.pairwise(mine)), "versions grow"
    for entry in history:
        own = entry["before"] + (entry["staleness"] or 0) + 1
        assert entry["after"] >= own, "a pull includes the push that it answers"
        assert -entry["high"] >= entry["after"], "no shard's values are older than server 0's"
        if count == 1:
            assert entry["low"] == entry["high"] == -entry["after"], "one version a shard"
        if bound >= 0:
            assert entry["lead"] <= bound
            assert entry["staleness"] <= largest_staleness(bound, 3, overlap=False)
    if bound != 0:
        made = sorted(e["before"] + e["staleness"] + 1 for e in history)
        assert made == list(range(1, 61)), "the version grows by one with each accepted push"


def test_a_pinned_version_is_one_on_all_servers_while_pushes_go_on(tmp_path):
    with Servers(tmp_path, 3) as servers:
        writer, reader = servers.begin(2, total=100000)
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                push(writer, 1.0, 0)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(20):

                def read(pinned) -> None:
                    time.sleep(0.005)
                    vector = pinned.vector("params", np.dtype(np.float32))
                    np.testing.assert_array_equal(vector, -pinned.progress.version)

                reader.read_one_version(read)
        finally:
            stop.set()
            thread.join(20)


# Exactly once.


@pytest.mark.parametrize("count", [1, 2])
def test_a_push_whose_reply_is_lost_is_applied_once(tmp_path, count):
    lost = {3, 4}

    def drop(version: int) -> bool:
        if version in lost:
            lost.discard(version)
            return True
        return False

    with Servers(tmp_path, count, drop_reply=drop) as servers:
        (client,) = servers.begin()
        for step in range(1, 7):
            pulled = push(client, 1.0, step - 1)
            assert pulled.version == step and pulled.staleness == 0
            np.testing.assert_array_equal(values(pulled, client), -step)
        assert not lost and client.retries >= 2


def test_a_push_sent_again_by_hand_changes_nothing(tmp_path):
    with Servers(tmp_path) as servers:
        (client,) = servers.begin()
        claim = client.claim()
        for _ in range(5):
            assert push(client, 1.0, 0, claim=claim).version == 1


def test_late_pushes_of_a_lost_worker_are_refused_and_its_examples_go_to_others(tmp_path):
    with Servers(tmp_path) as servers:
        first, second = servers.begin(2, total=4, lease_seconds=1.5)
        claim = second.claim()
        second._session._silent.set()  # no signs of life any more
        deadline = time.monotonic() + 20
        while first.report.get("live") != [0]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with pytest.raises(Fenced, match="session"):
            push(second, 1.0, 0, claim=claim)
        taken = []
        while (mine := first.claim()) is not None:
            taken += list(indices(mine.ranges))
            push(first, claim=mine)
        assert sorted(taken) == [0, 1, 2, 3]
        assert [e["event"] for e in first.take_events()] == ["worker_lost"]


def test_a_chief_that_is_lost_ends_the_run(tmp_path):
    with Servers(tmp_path) as servers:
        first, second = servers.begin(2, lease_seconds=1.0)
        first._session._silent.set()
        with pytest.raises(PeerError, match=r"worker 0 \(the chief\) was lost"):
            for _ in range(100):
                second.heartbeat()
                time.sleep(0.1)
        assert servers.servers[0].wait().code == 1


@pytest.mark.parametrize("count", [1, 2])
def test_a_second_chief_disturbs_nobody(tmp_path, count):
    with Servers(tmp_path, count) as servers:
        (client,) = servers.begin()
        for address in servers.addresses:
            end_run(address, Security(), 2, "a chief with bad flags")
        with pytest.raises(UsageError, match="serves another run, whose chief is alive"):
            servers.begin()
        assert push(client).version == 1


def test_the_beginning_may_be_sent_again_at_any_time(tmp_path):
    """Begin, Load and Pin whose replies were lost are repeated while the run goes on."""
    with Servers(tmp_path, 2) as servers:
        (client,) = servers.begin()
        settings = client.join()
        push(client, 1.0, 0)
        request = pb.BeginRequest(
            run=client.caller.run, header=layout_header(LAYOUT), signature='{"optim.name": "sgd"}'
        )
        request.settings = json.dumps(settings)
        for ready in (False, True):
            request.ready = ready
            for server in range(2):
                client._calls.call(server, "Begin", request)
        for server, shard in enumerate(client.flat_shards):
            data = np.full(shard.num_params, 7.0, np.float32).view(np.uint8)
            load = pb.LoadRequest(run=client.caller.run, what="params", total=len(data), checksum=wire.checksum(data))
            client._calls.call(server, "Load", load, data)
        pulled = push(client, 1.0, 1)
        assert pulled.version == 2
        np.testing.assert_array_equal(values(pulled, client), -2.0)
        pin = pb.PinRequest(caller=client.caller, name="twice")
        client._calls.call(0, "Pin", pin)
        push(client, 1.0, 2)
        reply, _ = client._calls.call(0, "Pin", pin)
        parts = [client.read(client.caller, "twice", reply.progress.version, "params", i) for i in range(2)]
        np.testing.assert_array_equal(np.concatenate(parts).view(np.float32), -3.0)


def test_a_gradient_of_the_future_is_refused_before_anything_changes(tmp_path):
    with Servers(tmp_path) as servers:
        (client,) = servers.begin(total=2)
        claim = client.claim()
        with pytest.raises(Fenced, match="version 20 does not fit version 0"):
            push(client, 1.0, 20, claim=claim)
        assert push(client, 1.0, 0, claim=claim).version == 1


def test_at_bound_0_a_gradient_of_another_round_is_refused(tmp_path):
    with Servers(tmp_path) as servers:
        (client,) = servers.begin(bound=0)
        assert push(client, 1.0, 0).version == 1
        with pytest.raises(Fenced, match="version 0 does not fit version 1"):
            push(client, 1.0, 0)


def test_staleness_keeps_its_bound_when_updates_are_slow(tmp_path):
    with Servers(tmp_path, on_update=lambda version: time.sleep(0.03)) as servers:
        history = record_on(servers, servers.begin(3, 1, total=60))
    assert max(e["staleness"] for e in history) <= largest_staleness(1, 3, overlap=False)


# A server that is started again.


@pytest.mark.parametrize("victim", [0, 1])
def test_a_restarted_server_brings_all_back_to_one_snapshot(tmp_path, victim):
    with Servers(tmp_path, 2) as servers:
        (client,) = servers.begin(snapshot_seconds=0.2, connect_seconds=30.0)
        for step in range(5):
            push(client, 1.0, step)
        time.sleep(1.5)  # a snapshot at version 5
        for step in range(5, 8):
            push(client, 1.0, step)
        claimed = client.claim()
        servers.servers[victim].close()
        servers.servers[victim] = servers.start(victim)
        caller = client.caller
        with pytest.raises(Fenced):
            push(client, 1.0, 8, claim=claimed)
        client.rejoin(caller)
        pulled = client.pull(start=True)
        assert client.caller.incarnation == 2
        assert 5 <= pulled.version <= 8
        np.testing.assert_array_equal(values(pulled, client), -pulled.version)
        taken = client.claim()
        assert taken.ranges[0][0] == pulled.version, "its examples are handed out again"
        events = [e["event"] for e in client.take_events()]
        assert "updates_lost" in events
        assert push(client, 1.0, pulled.version, claim=taken).version == pulled.version + 1


def test_numbers_are_not_used_again_however_often_servers_go_back(tmp_path):
    with Servers(tmp_path) as servers:
        (client,) = servers.begin(snapshot_seconds=0.2, connect_seconds=30.0)
        seen: set[int] = set()
        for incarnation in (1, 2, 3):
            claims = [client.claim() for _ in range(3)]
            numbers = {c.number for c in claims} | {client.caller.session}
            assert not numbers & seen and client.caller.incarnation == incarnation
            seen |= numbers
            if incarnation == 1:
                time.sleep(1.0)
            servers.servers[0].close()
            servers.servers[0] = servers.start(0)
            with pytest.raises(Fenced):
                push(client, claim=claims[0])
            client.rejoin(claims[0].caller)


def test_a_snapshot_of_other_servers_is_left_alone(tmp_path):
    with Servers(tmp_path, 2) as servers:
        servers.begin(snapshot_seconds=0.2)
        time.sleep(1.0)
    with Servers(tmp_path, 1) as servers:
        (client,) = servers.begin()
        assert push(client).version == 1


# Bad input.


def test_a_wrong_push_names_the_tensor_and_both_shapes(tmp_path):
    with Servers(tmp_path) as servers:
        (client,) = servers.begin()
        for change, words in (
            ({"a/kernel": struct(7, 6)}, r"'a/kernel' float32\[7, 5\].*'a/kernel' float32\[7, 6\]"),
            ({"c/kernel": struct(1)}, "no 'c/kernel'"),
            ({k: struct(*v.shape, dtype=np.float64) for k, v in PARAMS.items()}, "float32.*float64"),
        ):
            stats = {"a/mean": struct(5, dtype=np.float64 if "a/bias" in change else np.float32)}
            other = Layout.of(PARAMS | change, stats)
            request = pb.PushRequest(caller=client.caller, header=layout_header(other), claim=1)
            with pytest.raises(Refused, match=words):
                Stub(servers.addresses[0]).call("Push", request, b"1234", timeout=5)
        with pytest.raises(UsageError, match="a/kernel"):
            servers.client(0, Layout.of(PARAMS | {"a/kernel": struct(7, 6)}, STATS)).join()
        assert push(client).version == 1


def test_damaged_values_are_refused(tmp_path):
    with Servers(tmp_path) as servers:
        (client,) = servers.begin()
        claim = client.claim()
        ((request, part),) = push_chunks(client.caller, layout_header(LAYOUT), claim.number, buffers(client, 1.0)[0])
        damaged = bytearray(part)
        damaged[17] ^= 4
        with pytest.raises(Refused, match="checksum"):
            Stub(servers.addresses[0]).call("Push", request, damaged, timeout=5)
        short = wire.checksum(part[:-4], claim.number)
        request.checksum = short
        with pytest.raises(Refused, match="do not fit"):
            Stub(servers.addresses[0]).call("Push", request, part[:-4], timeout=5)
        assert push(client, claim=claim).version == 1


def test_server_lists_that_differ_are_refused(tmp_path):
    with Servers(tmp_path, 2) as servers:
        servers.begin()
        with pytest.raises(UsageError, match="give all processes the same list"):
            servers.client(0, addresses=servers.addresses[::-1]).check_servers()
        with pytest.raises(UsageError, match=r"cannot take part.*in this order"):
            servers.client(0, addresses=servers.addresses[:1]).join()
        with pytest.raises(UsageError, match=r"do not agree on optim.name \('sgd' here, 'adam' there\)"):
            servers.client(0, signature={"optim.name": "adam"}).join()


def test_a_server_that_is_not_there_is_named():
    address = f"127.0.0.1:{free_port()}"
    client = Client([address], 0, LAYOUT, signature=SIGNATURE, connect_seconds=1.5)
    with pytest.raises(UsageError, match=f"server 0 could not be reached.*{address}"):
        client.check_servers()
    client.close()


def test_an_address_in_use_is_refused(tmp_path):
    with Servers(tmp_path) as servers, pytest.raises(OSError, match="in use"):
        servers.start(0)


def test_the_token_is_asked_for(tmp_path):
    with Servers(tmp_path, security=Security("right")) as servers:
        for token in ("", "wrong"):
            with pytest.raises(Refused, match="UNAUTHENTICATED"):
                Stub(servers.addresses[0], Security(token)).call("Status", pb.StatusRequest(), timeout=5)
        assert Stub(servers.addresses[0], Security("right")).call("Status", pb.StatusRequest(), timeout=5)[0].index == 0


@pytest.mark.parametrize("count", [1, 2])
def test_servers_stay_for_the_next_phase(tmp_path, count):
    with Servers(tmp_path, count) as servers:
        reservation = ServerReservation(servers.addresses, Security(), signature=SIGNATURE, connect_seconds=5.0)
        for phase in range(3):
            client = servers.client(0, phase=phase, reserve=reservation.reserve)
            client.begin(settings_of_a_run(), VALUES)
            client.join()
            assert push(client).version == 1  # nothing of the phase before is left
            client.leave([])
            client.end_phase()
            client.close()
            assert all(Stub(a).call("Status", pb.StatusRequest(), timeout=5)[0].run == "" for a in servers.addresses)
        reservation.end(0, "")
        assert all(server.wait().code == 0 for server in servers.servers)
        reservation.close()


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
        reservation = ServerReservation(servers.addresses, Security(), signature=SIGNATURE, connect_seconds=5.0)
        with pytest.raises(UsageError, match="reserved by another run"):
            ServerReservation(servers.addresses, Security(), signature=SIGNATURE, connect_seconds=1.0)
        with pytest.raises(UsageError, match="reserved by another run"):
            servers.client(0).begin(settings_of_a_run(), VALUES)
        for address in servers.addresses:
            end_run(address, Security(), 2, "a mistake")
        for server in servers.servers:
            server.stop_if_idle()
            assert server._state.ended is None
        reservation.close()


def test_what_a_killed_run_has_left_is_forgotten(tmp_path, monkeypatch):
    """Servers that would go back to a snapshot, while the run goes on in another phase, must not wait for its chief."""
    monkeypatch.setattr("jaxdist.ps.served_run.RESERVED_SECONDS", 0.5)
    with Servers(tmp_path, 2) as servers:
        (client,) = servers.begin(lease_seconds=1.0, snapshot_seconds=0.1)
        push(client)
        deadline = time.monotonic() + 10
        while not (tmp_path / "0" / "run.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        client.close()
        for index, server in enumerate(servers.servers):
            server.close()
            servers.servers[index] = servers.start(index)
        reservation = ServerReservation(servers.addresses, Security(), signature=SIGNATURE, connect_seconds=10.0)
        again = servers.client(0, reserve=reservation.reserve)
        time.sleep(1.0)
        assert all(Stub(a).call("Status", pb.StatusRequest(), timeout=5)[0].run == "" for a in servers.addresses)
        again.begin(settings_of_a_run(), VALUES)
        again.join()
        assert push(again).version == 1
        reservation.close()


def test_momentum_is_cut_before_an_update(tmp_path):
    with Servers(tmp_path, momentum=0.5) as servers:
        (client,) = servers.begin()
        cuts = enumerate((0.0, 0.0, 0.5, 1.0))
        found = [push(client, version=k, learning_rate=1.0, momentum_cut=cut).buffers[0][0] for k, cut in cuts]
    # v = 1; 0.5 + 1; 0.5 * 0.5 * 1.5 + 1; 1
    assert np.allclose(-np.diff([0.0, *found]), [1.0, 1.5, 1.375, 1.0])


def test_tls_encrypts_and_checks_the_servers(tmp_path):
    authority, stranger = trustme.CA(), trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate = b"".join(part.bytes() for part in issued.cert_chain_pems)
    trusted = authority.cert_pem.bytes()
    security = Security("token", trusted, certificate, issued.private_key_pem.bytes())
    with Servers(tmp_path, 2, security=security) as servers:
        servers.client_security = security
        (client,) = servers.begin()
        assert push(client).version == 1
        for wrong in (Security("token"), Security("token", stranger.cert_pem.bytes())):
            with pytest.raises(Lost):
                Stub(servers.addresses[0], wrong).call("Status", pb.StatusRequest(), timeout=3)


@pytest.mark.parametrize(
    ("role", "environ", "words"),
    [
        ("worker", {"JAXDIST_TLS_CA": "nowhere.pem"}, "JAXDIST_TLS_CA=nowhere.pem cannot be read"),
        ("server", {"JAXDIST_TLS_CA": __file__}, "a server needs the variable JAXDIST_TLS_CERT and JAXDIST_TLS_KEY"),
        ("worker", {"JAXDIST_TLS_CERT": __file__}, "a worker needs the variable JAXDIST_TLS_CA"),
    ],
)
def test_half_of_a_tls_setup_is_refused(role, environ, words):
    with pytest.raises(UsageError, match=words):
        Security.from_environ(environ, role)


def test_health_is_served(tmp_path):
    with Servers(tmp_path) as servers, grpc.insecure_channel(servers.addresses[0]) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_ten_thousand_bad_frames_leave_the_server_serving(tmp_path):
    rng = random.Random(0)
    with Servers(tmp_path) as servers:
        (client,) = servers.begin()
        with grpc.insecure_channel(servers.addresses[0]) as channel:
            calls = {m.name: channel.unary_unary(f"/{SERVICE.full_name}/{m.name}") for m in SERVICE.methods}
            # One flipped bit can make a push into a well-formed Claim, Leave, Close or End of the same run.
            names = [n for n in calls if n not in ("Claim", "Leave", "Close", "End")]
            chunks = push_chunks(client.caller, layout_header(LAYOUT), 12345, buffers(client, 1.0)[0])
            good = [wire.encode(r, p) for r, p in chunks]
            good.append(pb.JoinRequest(worker=5, signature="{}", header=layout_header(LAYOUT)).SerializeToString())
            good.append(pb.PullRequest(caller=client.caller).SerializeToString())
            waiting = []
            for i in range(10_000):
                frame = bytearray(rng.choice(good))
                match i % 3:
                    case 0:
                        frame = bytearray(rng.randbytes(rng.randrange(200)))
                    case 1:
                        frame = frame[: rng.randrange(len(frame))]
                    case 2:
                        frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
                name = rng.choice(list(calls) if i % 3 == 0 else names)
                waiting.append(calls[name].future(bytes(frame), timeout=30))
                if len(waiting) == 50:
                    for future in waiting:
                        future.exception()
                    waiting.clear()
        before = client.pull(start=False)
        assert push(client, version=before.version).version == before.version + 1


def test_raw_bytes_on_the_port_do_no_harm(tmp_path):
    import socket

    rng = random.Random(1)
    with Servers(tmp_path) as servers:
        (client,) = servers.begin()
        for _ in range(200):
            with socket.create_connection(("127.0.0.1", servers.servers[0].port), timeout=5) as s:
                s.sendall(rng.randbytes(rng.randrange(1, 2000)))
        assert push(client).version == 1


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
