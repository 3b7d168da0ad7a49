"""Whose run a process takes part in: two jobs on one port, one command started twice, another job's servers.

All orders of four processes are tested in `unit/cluster/test_process_group.py`.
"""

from __future__ import annotations

import json
import time

import pytest
from free_ports import free_port
from helpers.processes import Run, long, main_command, rows, start, wait_for_server, wait_for_update

FOUR = ("A0", "A1", "B0", "B1")


def two_jobs(folder, order, *, seed_of_b: int = 0, **settings) -> dict[str, tuple[int, str]]:
    """Two jobs of two workers at one coordinator's address, started in that order: exit code and last line of each."""
    address, processes = f"127.0.0.1:{free_port()}", {}
    with Run(folder, 0) as run:
        for name in order:
            flags = [f"--coordinator_address={address}", "--num_processes=2", f"--process_id={name[1]}"]
            seed = seed_of_b if name[0] == "B" else 0
            command = main_command(folder / name[0], *flags, seed=seed, num_epochs=4.0, **settings)
            processes[name] = start(command, {})
            run.processes.append(processes[name])
            time.sleep(0.1)
        ended = dict(zip(order, run.wait(), strict=True))
    return {name: (e.code, e.output.splitlines()[-1]) for name, e in ended.items()}


@pytest.mark.parametrize(
    ("order", "seed_of_b"),
    [(("B1", "A0", "A1", "B0"), 0), long(("A1", "B1", "B0", "A0"), 1), long(("A0", "B1", "A1", "B0"), 1)],
)
def test_two_jobs_on_one_port(tmp_path, order, seed_of_b):
    """Nobody trains in the wrong job, and the job that has the port ends well."""
    ended = two_jobs(tmp_path, order, seed_of_b=seed_of_b, cluster__connect_timeout_seconds=20.0)
    winner = "A" if ended["A0"][0] == 0 else "B"
    loser = "B" if winner == "A" else "A"
    assert [ended[f"{winner}{i}"][0] for i in (0, 1)] == [0, 0], ended
    assert [ended[f"{loser}{i}"][0] for i in (0, 1)] == [2, 2], ended
    assert "cannot serve at --coordinator_address" in ended[f"{loser}0"][1]
    assert (
        f"workdir={tmp_path / winner}, and this process belongs to workdir={tmp_path / loser}" in ended[f"{loser}1"][1]
    )
    assert json.loads((tmp_path / winner / "summary.json").read_text())["updates"] == 80
    assert not (tmp_path / loser / "summary.json").exists()


@pytest.mark.long  # by themselves: `unit/cluster/test_process_group.py`, `contract/test_reservation.py`
def test_one_command_started_twice_and_servers_of_another_job(tmp_path):
    """Whoever comes second is refused alone: a worker, and another job's chief at waiting servers."""
    with Run(tmp_path / "a", 2, num_epochs=500.0) as run, Run(tmp_path / "b", 0, servers=1) as servers:
        wait_for_server(servers.addresses[0])
        where = f"--server_addresses={servers.addresses[0]}"
        servers_flags = {"strategy__name": "parameter_server"}
        wrong = start(main_command(tmp_path / "c", where, **servers_flags), {})
        wait_for_update(tmp_path / "a", 3)
        again = start(run.commands["worker 1"], {})
        said = [p.communicate(timeout=60)[0] for p in (wrong, again)]
        assert [wrong.returncode, again.returncode] == [2, 2], said
        assert f"started for workdir={tmp_path / 'b'}" in said[0] or "do not agree on run" in said[0]
        assert "--process_id=1 is taken by process" in said[1].splitlines()[-1]
        wait_for_update(tmp_path / "a", max(rows(tmp_path / "a", "train")) + 3)
        assert [process.poll() for process in run.processes] == [None, None]
        right = start(main_command(tmp_path / "b", where, **servers_flags), {})
        output, _ = right.communicate(timeout=120)
        assert right.returncode == 0, output
        assert servers.servers[0].wait(30) == 0
