"""Faults of a parameter-server run, each with real processes and a deadline."""

from __future__ import annotations

import json
import pathlib
import re
import signal
import sys
import time

import pytest
from helpers.outcomes import final_state
from helpers.processes import ROOT, TINY_CONFIG, Run, events, long, rows, start, wait_for_server, wait_for_update

SLOW = "delay@seconds=0.05"  # so that there is time to hurt a run
SETTINGS = {"strategy__lease_seconds": 3.0, "strategy__snapshot_seconds": 0.5, "cluster__timeout_seconds": 20.0}


def summary_of(workdir) -> dict:
    return json.loads((pathlib.Path(workdir) / "summary.json").read_text())


def named(workdir, event: str) -> list[dict]:
    return [e for e in events(workdir) if e["event"] == event]


@pytest.mark.parametrize("staleness", [-1, long(1), long(0)])
def test_a_killed_worker_is_dropped_and_its_examples_are_trained_on_by_others(tmp_path, staleness):
    fault = f"{SLOW};kill@process=1,update=9"
    with Run(tmp_path, 3, servers=2, fault=fault, strategy__max_staleness=staleness, **SETTINGS) as run:
        ended = run.wait(90)
    codes = [e.code for e in ended]
    assert codes == [0, -signal.SIGKILL, 0, 0, 0], ended[0].output[-2000:]
    summary = summary_of(tmp_path)
    assert summary["examples_seen"] == 480, "every example was trained on"
    (lost,) = named(tmp_path, "worker_lost")
    assert lost["worker"] == 1 and lost["examples_given_back"] >= 4
    assert summary["pushes_per_worker"][1] < summary["pushes_per_worker"][0]


def test_a_worker_that_comes_back_joins(tmp_path):
    with Run(tmp_path, 2, servers=1, fault=f"{SLOW};kill@process=1,update=9", num_epochs=8.0, **SETTINGS) as run:
        run.processes[1].wait(60)
        run.restart("worker 1")
        ended = run.wait(120)
    assert [e.code for e in ended] == [0, 0, 0], [e.output[-1500:] for e in ended]
    assert summary_of(tmp_path)["examples_seen"] == 8 * 240
    assert [e["worker"] for e in named(tmp_path, "worker_joined_again")] == [1]


@pytest.mark.parametrize("action", ["kill", long("stop")])
def test_loss_of_the_chief_ends_the_run_resumably(tmp_path, action):
    settings = SETTINGS | {"checkpoint__every_updates": 10}
    with Run(tmp_path, 2, servers=2, fault=f"{SLOW};{action}@process=0,update=25", **settings) as run:
        began = time.monotonic()
        for p in [run.processes[1], *run.servers]:
            output, _ = p.communicate(timeout=60)
            assert p.returncode == 1, output[-1500:]
            assert "worker 0 (the chief) was lost" in output.splitlines()[-1], output[-1500:]
        assert time.monotonic() - began < 60
    assert 10 <= final_state(tmp_path).updates <= 30
    with Run(tmp_path, 2, servers=2, **settings) as run:
        assert [e.code for e in run.wait(90)] == [0] * 4
    assert summary_of(tmp_path)["examples_seen"] == 480


@pytest.mark.parametrize(("victim", "staleness"), [(0, -1), long(1, -1), long(1, 0)])
def test_a_killed_server_is_started_again_and_the_run_goes_on(tmp_path, victim, staleness):
    fault = f"{SLOW};kill@server={victim},update=30"
    settings = SETTINGS | {"num_epochs": 4.0, "strategy__max_staleness": staleness}
    with Run(tmp_path, 2, servers=2, fault=fault, **settings) as run:
        run.servers[victim].wait(90)
        run.restart(f"server {victim}")
        ended = run.wait(120)
    assert [e.code for e in ended] == [0] * 4, [e.output[-1500:] for e in ended]
    summary = summary_of(tmp_path)
    assert summary["examples_seen"] == 960
    assert sum(summary["pushes_per_worker"]) == (summary["updates"] * 2 if staleness == 0 else summary["updates"])
    (lost,) = named(tmp_path, "updates_lost")
    assert 0 <= lost["lost_updates"] <= 40 and lost["incarnation"] == 2
    assert len(named(tmp_path, "servers_rolled_back")) == 1


