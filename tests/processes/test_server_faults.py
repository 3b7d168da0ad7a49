"""Faults of a parameter-server run, each with real processes and a deadline; four examples a push."""

from __future__ import annotations

import json
import pathlib
import re
import signal
import sys
import time

import pytest
from helpers.processes import (
    ROOT,
    TINY_CONFIG,
    Run,
    events,
    long,
    main_command,
    rows,
    start,
    wait_for_event,
    wait_for_update,
)
from helpers.servers import wait_for_snapshot

SLOW = "delay@seconds=0.05"  # so that there is time to hurt a run
SETTINGS = {"strategy__lease_seconds": 3.0, "strategy__snapshot_seconds": 0.5, "cluster__timeout_seconds": 20.0}


def summary_of(workdir) -> dict:
    return json.loads((pathlib.Path(workdir) / "summary.json").read_text())


def named(workdir, event: str) -> list[dict]:
    return [e for e in events(workdir) if e["event"] == event]


@pytest.mark.parametrize("staleness", [-1, long(1), long(0)])
def test_a_killed_worker_is_dropped_and_one_that_comes_back_joins(tmp_path, staleness):
    """Two workers are killed, one of them is started again: the others train on what both had claimed."""
    fault = f"{SLOW};kill@process=1,update=9;kill@process=2,update=9"
    settings = SETTINGS | {"strategy__max_staleness": staleness, "num_epochs": 8.0}
    with Run(tmp_path, 3, servers=2, fault=fault, **settings) as run:
        run.processes[2].wait(60)
        run.restart("worker 2")  # without faults: not slow, it soon ends a run that would wait for it much longer
        ended = run.wait(120)
    assert [e.code for e in ended] == [0, -signal.SIGKILL, 0, 0, 0], ended[0].output[-2000:]
    summary = summary_of(tmp_path)
    assert summary["examples_seen"] == 8 * 240, "every example was trained on"
    lost = {e["worker"]: e for e in named(tmp_path, "worker_lost")}
    assert lost.keys() == {1, 2} and len(named(tmp_path, "worker_lost")) == 2
    assert lost[1]["examples_given_back"] >= 4
    assert summary["pushes_per_worker"][1] < min(summary["pushes_per_worker"][0], summary["pushes_per_worker"][2])
    assert [e["worker"] for e in named(tmp_path, "worker_joined_again")] == [2]


@pytest.mark.parametrize(("victim", "staleness"), [(0, -1), long(1, -1), long(1, 0)])
def test_a_killed_server_is_started_again_and_the_run_goes_on(tmp_path, victim, staleness):
    settings = SETTINGS | {"num_epochs": 3.0, "global_batch_size": 8, "strategy__max_staleness": staleness}
    with Run(tmp_path, 2, servers=2, fault=SLOW, **settings) as run:
        wait_for_update(tmp_path, 12)
        wait_for_snapshot(tmp_path / "servers")
        run.servers[victim].kill()
        run.restart(f"server {victim}")
        ended = run.wait(120)
    assert [e.code for e in ended] == [0] * 4, [e.output[-1500:] for e in ended]
    summary = summary_of(tmp_path)
    assert summary["examples_seen"] == 720
    assert sum(summary["pushes_per_worker"]) == (summary["updates"] * 2 if staleness == 0 else summary["updates"])
    (lost,) = named(tmp_path, "updates_lost")
    assert 0 <= lost["lost_updates"] <= 40 and lost["incarnation"] == 2
    assert len(named(tmp_path, "servers_rolled_back")) == 1


@pytest.mark.long
def test_a_killed_server_that_does_not_come_back_is_named_in_time(tmp_path):
    settings = SETTINGS | {"cluster__timeout_seconds": 4.0, "cluster__connect_timeout_seconds": 20.0}
    settings["global_batch_size"] = 8
    with Run(tmp_path, 2, servers=2, fault=f"{SLOW};kill@server=1,update=12", **settings) as run:
        ended = run.wait(90)
    assert [e.code for e in ended] == [1, 1, 1, -signal.SIGKILL]
    assert re.search(r"parameter server 1 at \S+ gave no answer for \d+ s", ended[0].error), ended[0].output[-1500:]


