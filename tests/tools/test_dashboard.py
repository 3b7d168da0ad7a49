"""`tools/dashboard.py` with `dashboard_runs.py`, `dashboard_feed.py` and `dashboard_panels.py`: what its server
hands out, and what it refuses.

The page itself (`dashboard.html`, `.css`, `.js`, `dashboard_chart.js`) was looked at in a browser; here its files are
found whole, and ask nothing of other servers.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import dashboard
import pytest
from dashboard_feed import FRESH_SECONDS, RunFeed, averaged, is_locked
from dashboard_panels import PANELS
from dashboard_runs import Runs, find_runs
from helpers.processes import ROOT

RESULTS = ROOT / "experiments" / "results" / "strategy_switch_fmnist"


def lines(*rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def train(updates, **more):
    return {"kind": "train", "time": updates / 10, "updates": updates, "epoch": updates / 100, "loss": 1.0} | more


def event(name, at=0.0, **more):
    return {"kind": "event", "event": name, "time": at, "updates": 0, "epoch": 0.0} | more


def sample(at, **more):
    return {"unix_time": 1000.0 + at, "host": "a", "pid": 1, "memory_bytes": 10, "host_cpu": 1.5} | more


@pytest.fixture
def going(tmp_path):
    """A run that goes on: 20 rows, and samples of two processes on one host; `worker-1` says more than `worker-0`."""
    folder = tmp_path / "trial" / "seed0"
    (folder / "system").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"num_epochs": 8.0, "strategy.name": "allreduce"}))
    rows = [event("clock", unix_time_of_0=1000.0), *(train(k) for k in range(1, 21))]
    (folder / "metrics.jsonl").write_text(lines(*rows))
    more = {"host_cpu_user": 1.0, "interfaces": {"eth0": {"sent_per_second": 5, "received_per_second": 7}}}
    (folder / "system" / "worker-0.jsonl").write_text(lines(*(sample(2.0 * k) for k in range(1, 11))))
    (folder / "system" / "worker-1.jsonl").write_text(lines(*(sample(2.0 * k + 0.5, **more) for k in range(1, 11))))
    return folder


@pytest.fixture
def serve():
    """Starts a server of folders in this process; returns a function that asks it: path -> (status, body)."""
    servers = []

    def start(*folders):
        server = dashboard.Server(folders, 0)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))

        def ask(path, method="GET", host="127.0.0.1"):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
            connection.request(method, path, headers={"Host": host})
            response = connection.getresponse()
            body = response.read()
            connection.close()
            return response.status, body

        return ask

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def add(path, *rows, text="") -> None:
    with open(path, "a") as file:
        file.write(text + lines(*rows))


def test_a_page_gets_only_what_it_does_not_have(going, serve):
    ask = serve(going.parents[1])

    def rows(cursor):
        return json.loads(ask(f"/data.json?want={run}:{cursor}")[1])["rows"].get(run)

    (head,) = json.loads(ask("/data.json")[1])["runs"]
    run = head["id"]
    assert (head["name"], head["state"], head["epochs"], head["updates"]) == ("trial/seed0", "running", 8.0, 20)
    first = rows("")
    assert first["replace"] and first["train"]["time"] == [k / 10 for k in range(1, 21)]
    assert rows(first["cursor"]) is None
    add(going / "metrics.jsonl", text='{"kind": "train", "ti')  # half a line: not yet
    assert rows(first["cursor"]) is None
    add(going / "metrics.jsonl", text='me": 2.1, "updates": 21, "epoch": 0.21, "loss": null}\n')
    add(going / "metrics.jsonl", train(22, loss=0.5), event("worker_lost", 2.15, worker=1))
    add(going / "system" / "worker-0.jsonl", sample(22.0))
    more = rows(first["cursor"])
    assert not more["replace"] and more["train"] == {"time": [2.1, 2.2], "epoch": [0.21, 0.22], "loss": [None, 0.5]}
    assert more["events"] == [
        {"time": 2.15, "epoch": 0.0, "event": "worker_lost", "mark": "trouble", "more": "worker 1"}
    ]
    assert 22 < more["system"]["time"][-1] < 24 and len(more["system"]["time"]) < len(first["system"]["time"])
    # After a resume rows are replaced: everything comes again. So it does to who has no cursor of ours.
    add(going / "metrics.jsonl", event("clock", 1.5, unix_time_of_0=2000.0), train(20, loss=0.25))
    again = rows(more["cursor"])
    assert again["replace"] and again["train"]["loss"][-3:] == [0.25, None, 0.5]
    assert rows("1.2.x.4.5")["replace"] and rows("nonsense")["replace"]


def test_samples_are_summed_over_processes_and_hosts(going):
    feed = RunFeed(going)
    feed.look()
    system = feed.after("")["system"]
    cell = system["time"].index(7.0)
    assert system["memory_bytes"][cell] == 20 and system["host_cpu"][cell] == 1.5  # two processes, one host
    assert system["host_cpu_user"][cell] == 1.0 and "host_cpu_iowait" not in system
    assert system["interface eth0 received_per_second"][cell] == 7
    assert system["host_cpu"][0] is None  # before the first sample


def test_states_of_runs(going, tmp_path):
    feed = RunFeed(going)

    def state() -> str:
        feed.look()
        return feed.head()["state"]

    assert state() == "running"
    first = feed.after("")
    old = time.time() - 2 * FRESH_SECONDS
    for path in (*going.glob("*.json*"), *going.glob("system/*")):
        os.utime(path, (old, old))
    assert state() == "stopped" and feed.after(first["cursor"]) is None
    with open(going / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_locked(going / ".lock"):  # where the kernel tells
            assert state() == "running"
    (going / "summary.json").write_text("{}")
    assert state() == "finished"
    assert feed.after("") == first and feed.after(first["cursor"]) is None
    add(going / "metrics.jsonl", {"kind": "train"})
    feed.look()
    assert "KeyError: 'updates'" in feed.head()["error"] and feed.after("") is None


def test_a_damaged_row_is_one_run_s_error(going, tmp_path):
    sound = tmp_path / "trial" / "seed1"
    sound.mkdir()
    (sound / "metrics.jsonl").write_text(lines(event("clock", unix_time_of_0=1000.0), train(1)))
    add(going / "metrics.jsonl", {"kind": "event", "event": "worker_lost", "updates": 3})
    runs = Runs([tmp_path])
    wanted = {head["id"]: "" for head in runs.answer({})["runs"]}
    for _ in range(2):  # also of the next answer
        found = runs.answer(wanted)
        heads = {head["name"]: head for head in found["runs"]}
        assert "KeyError: 'time'" in heads["trial/seed0"]["error"] and "error" not in heads["trial/seed1"]
        assert [*found["rows"]] == [heads["trial/seed1"]["id"]]
    old = time.time() - 2 * FRESH_SECONDS
    for path in (*going.glob("*.json*"), *going.glob("system/*")):
        os.utime(path, (old, old))  # it has stopped: what it keeps for pages is made at once
    heads = {head["name"]: head for head in runs.answer(wanted)["runs"]}
    assert "KeyError" in heads["trial/seed0"]["error"] and "error" not in heads["trial/seed1"]


def test_kept_runs_come_thinned_and_whole(serve):
    ask = serve(RESULTS)
    heads = json.loads(ask("/data.json")[1])["runs"]
    (one,) = [head for head in heads if head["name"] == "switch_50/seed0"]
    assert {head["state"] for head in heads} == {"finished"} and len(heads) == len(list(RESULTS.glob("*/seed*")))
    rows = json.loads(ask(f"/data.json?want={one['id']}:")[1])["rows"][one["id"]]
    kept = [json.loads(line) for line in (RESULTS / "switch_50/seed0/metrics.jsonl").read_text().splitlines()]
    accuracies = [row["accuracy"] for row in kept if row["kind"] == "eval"]
    assert rows["eval"]["accuracy"] == pytest.approx(accuracies, rel=1e-5)
    assert [e["event"] for e in rows["events"] if e["mark"] == "switch"] == ["switched"]
    assert {"staleness_mean", "images_per_second"} < set(rows["train"]) and "network" in rows["system"]
    many = averaged([{"time": k, "a_max": k % 7} for k in range(50_000)], ("time", "a_max", "b"))
    assert len(many["time"]) == 600 and many["a_max"] == [6] * 600 and "b" not in many
    assert many["time"][0] == sum(range(83)) / 83


def test_many_runs_are_read_by_and_by():
    runs = Runs([RESULTS], seconds=0.0)  # no time at all: one run an answer
    first = runs.answer({})
    ids = [head["id"] for head in first["runs"]]
    assert first["unread"] == len(ids) and "epoch" not in first["runs"][0]
    second = runs.answer(dict.fromkeys(ids, ""))
    assert list(second["rows"]) == ids[:1] and second["runs"][0]["epoch"] > 7.9
    third = runs.answer(dict.fromkeys(ids[1:], "") | {ids[0]: second["rows"][ids[0]]["cursor"]})
    assert list(third["rows"]) == ids[1:2]


def test_only_what_belongs_to_the_page_is_served(tmp_path, going, serve):
    ask = serve(going)
    for path in (
        "/../README.md",
        "/dashboard.py",
        "//etc/passwd",
        "/%2e%2e/README.md",
        "/data.json/..",
        "/run_reader.py",
    ):
        assert ask(path)[0] == 404
    assert ask("/data.json?want=../../etc:,x:y,:::")[0] == 200
    assert ask("/data.json", host="elsewhere.example")[0] == 403 and ask("/data.json", host="localhost:1")[0] == 200
    assert ask("/data.json", method="POST")[0] == 501 and ask("/data.json", method="DELETE")[0] == 501
    assert json.loads(ask("/panels.json")[1])[0]["title"] == PANELS[0]["title"] == "accuracy"
    texts = [ask(path)[1].decode() for path in dashboard.FILES]
    assert not any(re.search(r"https?://|innerHTML", text) for text in texts)
    named = set(re.findall(r'(?:href|src|from)\W{1,2}\.?/?([\w.]+\.(?:js|css))"', "".join(texts)))
    assert named == {"dashboard.css", "dashboard.js", "dashboard_chart.js"}


def test_new_runs_are_found_and_told_apart(tmp_path):
    for name in ("a/x/seed0", "b/x/seed0", "b/x/seed1", "b/y", "b/deep/er/than/that"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    assert list(find_runs([tmp_path]).values()) == ["a/x/seed0", "b/x/seed0", "b/x/seed1", "y"]
    assert list(find_runs([tmp_path / "b/x", tmp_path / "b/x/seed0"]).values()) == ["x/seed0", "x/seed1"]


def test_bad_input_is_refused(tmp_path, going, capsys):
    def refused(*arguments) -> str:
        assert dashboard.main([*map(str, arguments)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    assert f"Not a folder: {tmp_path / 'nowhere'}." in refused(going, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert f"No run in {tmp_path / 'empty'}:" in refused(tmp_path / "empty")
    assert "--port=70000 is no port" in refused(going, "--port=70000")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"Port {port} of 127.0.0.1 cannot be used (Address already in use)" in refused(going, f"--port={port}")


def test_ctrl_c_ends_it(going):
    command = [sys.executable, "tools/dashboard.py", str(going)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert re.match(r"http://127\.0\.0\.1:\d+/ shows 1 run\.", process.stdout.readline())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0 and err == ""
