"""Runs of several phases whose processes are killed, fail, and come back (`train/phases.py`)."""

from __future__ import annotations

import json
import pathlib
import random
import signal

import pytest
from helpers.outcomes import final_state
from helpers.processes import Ended, Run, checkpoints, events, finish
from helpers.recording_data import let_go, wait_until_it_trains

SWITCH = {"strategy__name": "switch"}
SOON = {"strategy__lease_seconds": 3.0}  # how long the others wait for one that was killed
GOES_ON = "The run goes on"


def _killed(folder: pathlib.Path, fault: str, **settings) -> list[Ended]:
    """A run of two workers whose chief is killed; it and the other one end, the servers wait for another run."""
    soon = SOON | {"cluster__timeout_seconds": 8.0}  # which is the chief's
    with Run(folder, 2, fault=f"delay@seconds=0.02;kill@process=0,{fault}", **settings, **soon) as run:
        ended = run.wait(90, servers=False)
    assert ended[0].code == -signal.SIGKILL and ended[1].code == 1, [e.output[-1500:] for e in ended]
    return ended


def _log(folder: pathlib.Path) -> str:
    return (folder / "logs" / "worker-0.log").read_text()


def test_killed_at_any_moment_it_resumes(tmp_path):
    """First before any checkpoint has its name, so that it begins anew; then when there is one, so that it goes on."""
    schedule = "allreduce:0.4,parameter_server:0.3,allreduce"  # 16 updates, 24 pushes, 12 updates
    settings = SWITCH | {"servers": 1, "strategy__schedule": schedule, "checkpoint__every_updates": 5}
    _killed(tmp_path, "point=checkpoint", **settings)
    assert list((tmp_path / "checkpoints").glob("5.tmp-*")) and not checkpoints(tmp_path)
    moment = random.randrange(11, 50)  # saving update 10 has waited for the checkpoint of update 5
    print("killed at", moment)
    _killed(tmp_path, f"update={moment}", **settings)
    assert checkpoints(tmp_path) and GOES_ON not in _log(tmp_path)
    summary = finish(tmp_path, 2, **settings)
    assert summary["examples_seen"] == 480
    assert GOES_ON in _log(tmp_path)


@pytest.mark.long
def test_killed_at_either_end_of_a_hand_over_it_resumes_at_the_boundary(tmp_path):
    schedule = "allreduce:0.25,parameter_server:0.25,allreduce:0.25,parameter_server"  # 10, 20, 10 and 20 updates
    settings = SWITCH | {"servers": 1, "strategy__schedule": schedule}
    _killed(tmp_path, "point=switch", **settings)
    assert checkpoints(tmp_path) == [10]
    # The other one does not train the whole last phase before the chief's lease is over.
    _killed(tmp_path, "point=switched,update=40;delay@process=1,point=switched,update=40,seconds=20", **settings)
    assert f"{GOES_ON} at the boundary before phase 2 of 4" in _log(tmp_path)
    assert checkpoints(tmp_path)[-1] == 40
    summary = finish(tmp_path, 2, **settings)
    assert summary["examples_seen"] == 480
    assert f"{GOES_ON} at the boundary before phase 4 of 4" in _log(tmp_path)


@pytest.mark.long
def test_a_lost_worker_ends_the_run_where_a_synchronous_phase_needs_it(tmp_path):
    """It is killed as soon as the asynchronous phase has begun."""
    schedule = "allreduce:0.25,parameter_server:0.5,allreduce"
    settings = SWITCH | SOON | {"servers": 1, "strategy__schedule": schedule}
    with Run(tmp_path, 3, fault="delay@seconds=0.02;kill@process=1,point=switched", **settings) as run:
        ended = run.wait(120)
    assert [e.code for e in ended] == [1, -signal.SIGKILL, 1, 1], [e.output[-1500:] for e in ended]
    assert "worker 1 was lost in phase 2, and phase 3 (allreduce) needs all 3" in ended[0].error
    assert final_state(tmp_path).examples_seen == 360
    summary = finish(tmp_path, 3, **settings)
    assert summary["examples_seen"] == 480
    assert f"{GOES_ON} at the boundary before phase 3 of 3" in _log(tmp_path)


@pytest.mark.long
def test_workers_that_are_started_again_join_the_asynchronous_phase(tmp_path):
    """One was killed, one has failed. Before both are back nobody takes more than 60 rows, and the phase has 384."""
    (tmp_path / "rows").mkdir()
    schedule = "allreduce:0.1,parameter_server:0.8,allreduce"
    settings = SWITCH | SOON | {"strategy__schedule": schedule, "data__options__most": 60}
    settings |= {"config": "tests/helpers/recorded_config.py", "data__options__folder": str(tmp_path / "rows")}
    fault = "kill@process=1,update=8;raise@process=2,update=8"
    with Run(tmp_path / "run", 3, servers=1, fault=fault, **settings) as run:
        for worker in (1, 2):
            run.processes[worker].wait(90)
        again = [run.restart(f"worker {worker}") for worker in (1, 2)]
        for process in again:
            wait_until_it_trains(tmp_path / "rows", process.pid)
        let_go(tmp_path / "rows")
        ended = run.wait(120)
    assert [e.code for e in ended] == [0] * 4, [e.output[-1500:] for e in ended]
    assert all("The run is in phase 2 already" in e.output for e in ended[1:3])
    joined = [e for e in events(tmp_path / "run") if e["event"] == "worker_joined_again"]
    assert len(joined) == 2
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["examples_seen"] == 480
