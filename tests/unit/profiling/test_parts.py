"""Parts of a profile belong together, or are refused with what differs."""

from __future__ import annotations

import pytest
from helpers.profile_parts import BEGAN, write_part

from jaxdist.errors import UsageError
from jaxdist.profiling.parts import read_parts


def test_workers_come_first_and_in_the_order_of_their_numbers(tmp_path):
    for process in ("server-0", "worker-10", "worker-2"):
        write_part(tmp_path / "h0", process, num_processes=1 if process == "server-0" else 2)  # of its role
    write_part(tmp_path / "h1", "worker-0", host="h1")
    (tmp_path / "h0" / "summary.json").write_text("{}")  # what a merge before has written is no part
    parts = read_parts([tmp_path / "h0", tmp_path / "h1"])
    assert [part.process for part in parts] == ["worker-0", "worker-2", "worker-10", "server-0"]
    assert [(part.role, part.number, part.host) for part in parts[::3]] == [("worker", 0, "h1"), ("server", 0, "h0")]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"config": {"model.name": "cnn", "data.name": "mnist"}},
         "different runs: data.name is digits in worker-0 and mnist in worker-1"),
        ({"strategy": "pipeline"}, "different runs: strategy is allreduce in worker-0 and pipeline in worker-1"),
        ({"num_processes": 3}, "different runs: number of workers is 2 in worker-0 and 3 in worker-1"),
        ({"window": "updates_9-12"},
         "different windows: window is updates 4 to 6 in worker-0 and updates 10 to 12 in worker-1"),
        ({"began": BEGAN + 3600, "ended": BEGAN + 3601},
         "3600 s lie between worker-0's and worker-1's; remove the older one"),
    ],
)  # fmt: skip
def test_parts_of_different_runs_are_refused(tmp_path, other, words):
    write_part(tmp_path, "worker-0")
    write_part(tmp_path, "worker-1", **other)
    with pytest.raises(UsageError, match=words):
        read_parts([tmp_path])


def test_clocks_of_different_hosts_may_be_hours_apart(tmp_path):
    write_part(tmp_path, "worker-0")
    write_part(tmp_path, "worker-1", host="h1", clock=7200.0)
    assert len(read_parts([tmp_path])) == 2


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UsageError, match=f"No process has written a profile into {tmp_path}"):
        read_parts([tmp_path])
    write_part(tmp_path / "a", "worker-0")
    write_part(tmp_path / "b", "worker-0")
    with pytest.raises(UsageError, match=r"worker-0 has a part in .*a and one in .*b: name the folders of one run"):
        read_parts([tmp_path / "a", tmp_path / "b"])
    (tmp_path / "a" / "worker-0.json").write_text('{"process": "worker-0", "rows": [')
    with pytest.raises(UsageError, match=r"worker-0.json cannot be read, it is damaged"):
        read_parts([tmp_path / "a"])
    (tmp_path / "a" / "worker-0.json").write_text('{"process": "worker-0"}')
    with pytest.raises(UsageError, match=r"worker-0.json is no profile of a process: it lacks began, ended"):
        read_parts([tmp_path / "a"])
