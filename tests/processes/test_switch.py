"""Runs of several phases over real processes: exact over a boundary, nothing lost or repeated, ended by a rule.

What holds `train/phases.py`, and what it needs of `config/phases.py`, `train/phase_triggers.py` and
`ps/reservation.py`, whose tests without processes are under their names. Faults are in `test_switch_faults.py`.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import re
import shutil
import signal

import pytest
from helpers.outcomes import assert_times_add_up, final_state, reference_state
from helpers.processes import Ended, Run, events, finish, long, rows, start, wait_for_update
from helpers.recording_data import let_go, taken
from helpers.reference import assert_same

from jaxdist.optim import schedules
from jaxdist.state import TrainState
from jaxdist.train import phase_triggers

SWITCH = {"strategy__name": "switch"}
RECORDED = "tests/helpers/recorded_config.py"


def _finish_recorded(folder: pathlib.Path, schedule: str, **settings) -> dict:
    """The summary of a run of two workers in `folder/run` whose rows are in `folder/rows`; keeps all checkpoints."""
    (folder / "rows").mkdir()
    settings |= SWITCH | {"strategy__schedule": schedule, "data__options__folder": str(folder / "rows")}
    return finish(folder / "run", 2, servers=2, config=RECORDED, checkpoint__keep=100, **settings)


def _state_at(folder: pathlib.Path, updates: int) -> TrainState:
    """Of the checkpoint after `updates`."""
    alone = folder / f"at-{updates}"
    if not alone.exists():
        shutil.copytree(folder / "run" / "checkpoints" / str(updates), alone / "checkpoints" / str(updates))
    return final_state(alone)


# One run through all kinds of boundaries, looked at by several tests: 60 updates of 12 examples in 3 epochs.


@pytest.fixture(scope="module")
def switched(tmp_path_factory) -> tuple[pathlib.Path, dict]:
    """(folder, summary). The slow chief ends its asynchronous phase at an evaluation; the other worker has last seen
    an earlier version then."""
    folder = tmp_path_factory.mktemp("switched")
    schedule = "allreduce:0.25,parameter_server(max_staleness=0):0.2,allreduce:0.1,parameter_server:0.35,allreduce"
    settings = {"num_epochs": 3.0, "eval_every_epochs": 2.7, "env": {"JAXDIST_FAULT": "delay@process=0,seconds=0.03"}}
    settings["data__workers"] = 2  # who prepares a batch changes nothing
    return folder, _finish_recorded(folder, schedule, **settings)


def test_allreduce_rounds_and_allreduce_are_one_run(x64, switched):
    """Over both boundaries the run is one run: where a push is no update of its own, momentum_handover (by default
    'zero') means nothing."""
    folder, summary = switched
    assert_same(_state_at(folder, 15), reference_state(15, replicas=2), 1e-9)
    assert_same(_state_at(folder, 27), reference_state(27, replicas=2), 1e-9)
    assert_same(_state_at(folder, 33), reference_state(33, replicas=2), 1e-9)
    assert summary["phases"][1]["pushes_per_worker"] == [12, 12]


def test_every_example_is_trained_once_an_epoch(switched):
    folder, summary = switched
    assert summary["examples_seen"] == 720
    assert taken(folder / "rows") == dict.fromkeys(range(240), 3)


def test_a_run_says_which_phases_it_had(switched):
    folder, summary = switched
    rounds = "parameter_server(max_staleness=0)"
    names = ["allreduce", rounds, "allreduce", "parameter_server", "allreduce"]
    assert [p["strategy"] for p in summary["phases"]] == names
    assert [p["examples"] for p in summary["phases"]] == [180, 144, 72, 252, 72]
    found = [e for e in events(folder / "run") if e["event"] == "switched"]
    assert [(e["from"], e["to"]) for e in found] == list(itertools.pairwise(names))
    assert [e["examples_seen"] for e in found] == [180, 324, 396, 648]
    assert [e["momentum_handover"] for e in found] == ["keep", "keep", "zero", "keep"]
    assert summary["updates"] == max(rows(folder / "run", "eval"))
    assert assert_times_add_up(folder / "run")["phase_seconds"]["switch"] > 0


def test_a_boundary_at_an_evaluation_is_evaluated_once(switched):
    folder, _ = switched
    assert [row["examples_seen"] for row in rows(folder / "run", "eval").values()] == [648, 720]


@pytest.mark.long
def test_a_run_may_begin_and_end_without_collectives(x64, tmp_path):
    """Rounds, all-reduce and rounds are one run; then bounds change, and all-reduce is once more between two phases of
    the servers."""
    rounds = "parameter_server(max_staleness=0)"
    schedule = f"{rounds}:0.15,allreduce:0.15,{rounds}:0.1,parameter_server(max_staleness=2):0.2,"
    schedule += "parameter_server(max_staleness=-1):0.2,allreduce:0.1,parameter_server"
    summary = _finish_recorded(tmp_path, schedule, num_epochs=4.0)
    assert_same(_state_at(tmp_path, 32), reference_state(32, replicas=2), 1e-9)
    assert summary["examples_seen"] == 960
    assert taken(tmp_path / "rows") == dict.fromkeys(range(240), 4)
    assert sum(e["event"] == "switched" for e in events(tmp_path / "run")) == schedule.count(",")
    assert summary["updates"] == max(rows(tmp_path / "run", "eval"))


@pytest.mark.long
@pytest.mark.parametrize("how", ["keep", "ramp"])
def test_rounds_after_allreduce_are_allreduce_whatever_the_handover(x64, tmp_path, how):
    schedule = "allreduce:0.5,parameter_server(max_staleness=0)"
    settings = SWITCH | {"strategy__schedule": schedule, "strategy__momentum_handover": how}
    finish(tmp_path, 1, servers=1, global_batch_size=6, **settings)
    assert_same(final_state(tmp_path), reference_state(80, replicas=1, batch=6), 1e-9)


@pytest.mark.long
def test_one_phase_is_that_strategy(x64, tmp_path):
    finish(tmp_path, 2, **SWITCH, strategy__schedule="allreduce:1.0", max_updates=20)
    assert_same(final_state(tmp_path), reference_state(20, replicas=2), 1e-9)


# The rule, and what else ends a phase.

PLATEAU = SWITCH | {
    "strategy__switch_when": "plateau",
    "strategy__switch_threshold": 0.9,
    "strategy__switch_window_epochs": 0.5,
    "log_every_steps": 2,
}


@pytest.fixture(scope="module")
def bereft(tmp_path_factory) -> tuple[pathlib.Path, list[Ended]]:
    """(run directory, how the three workers and the server have ended). The rule ends the synchronous phase; in the
    asynchronous one worker 1 is killed, and until then nobody takes more than 36 examples of its 120 (24 at least: some
    were prepared for the phase that the rule cut short)."""
    folder = tmp_path_factory.mktemp("bereft")
    (folder / "rows").mkdir()
    settings = PLATEAU | {"strategy__schedule": "allreduce:0.9,parameter_server", "num_epochs": 3.0}
    settings |= {"data__options__folder": str(folder / "rows"), "data__options__most": 200 + 36}
    settings |= {"strategy__lease_seconds": 3.0, "config": RECORDED}
    with Run(folder / "run", 3, servers=1, fault="kill@process=1,update=52", **settings) as run:
        run.processes[1].wait(90)
        let_go(folder / "rows")
        return folder / "run", run.wait(120)


def test_the_rule_ends_the_phase_and_can_be_replayed(bereft):
    workdir, _ = bereft
    decided = next(e for e in events(workdir) if e["event"] == "switch_decided")
    switched = next(e for e in events(workdir) if e["event"] == "switched")
    assert decided["examples_seen"] == switched["examples_seen"] < 0.9 * 720
    train = [row for row in rows(workdir, "train").values() if row["phase"] == 1]
    rate = schedules.step_decay(0.05, drop_epochs=(1.5,), drop_factor=0.1, examples_per_epoch=240)
    rule = phase_triggers.Plateau(decided["window_examples"], decided["threshold"], rate, waits_above=0.05)
    assert phase_triggers.replay(train, rule) == decided["examples_seen"] > 1.5 * 240


def test_a_worker_lost_in_the_asynchronous_phase_stops_nobody(bereft):
    workdir, ended = bereft
    assert [e.code for e in ended] == [0, -signal.SIGKILL, 0, 0], [e.output[-1500:] for e in ended]
    assert json.loads((workdir / "summary.json").read_text())["examples_seen"] == 720
    assert any(e["event"] == "worker_lost" for e in events(workdir))


@pytest.mark.long
def test_the_rule_ends_asynchronous_phases_with_and_without_a_latest_end(tmp_path):
    """Only the chief decides there: the others must hear what follows."""
    schedule = "parameter_server:0.8,parameter_server(max_staleness=4),allreduce"
    slow = {"JAXDIST_FAULT": "delay@seconds=0.05"}  # the chief compiles first, and must see some of it
    settings = PLATEAU | {"strategy__schedule": schedule, "num_epochs": 8.0}
    summary = finish(tmp_path, 2, servers=1, env=slow, **settings)
    switched = [e for e in events(tmp_path) if e["event"] == "switched"]
    assert [e["to"] for e in switched] == ["parameter_server(max_staleness=4)", "allreduce"]
    assert switched[0]["examples_seen"] < 0.8 * 1920
    assert switched[1]["examples_seen"] < 1920
    assert 1920 - 12 < summary["examples_seen"] <= 1920


@pytest.mark.long
def test_early_stopping_in_an_asynchronous_phase_ends_the_run_everywhere(tmp_path):
    settings = {"early_stopping_patience": 1, "data__holdout_examples": 24, "eval_every_epochs": 0.2}
    settings |= {"num_epochs": 20.0, "optim__learning_rate": 1e-9}
    schedule = "parameter_server:0.9,allreduce"
    summary = finish(tmp_path, 2, servers=1, **SWITCH, strategy__schedule=schedule, **settings)
    assert summary["examples_seen"] < 0.9 * 20 * 216
    assert any(e["event"] == "stopped_early" for e in events(tmp_path))


@pytest.mark.parametrize(
    "schedule", ["parameter_server(max_staleness=0):0.5,allreduce", long("allreduce:0.5,parameter_server")]
)
def test_sigterm_to_all_in_any_phase_saves(tmp_path, schedule):
    """Both workers train by then: at bound 0 the first round waits for all."""
    settings = SWITCH | {"servers": 1, "strategy__schedule": schedule, "num_epochs": 100.0}
    with Run(tmp_path, 2, fault="delay@seconds=0.03", **settings) as run:
        wait_for_update(tmp_path, 9)
        for p in [*run.processes, *run.servers]:
            p.send_signal(signal.SIGTERM)
        ended = run.wait(60)
    assert [e.code for e in ended] == [75] * 3, [e.output[-1500:] for e in ended]
    assert final_state(tmp_path).updates >= 9


# What is found before training.


def test_a_phase_that_cannot_work_is_refused_before_training(tmp_path):
    with Run(tmp_path, 2, **SWITCH, strategy__schedule="single:0.5,allreduce") as run:
        ended = run.wait(90)
    for e in ended:
        assert e.code == 2
        words = r"Phase 1 of strategy.schedule, single: .*for one process, but there are 2"
        assert re.search(words, e.error), e.output[-1500:]


def test_servers_with_another_configuration_are_found_before_training(tmp_path):
    with Run(tmp_path, 0, servers=1, **SWITCH, strategy__schedule="allreduce:0.5,parameter_server") as run:
        server = run.commands["server 0"]
        worker = [word for word in server if not word.startswith(("--role", "--server_index"))]
        other = start([*worker, "--config.optim.momentum=0.5"], {})
        output, _ = other.communicate(timeout=90)
    assert other.returncode == 2
    assert "do not agree on optim.momentum (0.5 here, 0.9 there)" in output