@pytest.mark.long
def test_a_killed_server_that_does_not_come_back_is_named_in_time(tmp_path):
    settings = SETTINGS | {"cluster__timeout_seconds": 4.0, "cluster__connect_timeout_seconds": 20.0}
    with Run(tmp_path, 2, servers=2, fault=f"{SLOW};kill@server=1,update=12", **settings) as run:
        ended = run.wait(90)
    assert [e.code for e in ended] == [1, 1, 1, -signal.SIGKILL]
    assert re.search(r"parameter server 1 at \S+ gave no answer for \d+ s", ended[0].error), ended[0].output[-1500:]


@pytest.mark.long
@pytest.mark.parametrize("victim", ["worker", "server 0", long("server 1")])
def test_a_stopped_process_that_goes_on_again_takes_part_again(tmp_path, victim):
    with Run(tmp_path, 2, servers=2, fault=SLOW, num_epochs=10.0, **SETTINGS) as run:
        wait_for_update(tmp_path, 12)
        stopped = run.processes[1] if victim == "worker" else run.servers[int(victim[-1])]
        stopped.send_signal(signal.SIGSTOP)
        time.sleep(6.0)
        before = max(rows(tmp_path, "train"))
        stopped.send_signal(signal.SIGCONT)
        ended = run.wait(120)
    assert [e.code for e in ended] == [0] * 4, [e.output[-1500:] for e in ended]
    assert summary_of(tmp_path)["examples_seen"] == 2400
    if victim == "worker":
        assert before > 30, "nobody waited for it"
        assert len(named(tmp_path, "worker_lost")) == 1, "its lease ended"
        assert [e["worker"] for e in named(tmp_path, "worker_joined_again")] == [1]


@pytest.mark.long
def test_a_stopped_server_is_given_up_in_time(tmp_path):
    settings = SETTINGS | {"cluster__timeout_seconds": 4.0, "cluster__connect_timeout_seconds": 20.0}
    with Run(tmp_path, 2, servers=1, fault=f"{SLOW};stop@server=0,update=12", **settings) as run:
        for p in run.processes:
            output, _ = p.communicate(timeout=60)
            assert p.returncode == 1
            assert "parameter server 0 at" in output.splitlines()[-1], output[-1500:]


def test_a_lost_reply_is_asked_for_again(tmp_path):
    fault = ";".join(f"drop@server=0,update={u}" for u in (5, 6, 20))
    with Run(tmp_path, 2, servers=2, fault=fault, **SETTINGS) as run:
        assert [e.code for e in run.wait(90)] == [0] * 4
    summary = summary_of(tmp_path)
    assert summary["updates"] == 80 and sum(summary["pushes_per_worker"]) == 80
    assert summary["examples_seen"] == 480


def test_the_chief_s_bad_input_ends_everybody_with_2(tmp_path):
    with Run(tmp_path, 2, servers=1, global_batch_size=13) as run:
        ended = run.wait(60)
    assert [e.code for e in ended] == [2, 2, 2]
    assert "nearest: 12 or 14" in ended[0].error and "nearest: 12 or 14" in ended[2].error


def launched(workdir, *flags: str, fault: str) -> str:
    """Runs the launcher to its good end, with leases and snapshots as short as above; returns what it printed."""
    command = [sys.executable, str(ROOT / "tools/launch.py"), *flags, "--", f"--config={TINY_CONFIG}"]
    command += [f"--workdir={workdir}", "--config.strategy.name=parameter_server"]
    command += ["--config.strategy.lease_seconds=3", "--config.strategy.snapshot_seconds=0.5"]
    p = start(command, {"JAXDIST_FAULT": f"{SLOW};{fault}"})
    output, _ = p.communicate(timeout=120)
    assert p.returncode == 0, output[-3000:]
    return output


