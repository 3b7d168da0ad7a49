"""`tools/run_reader.py` (and `system_table.py`): run directories, whole or not, with several starts."""

from __future__ import annotations

import json

from run_reader import cluster_samples, groups, keep_small, read_run, staleness_mean, system_usage
from system_table import system_table


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


def test_what_hosts_spent_is_read_of_samples_and_of_the_summary_for_hosts_that_are_not_here(tmp_path):
    write_run(tmp_path / "x", starts=[(0.0, 1000.0)], samples={"worker-0": range(1002, 1042, 2)})
    path = tmp_path / "x" / "system" / "worker-0.jsonl"
    split = {"seconds": 2.0, "host_cpu_user": 0.5, "host_cpu_system": 0.25, "host_memory_bytes": 2**30}
    samples = [json.loads(line) | split for line in path.read_text().splitlines()]
    samples[-1] |= {"seconds": 0.5, "host_cpu_user": 2.0}  # a short one counts for its time alone
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    run = read_run(tmp_path / "x")
    mean = (19 * 2.0 * 0.5 + 0.5 * 2.0) / 38.5
    found = system_usage(run)
    assert found["hosts"]["a"]["host_cpu_user"] == {"min": 0.5, "mean": round(mean, 4), "max": round(mean, 4)}
    header, row = system_table({"x": [run]})
    cells = dict(zip(header, row, strict=True))
    assert cells["user"] == f"{50 * mean:.0f} [25, 26]" and cells["system"] == "12 [12, 12]" and cells["wait"] == "-"
    assert cells["memory used, GiB"] == "1.00 [1.00, 1.00]" and (row[0], row[1]) == ("x", "a")
    assert cluster_samples(run)["cpu_system"][5] == 0.125 and cluster_samples(run)["cpu_iowait"][5] == 0.0
    # Another host's samples are on its own disk; the summary has what it told at the end.
    told = {"hosts": {"a": {}, "b": {"cores": 4}}, "processes": {"worker-1": {"host": "b"}}, "cluster": {"cores": 6}}
    (tmp_path / "x" / "summary.json").write_text(json.dumps({"system": told}))
    both = system_usage(read_run(tmp_path / "x"))
    assert both["hosts"] == {"a": found["hosts"]["a"], "b": {"cores": 4}} and both["cluster"] == {"cores": 6}
    assert both["processes"].keys() == {"worker-0", "worker-1"}
    assert [row[:2] for row in system_table({"x": [read_run(tmp_path / "x")]})[1:]] == [
        ["x", "cluster"], ["x", "a"], ["x", "b"],
    ]  # fmt: skip
    assert system_table({"none": [read_run(tmp_path)]}) == []


def test_runs_that_differ_by_their_seed_are_a_group(tmp_path):
    for name in ("a/seed0", "a/seed1", "b-seed2"):
        (tmp_path / name).mkdir(parents=True)
    runs = [read_run(tmp_path / name) for name in ("a/seed0", "b-seed2", "a/seed1")]
    assert {k: [r.name for r in v] for k, v in groups(runs).items()} == {"a": ["a/seed0", "a/seed1"], "b": ["b-seed2"]}


def test_staleness_is_that_of_all_pushes_of_all_phases():
    phases = [{}, {"staleness_histogram": [{"0": 2, "1": 1}, {"3": 1}]}]
    assert staleness_mean({"phases": phases}) == 1.0
    assert staleness_mean({}) is None


def test_a_sample_before_time_0_is_in_no_cell_of_the_run(tmp_path):
    write_run(tmp_path / "x", starts=[(0.0, 1000.0)], samples={"worker-0": [999, 1003]})
    assert cluster_samples(read_run(tmp_path / "x"))["memory"] == [0.0, 10.0]
