"""`tools/watch.py` (and `run_follower.py`): runs that go on, have ended, or were killed, at 80 columns."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import socket
import struct
import subprocess
import sys
import termios
import time

import pytest
import watch
from free_ports import free_port
from helpers.metrics import scraped
from helpers.processes import ROOT, Run, environment, wait_for_update
from helpers.waiting import wait_until
from run_follower import FollowedRun

CONFIG = {
    "model.name": "densenet", "data.name": "digits", "num_epochs": 2.0, "global_batch_size": 12, "max_updates": 0,
    "strategy.name": "switch", "strategy.schedule": "allreduce(compression=none,local_steps=4):0.5,parameter_server",
}  # fmt: skip
SAMPLE = {
    "seconds": 2.0, "pid": 1, "host": socket.gethostname(), "host_cores": 2, "cpu": 0.75, "cpu_system": 0.25,
    "memory_bytes": 3 << 20, "host_cpu": 1.5, "host_cpu_iowait": 0.5, "host_sent_per_second": 10**6,
    "loopback_per_second": 2 * 10**6,
}  # fmt: skip


def write_run(folder, *, processes, updates=10, summary=False):
    """A run directory. processes: {name: (pid, its last word or '', host of its sample or '')}."""
    for name in ("logs", "system"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    now = time.time()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    place = {"updates": updates, "examples_seen": 12 * updates, "epoch": 12 * updates / 240}
    rows = [
        {"kind": "event", "event": "clock", "time": 0.0, "unix_time_of_0": now - 100},
        {"kind": "event", "event": "phase", "phase": 1, "strategy": "allreduce", "seconds": 0.5, "time": 1.0},
        {"kind": "train", "time": 60.0, "loss": 0.5, "accuracy": 0.75, "images_per_second": 24.0, "step_ms": 500.0},
        {"kind": "train", "time": 61.0, "loss": None, "accuracy": None},
        {"kind": "eval", "time": 62.0, "loss": 0.25, "accuracy": 0.875},
        {"kind": "event", "event": "switched", "from": "allreduce", "to": "parameter_server", "phase": 2, "time": 63.0},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(place | row) + "\n" for row in rows) + '{"kind": "ev')
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    for name, (pid, word, host) in processes.items():
        lines = [
            f"{at},000 INFO jaxdist process {name}, pid {pid}",
            *([f"{at},001 INFO jaxdist: {word}"] if word else []),
        ]
        (folder / "logs" / f"{name}.log").write_text("".join(f"{line}\n" for line in lines))
        if host:
            samples = (SAMPLE | {"host": host, "unix_time": now - 35.0}, SAMPLE | {"seconds": 0.01, "cpu": 99.0})
            text = "".join(json.dumps({"unix_time": now} | one) + "\n" for one in samples)
            (folder / "system" / f"{name}.jsonl").write_text(text)
    if summary:
        (folder / "summary.json").write_text(json.dumps({"images_per_second": 20.0}))


def gone() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def shown(monkeypatch, capsys, *arguments) -> tuple[int, str]:
    """(exit code, output) at 80 columns; no line is longer."""
    monkeypatch.setenv("COLUMNS", "80")
    code = watch.main([str(argument) for argument in arguments])
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines()), default=0) <= 80
    return code, output


def test_a_finished_run_is_shown_once(tmp_path, monkeypatch, capsys):
    here = socket.gethostname()
    done = (gone(), "done: 20 updates", here)
    write_run(tmp_path, processes={"worker-0": done, "worker-1": done, "worker-10": done}, updates=20, summary=True)
    code, output = shown(monkeypatch, capsys, tmp_path)
    assert code == 0 and re.search(r"finished .* 50 %", output) and "left" not in output
    assert "update 20" in output and "epoch 1.00 of 2" in output and "phase 2 of 2: parameter_server" in output
    assert "20 images/s · step 500.0 ms" in output and "train loss 0.5000 · accuracy 75.0 %" in output
    assert "validation loss 0.2500 · accuracy 87.5 %" in output
    assert re.search(r"worker-1 +done +0.75 +0.25 +3 MiB +75 % +25 % +3.0 MB/s", output)
    assert output.index("worker-1 ") < output.index("worker-10 ")
    assert "0:01:03  switched (update 20): from allreduce, to parameter_server, phase 2" in output


def test_what_became_of_processes_is_said(tmp_path, monkeypatch, capsys):
    here = socket.gethostname()
    running, killed, lost = (os.getpid(), "", here), (gone(), "", here), (gone(), "error: worker 0 is lost", here)
    write_run(tmp_path / "on", processes={"worker-0": running, "server-0": (os.getpid(), "", "")})
    (tmp_path / "on" / "system" / "worker-0.jsonl").write_text(json.dumps(SAMPLE | {"unix_time": time.time()}) + "\n")
    write_run(tmp_path / "killed", processes={"worker-0": killed, "worker-1": lost})
    write_run(tmp_path / "away", processes={"worker-0": (os.getpid(), "", "elsewhere")})
    code, output = shown(monkeypatch, capsys, tmp_path / "on", tmp_path / "killed", tmp_path / "away")
    on, killed, away = output.split("╰")[:3]
    assert code == 0  # there is no terminal to follow it on
    assert re.search(r"running .* 25 % +0:00:15 left", on) and "starting" in on  # 360 of 480 examples at 24 a second
    assert re.search(r"│ error ", killed) and re.search(r"worker-0 +killed", killed)
    assert "worker-1: worker 0 is lost" in killed
    assert re.search(r"worker-0 +silent 3[5-9] s", away) and re.search(r"│ silent ", away)
    follow = FollowedRun(tmp_path / "killed")
    follow.look()
    assert follow.is_over(time.time())
    follow = FollowedRun(tmp_path / "away")
    follow.look()
    assert not follow.is_over(time.time())


@pytest.mark.parametrize(
    ("alive", "host", "before_rows", "after"),
    [
        (True, socket.gethostname(), "starting", "running"),
        (False, socket.gethostname(), "killed", "killed"),
        (False, "elsewhere", "starting", "unknown"),
        (False, "", "starting", "unknown"),
    ],
)
def test_a_process_without_samples_is_killed_only_where_its_number_can_be_looked_up(
    tmp_path, alive, host, before_rows, after
):
    write_run(tmp_path, processes={})
    pid = os.getpid() if alive else gone()
    said = f"{time.strftime('%Y-%m-%d %H:%M:%S')},000 INFO jaxdist process worker-0, pid {pid}"
    (tmp_path / "logs" / "worker-0.log").write_text(said + (f", host {host}\n" if host else "\n"))
    run = FollowedRun(tmp_path)
    run.look()
    assert run.processes["worker-0"].state(time.time()) == before_rows
    assert run.is_over(time.time()) == (before_rows == "killed")
    row = {"kind": "train", "time": 110.0, "updates": 11, "examples_seen": 132, "epoch": 0.55}
    with open(tmp_path / "metrics.jsonl", "a") as lines:
        lines.write("\n" + json.dumps(row) + "\n")
    run.look()
    assert run.processes["worker-0"].state(time.time()) == run.state(time.time()) == after
    assert run.is_over(time.time()) == (after == "killed")


def test_a_run_that_goes_on_after_its_end_is_not_finished(tmp_path):
    done = (gone(), "done: 10 updates", socket.gethostname())
    write_run(tmp_path, processes={"worker-0": done}, summary=True)
    run = FollowedRun(tmp_path)
    run.look()
    assert run.state(time.time()) == "finished" and run.examples() == (120, 480)
    row = {"kind": "event", "event": "clock", "time": 100.0, "unix_time_of_0": time.time(), "updates": 10}
    with open(tmp_path / "metrics.jsonl", "a") as lines:
        lines.write("\n" + json.dumps(row) + "\n")
    with open(tmp_path / "logs" / "worker-0.log", "a") as lines:
        lines.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')},000 INFO jaxdist process worker-0, pid {os.getpid()}\n")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"max_updates": 15}))
    run.look()
    assert run.summary is None and run.state(time.time()) == "running" and run.examples() == (120, 180)


def test_what_is_no_run_is_refused(tmp_path, monkeypatch, capsys):
    assert watch.main([str(tmp_path / "nowhere")]) == 2
    assert watch.main([str(tmp_path)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'nowhere'} is no folder. Start the run first" in first
    assert f"{tmp_path} is no run directory (it has none of metrics.jsonl, config.json, logs, system)." in second
    (tmp_path / "logs").mkdir()
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert watch.main([str(tmp_path)]) == 1
    assert "needs the extra 'monitor': pip install 'jaxdist[monitor]'" in capsys.readouterr().err


def read_until(handle: int, pattern: str, seconds: float = 60.0) -> str:
    """The lines that a terminal gets, up to one that matches; at the end of the program all of them."""
    text, raw, deadline = "", "", time.monotonic() + seconds
    while not re.search(pattern, text) and time.monotonic() < deadline:
        if select.select([handle], [], [], 0.2)[0]:
            try:
                part = os.read(handle, 1 << 16)
            except OSError:  # Linux: nobody writes any more
                break
            if not part:
                break
            raw += part.decode(errors="replace")
            text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", re.sub(r"\r|\x1b\[\d*A", "\n", raw))
    return text


@pytest.mark.long
def test_a_real_run_is_followed_on_a_terminal_to_its_death_while_it_is_scraped(tmp_path):
    port = free_port()
    metrics = {"monitor__prometheus_port": port, "monitor__interval_seconds": 0.2}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environ = environment() | {"TERM": "xterm"}
    environ.pop("COLUMNS", None)
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(Run(tmp_path, 2, servers=1, num_epochs=5000.0, **metrics))
        wait_for_update(tmp_path, 30)
        command = [sys.executable, "tools/watch.py", str(tmp_path), "--interval=0.2"]
        viewer = subprocess.Popen(command, cwd=ROOT, env=environ, stdin=theirs, stdout=theirs, stderr=theirs)
        stack.callback(viewer.kill)
        os.close(theirs)
        stack.callback(os.close, ours)
        live = read_until(ours, r"worker-1 +running")
        assert re.search(r"running .* 0 %", live) and re.search(r"server-0 +running +\d\.\d\d", live), live
        assert max(map(len, live.splitlines())) <= 80
        for above, name in enumerate(("worker-0", "worker-1")):
            wait_until(lambda at=port + above: "jaxdist_step_seconds" in scraped(at), f"row of {name}")
            found = scraped(port + above)
            assert found["jaxdist_updates"][1] >= 3 and found["jaxdist_updates"][2] == {"process": name}
            assert {"jaxdist_step_seconds", "jaxdist_images_per_second", "jaxdist_train_loss", "jaxdist_train_accuracy",
                    "jaxdist_staleness_mean", "jaxdist_sent_bytes_total", "jaxdist_system_cpu",
                    "jaxdist_system_memory_bytes", "process_cpu_seconds_total"} <= found.keys()  # fmt: skip
            assert 0 < found["jaxdist_train_loss"][1] < 100 and found["jaxdist_sent_bytes_total"][1] > 1000
        server = scraped(port + 1000)
        assert server["jaxdist_updates"][1] >= 30 and server["jaxdist_system_cpu"][2] == {"process": "server-0"}
        for process in (*run.processes, *run.servers):
            process.kill()
        end = read_until(ours, "nothing is as this", 30)
        assert viewer.wait(30) == 0
        assert re.search(r"killed .*", end) and len(re.findall(r"(?:worker|server)-\d +killed", end)) >= 3, end