@pytest.mark.long
def test_the_launcher_restarts_a_killed_server(tmp_path):
    flags = ("--num_workers=2", "--num_servers=2", "--max_restarts=1")
    output = launched(tmp_path, *flags, fault="kill@server=1,update=30")
    assert "[server 1] ended with -9; starting it again (0 restarts left)." in output
    assert summary_of(tmp_path)["examples_seen"] == 480


@pytest.mark.long
def test_the_launcher_keeps_going_without_a_worker(tmp_path):
    flags = ("--num_workers=3", "--num_servers=1", "--keep_going")
    output = launched(tmp_path, *flags, fault="kill@process=2,update=9")
    assert "A failure that the others survived (worker 2)" in output
    assert summary_of(tmp_path)["examples_seen"] == 480


def test_an_evaluator_evaluates_versions_beside_the_training(tmp_path):
    with Run(tmp_path, 2, servers=2, fault=SLOW, num_epochs=6.0) as run:
        command = [sys.executable, "-m", "jaxdist.main", "--role=evaluator", f"--config={TINY_CONFIG}"]
        command += [f"--server_addresses={','.join(run.addresses)}", f"--workdir={tmp_path}"]
        command += ["--config.strategy.name=parameter_server", "--config.num_epochs=6.0"]
        evaluator = start(command, {})
        try:
            assert [e.code for e in run.wait(120)] == [0] * 4
            output, _ = evaluator.communicate(timeout=30)
        finally:
            evaluator.kill()
            evaluator.communicate()
    assert evaluator.returncode == 0, output[-1500:]
    found = rows(tmp_path, "eval")
    versions = [int(v) for v in re.findall(r"Version (\d+):", output)]
    assert versions and set(versions) <= found.keys() and max(found) == 240


def test_two_servers_with_one_index_are_refused(tmp_path):
    with Run(tmp_path, 1, servers=1, fault=SLOW) as run:
        wait_for_server(run.addresses[0])  # not longer: the second must come while the run goes on
        second = start(run.commands["server 0"], {})
        output, _ = second.communicate(timeout=60)
        assert second.returncode == 2 and "cannot serve at" in output and "same --server_index" in output
        assert [e.code for e in run.wait(90)] == [0, 0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--server_addresses=127.0.0.1:1,127.0.0.1:1", "--role=server", "--server_index=0"], "names 127.0.0.1:1 tw"),
        (["--server_addresses=nowhere", "--role=server", "--server_index=0"], "'nowhere' is not HOST:PORT"),
        (["--server_addresses=127.0.0.1:1", "--role=server"], "needs --server_index, from 0 to 0; it is None"),
        (["--role=server"], "--role=server needs --server_addresses"),
        (["--role=server", "--server_addresses=0.0.0.0:1", "--server_index=0"], "set the variable JAXDIST_TOKEN"),
        (["--config.strategy.name=parameter_server"], "needs --server_addresses=HOST:PORT,... and a process with"),
        (["--config.strategy.max_staleness=-2"], "strategy.max_staleness=-2 must be -1"),
        (
            ["--config.strategy.name=parameter_server", "--server_addresses=127.0.0.1:9"]
            + ["--config.cluster.connect_timeout_seconds=1"],
            "The parameter server 0 could not be reached",
        ),
    ],
)
def test_bad_flags(tmp_path, flags, words):
    command = [
        sys.executable,
        "-m",
        "jaxdist.main",
        f"--config={TINY_CONFIG}",
        f"--workdir={tmp_path}",
        *flags,
    ]
    p = start(command, {})
    output, _ = p.communicate(timeout=60)
    assert p.returncode == 2 and words in output, output[-1500:]
