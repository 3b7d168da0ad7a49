"""Least, mean and most over a run, of a host and of hosts together, against sums made here."""

from __future__ import annotations

import json

import pytest

from jaxdist.runtime.usage import _CELLS, Usage, of_cluster


def sample(end, seconds=2.0, host="a", **values):
    return {"unix_time": end, "seconds": seconds, "pid": 1, "host": host, "host_cores": 4, "interfaces": {}} | values


def used(process, *samples):
    usage = Usage(process, 2.0)
    for one in samples:
        usage.add(one)
    return usage.to_json()


def test_the_mean_is_over_time_and_a_short_sample_is_neither_least_nor_most():
    report = used("worker-0", *(sample(t, s, cpu=c) for t, s, c in ((2, 2, 1.0), (4, 2, 0.5), (4.5, 0.5, 3.0))))
    assert report["spent"] == {"cpu": [0.5, 1.0, 1.0]} and report["seconds"] == 4.5
    assert used("worker-0", sample(1, 0.5, cpu=3.0))["spent"] == {"cpu": [3.0, 3.0, 3.0]}  # the only one
    assert used("worker-0") is None


def test_hosts_are_added_up_moment_by_moment_and_counted_once():
    # Host a is busy when b is not: the sum is always 3. The second process of a says the same of it.
    of_a = [sample(2 * k + 2, host_cpu=3.0 if k % 2 else 0.0, memory_bytes=10, cpu=1.0) for k in range(8)]
    of_b = [sample(2 * k + 2, host="b", host_cpu=0.0 if k % 2 else 3.0, memory_bytes=k, cpu=0.0) for k in range(8)]
    reports = [used("worker-0", *of_a), used("worker-1", *of_b), None, used("server-0", *of_a[1:])]
    found = of_cluster(json.loads(json.dumps(reports)))
    assert found["cluster"]["host_cpu"] == {"min": 3.0, "mean": 3.0, "max": 3.0} and found["cluster"]["cores"] == 8
    assert found["cluster"]["memory_bytes"] == {"min": 21, "mean": 23.5, "max": 27}  # where all three were watched
    assert found["hosts"]["a"]["host_cpu"] == {"min": 0.0, "mean": 1.5, "max": 3.0}
    assert found["hosts"]["a"]["processes"] == ["worker-0", "server-0"] and "cpu" not in found["hosts"]["a"]
    assert found["processes"]["worker-1"] == {
        "host": "b", "cpu": {"min": 0.0, "mean": 0.0, "max": 0.0}, "memory_bytes": {"min": 0, "mean": 3.5, "max": 7},
    }  # fmt: skip


def test_a_long_run_takes_no_more_room_and_keeps_its_sums():
    long = [sample(1000 + 2 * k, host_cpu=float(k % 5), cpu=0.0) for k in range(1000)]
    report = used("worker-0", *long)
    cells = report["cells"]
    assert len(cells["numbers"]) <= _CELLS and cells["width"] == 32.0 and len(json.dumps(report)) < 5000
    assert sum(cells["sums"]["host_cpu"]) == pytest.approx(2 * sum(k % 5 for k in range(1000)))
    assert sum(cells["sums"][""]) == 2000
    # Beside a host that was watched for a moment, whose cells are narrow: the common moment counts.
    short = used("worker-1", *(sample(1500 + 2 * k, host="b", host_cpu=1.0) for k in range(32)))
    assert short["cells"]["width"] == 2.0
    both = of_cluster([report, short])["cluster"]
    assert both["host_cpu"]["mean"] == pytest.approx(3.0) and both["cell_seconds"] == 32.0
    assert 2.5 < both["host_cpu"]["min"] <= both["host_cpu"]["max"] < 3.5


def test_hosts_that_were_never_watched_together_have_a_mean():
    apart = of_cluster([used("a", sample(2, host_cpu=1.0)), used("b", sample(90, host="b", host_cpu=2.0))])
    assert apart["cluster"]["host_cpu"] == {"min": 3.0, "mean": 3.0, "max": 3.0}


def test_what_one_host_does_not_count_is_not_added_up():
    found = of_cluster(
        [used("a", sample(2, host_cpu=1.0, host_cpu_iowait=0.5)), used("b", sample(2, host="b", host_cpu=2.0))]
    )
    assert "host_cpu_iowait" not in found["cluster"] and "host_cpu_iowait" in found["hosts"]["a"]
    assert of_cluster([None, None]) is None
