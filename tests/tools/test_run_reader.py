"""`tools/run_reader.py`: run directories, whole or not, with several starts."""

from __future__ import annotations

import json

from run_reader import GrowingLines, cluster_samples, groups, keep_small, read_run, staleness_mean


def write_run(folder, *, starts, samples):
    """A run directory with the `clock` events and samples given."""
    (folder / "system").mkdir(parents=True)
    lines = [{"kind": "event", "event": "clock", "time": t, "unix_time_of_0": z, "updates": 0} for t, z in starts]
    lines += [{"kind": "eval", "time": 5.0, "updates": u, "epoch": 1.0, "loss": u, "accuracy": 0.5} for u in (3, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines) + '{"kind": "ev')
    for process, times in samples.items():
        common = {"host": "a", "host_cores": 2, "host_cpu": 1.0, "host_sent_per_second": 0, "loopback_per_second": 100}
        rows = [common | {"unix_time": t, "memory_bytes": 10} for t in times]
        (folder / "system" / f"{process}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rows))


def test_samples_of_all_processes_are_on_the_run_s_clock(tmp_path):
    # Started at 1000, resumed at 2000 from a checkpoint at 40 s.
    samples = {"worker-0": range(1000, 1040, 2), "worker-1": [*range(1000, 1030, 2), *range(2000, 2010, 2)]}
    write_run(tmp_path / "x", starts=[(0.0, 1000.0), (40.0, 1960.0)], samples=samples)
    run = read_run(tmp_path / "x")
    assert [s["time"] for s in run.system["worker-1"][-5:]] == [40.0, 42.0, 44.0, 46.0, 48.0]
    assert len(run.evaluations) == 1 and run.summary is None
    found = cluster_samples(run)
    assert found["memory"][3] == 20 and found["network"][3] == 100 and found["cpu"][3] == 0.5
    keep_small(run, tmp_path / "kept", most_rows=10)
    kept = read_run(tmp_path / "kept")
    assert len(kept.system["worker-0"]) == 10
    assert kept.system["worker-0"][-1]["time"] == run.system["worker-0"][-1]["time"]


def test_runs_that_differ_by_their_seed_are_a_group(tmp_path):
    for name in ("a/seed0", "a/seed1", "b-seed2"):
        (tmp_path / name).mkdir(parents=True)
    runs = [read_run(tmp_path / name) for name in ("a/seed0", "b-seed2", "a/seed1")]
    assert {k: [r.name for r in v] for k, v in groups(runs).items()} == {"a": ["a/seed0", "a/seed1"], "b": ["b-seed2"]}


def test_staleness_is_that_of_all_pushes_of_all_phases():
    phases = [{}, {"staleness_histogram": [{"0": 2, "1": 1}, {"3": 1}]}]
    assert staleness_mean({"phases": phases}) == 1.0
    assert staleness_mean({}) is None


def test_files_that_grow_are_read_on_from_where_they_ended(tmp_path):
    path, growing = tmp_path / "rows.jsonl", GrowingLines()
    assert growing(path) == []
    path.write_text('{"a": 1}\n{"a": ')
    assert growing(path) == [{"a": 1}]
    path.write_text('{"a": 7}\n{"a": 2}\nbroken\n{"a": 3}\n')
    assert growing(path) == [{"a": 1}, {"a": 2}, {"a": 3}]  # the first line is not read again
    path.write_text('{"a": 9}\n')
    assert growing(path) == [{"a": 9}] and growing.restarts == 1