@pytest.mark.long
def test_a_stopped_process_that_goes_on_again_takes_part_again(tmp_path):
    """A worker stands still for longer than its lease; then each server does."""
    settings = SETTINGS | {"num_epochs": 6.0, "global_batch_size": 8}
    with Run(tmp_path, 2, servers=2, fault="delay@seconds=0.1", **settings) as run:
        wait_for_update(tmp_path, 12)
        run.processes[1].send_signal(signal.SIGSTOP)
        wait_for_event(tmp_path, "worker_lost")
        begun = max(rows(tmp_path, "train"))
        wait_for_update(tmp_path, begun + 12)  # nobody waits for it
        run.processes[1].send_signal(signal.SIGCONT)
        wait_for_event(tmp_path, "worker_joined_again")
        assert [e["worker"] for e in named(tmp_path, "worker_lost")] == [1], "its lease ended"
        assert [e["worker"] for e in named(tmp_path, "worker_joined_again")] == [1]
        for server in run.servers:
            wait_for_update(tmp_path, max(rows(tmp_path, "train")) + 12)
            server.send_signal(signal.SIGSTOP)
            time.sleep(6.0)
            server.send_signal(signal.SIGCONT)
        assert all(p.poll() is None for p in run.processes)
        ended = run.wait(120)
    assert [e.code for e in ended] == [0] * 4, [e.output[-1500:] for e in ended]
    assert summary_of(tmp_path)["examples_seen"] == 6 * 240


@pytest.mark.long
def test_a_stopped_server_is_given_up_in_time(tmp_path):
    settings = SETTINGS | {"cluster__timeout_seconds": 4.0, "cluster__connect_timeout_seconds": 20.0}
    settings["global_batch_size"] = 8
    with Run(tmp_path, 2, servers=1, fault=f"{SLOW};stop@server=0,update=12", **settings) as run:
        for p in run.processes:
            output, _ = p.communicate(timeout=60)
            assert p.returncode == 1
            assert "parameter server 0 at" in output.splitlines()[-1], output[-1500:]


def test_the_chief_s_bad_input_ends_everybody_with_2(tmp_path):
    with Run(tmp_path, 2, servers=1, servers_first=True, global_batch_size=13) as run:
        ended = run.wait(60)
    assert [e.code for e in ended] == [2, 2, 2]
    assert "nearest: 12 or 14" in ended[0].error and "nearest: 12 or 14" in ended[2].error


@pytest.mark.long
def test_the_launcher_restarts_a_killed_server_and_keeps_going_without_a_worker(tmp_path):
    flags = ["--num_workers=3", "--num_servers=2", "--max_restarts=1", "--keep_going"]
    command = [sys.executable, str(ROOT / "tools/launch.py"), *flags, "--", f"--config={TINY_CONFIG}"]
    command += [f"--workdir={tmp_path}", "--config.strategy.name=parameter_server", "--config.num_epochs=6"]
    command += ["--config.strategy.lease_seconds=3", "--config.strategy.snapshot_seconds=0.2"]
    p = start(command, {"JAXDIST_FAULT": f"{SLOW};kill@server=1,update=120;kill@process=2,update=200"})
    output, _ = p.communicate(timeout=120)
    assert p.returncode == 0, output[-3000:]
    assert "[server 1] ended with -9; starting it again (0 restarts left)." in output
    assert "A failure that the others survived (worker 2)" in output
    assert summary_of(tmp_path)["examples_seen"] == 1440


def test_bad_flags(tmp_path):
    """Each is refused by a process of its own, all at the same time."""
    server, one = ["--role=server", "--server_index=0"], "--server_addresses=127.0.0.1:1"
    by_servers = "--config.strategy.name=parameter_server"
    cases = [
        ([*server, f"{one},127.0.0.1:1"], "names 127.0.0.1:1 tw"),
        ([*server, "--server_addresses=nowhere"], "'nowhere' is not HOST:PORT"),
        (["--role=server", one], "needs --server_index, from 0 to 0; it is None"),
        (["--role=server"], "--role=server needs --server_addresses"),
        ([*server, "--server_addresses=0.0.0.0:1"], "set the variable JAXDIST_TOKEN"),
        ([by_servers], "needs --server_addresses=HOST:PORT,... and a process with"),
        (["--config.strategy.max_staleness=-2"], "strategy.max_staleness=-2 must be -1"),
        (
            [by_servers, "--server_addresses=127.0.0.1:9", "--config.cluster.connect_timeout_seconds=1"],
            "The parameter server 0 could not be reached",
        ),
    ]
    started = [start(main_command(tmp_path / str(k), *flags), {}) for k, (flags, _) in enumerate(cases)]
    outputs = [p.communicate(timeout=90)[0] for p in started]
    for p, output, (flags, words) in zip(started, outputs, cases, strict=True):
        assert p.returncode == 2 and words in output, (flags, output[-1500:])
