"""Runs of several phases: exact over the boundary, nothing lost or repeated, resumable at any moment."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import random
import re
import signal

import jax
import numpy as np
import pytest
from helpers.outcomes import final_state, reference_state
from helpers.processes import Run, events, finish, long, rows, start, wait_for_update
from helpers.recording_data import taken
from helpers.reference import assert_same, make_task
from hypothesis import given
from hypothesis import strategies as st

from jaxdist.config import default_config, validate
from jaxdist.config.phases import Phase, boundaries, parse
from jaxdist.errors import UsageError
from jaxdist.optim import momentum, schedules
from jaxdist.train import phase_triggers

KEYS = list(default_config().strategy)
SWITCH = {"strategy__name": "switch"}
TO_SERVERS = SWITCH | {"strategy__schedule": "allreduce:0.5,parameter_server"}


# The schedule.


def test_a_schedule_with_options():
    text = "allreduce:0.25, parameter_server(max_staleness=3, overlap=True):0.5, allreduce(spmd=jit)"
    assert parse(text, KEYS) == (
        Phase("allreduce", {}, 0.25),
        Phase("parameter_server", {"max_staleness": 3, "overlap": True}, 0.5),
        Phase("allreduce", {"spmd": "jit"}, None),
    )
    assert boundaries(parse(text, KEYS), 40) == [10, 30, 40]


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6), st.integers(1, 10**6))
def test_boundaries_rise_to_the_end_of_the_run(parts, updates):
    fractions = [p / max(sum(parts), 1.0) for p in parts]
    text = ",".join(f"allreduce:{f!r}" for f in fractions) + ",parameter_server"
    ends = boundaries(parse(text, KEYS), updates)
    assert len(ends) == len(parts) + 1 and ends == sorted(ends) and ends[-1] == updates
    assert all(abs(end - sum(fractions[: k + 1]) * updates) <= 1 for k, end in enumerate(ends[:-1]))


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("", "is empty"),
        ("allreduce:0.7,parameter_server:0.6", r"0\.7 \+ 0\.6 = 1\.3, more than the whole run"),
        ("allreduce:0.7,parameter_server:0.2", r"nothing is said of the remaining 0\.1"),
        ("allreduce,parameter_server", "does not say how long 'allreduce' is"),
        ("allreduce:half,parameter_server", "'half'.*is not a number"),
        ("allreduce:1.5", "must be from 0 to 1"),
        ("allreduce:0.5:0.5", "cannot be read"),
        ("allreduce:0.5,parameter_server(max_stale=3)", "max_stale=3.*nearest: 'max_staleness'"),
        ("allreduce:0.5,parameter_server(max_staleness=-3)", "max_staleness=-3 must be -1"),
        ("allreduce:0.5,parameter_server(schedule=x)", "is not a key"),
        ("allreduce(spmd=jitt):0.5,parameter_server", "nearest: 'jit'"),
    ],
)
def test_schedules_that_are_refused(schedule, words):
    config = default_config()
    config.strategy.update({"name": "switch", "schedule": schedule})
    with pytest.raises(UsageError, match=words):
        validate(config)


def test_a_schedule_without_switch_is_refused():
    config = default_config()
    config.strategy.schedule = "allreduce:0.5,parameter_server"
    with pytest.raises(UsageError, match=r"means nothing to strategy.name='allreduce': use strategy.name='switch'"):
        validate(config)


@pytest.mark.parametrize(
    ("schedule", "n", "servers", "words"),
    [
        (
            "allreduce:0.5,parameter_server",
            1,
            0,
            "Phase 2 of strategy.schedule, parameter_server: .*needs --server_add",
        ),
        ("allreduce:0.5,switch", 1, 0, "'switch' cannot be a phase"),
        ("allreduce:0.5,parameter_sever", 1, 0, "cannot be a phase; nearest: 'parameter_server'"),
        ("allreduce(max_staleness=0):0.5,allreduce", 1, 0, "max_staleness means nothing to allreduce"),
        ("single:0.5,allreduce", 2, 0, "Phase 1 of strategy.schedule, single: .*for one process, but there are 2"),
    ],
)
def test_phases_that_are_refused_before_training(tmp_path, schedule, n, servers, words):
    with Run(tmp_path, n, **SWITCH, strategy__schedule=schedule) as run:
        ended = run.wait(90)
    for e in ended:
        assert e.code == 2
        assert re.search(words, e.error), e.output[-1500:]


# Momentum.


@pytest.mark.parametrize(("how", "factor"), [("keep", 1.0), ("ramp", 1.0), ("zero", 0.0), ("scale", 0.25)])
def test_momentum_at_the_boundary(how, factor):
    task = make_task("densenet", np.float64)
    state = task.init()
    trace = jax.tree.map(lambda leaf: np.ones(leaf.shape), state.params)
    after = momentum.handed_over(dataclasses.replace(state, opt_state={"trace": trace}), how, 4)
    leaves = jax.tree.leaves(after.opt_state["trace"])
    assert leaves and all((leaf == factor).all() and leaf.dtype == np.float64 for leaf in leaves)
    assert after.params is state.params


def test_ramp_drops_less_and_less_of_the_momentum():
    assert [momentum.cut((1000, 500), seen) for seen in (900, 1000, 1250, 1500, 9000)] == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert momentum.cut(None, 1000) == 0.0


# The rule.


@given(st.lists(st.floats(0.01, 10), min_size=12, max_size=40), st.integers(1, 5))
def test_the_rule_is_a_function_of_the_rows(losses, window):
    train = [{"examples_seen": 10 * (k + 1), "loss": loss} for k, loss in enumerate(losses)]
    decided = phase_triggers.replay(train, phase_triggers.Plateau(10.0 * window, 0.1))
    for row in train:
        now = row["examples_seen"] // 10
        if now < 2 * window:
            continue
        older, newer = losses[now - 2 * window : now - window], losses[now - window : now]
        if np.mean(newer) > 0.9 * np.mean(older) + 1e-9:
            assert decided is not None and decided <= row["examples_seen"]
            return
    assert decided is None or decided % 10 == 0


@pytest.mark.parametrize("odd", [math.nan, math.inf, 0.0])
def test_the_rule_passes_over_rows_that_mean_nothing(odd):
    rule = phase_triggers.Plateau(20, 0.1)
    losses = [9.0, odd, 8.0, 5.0, odd, 4.0, 3.0, 2.0]
    assert not any(rule.look({"examples_seen": 10 * (k + 1), "loss": x}) for k, x in enumerate(losses))


def test_the_rule_waits_for_the_learning_rate_to_drop():
    flat = [{"examples_seen": 10 * (k + 1), "loss": 1.0} for k in range(20)]
    rate = schedules.step_decay(0.1, drop_epochs=(5, 12), drop_factor=0.1, examples_per_epoch=10)
    settings = {"switch_when": "plateau", "switch_threshold": 0.1, "switch_window_epochs": 2, "switch_after_drop": True}
    assert (
        phase_triggers.replay(flat, phase_triggers.build(settings, 10, rate, 200)) == 90
    )  # two windows after the row that has it
    assert (
        phase_triggers.replay(flat[6:], phase_triggers.build(settings, 10, rate, 200)) == 110
    )  # a phase that begins after the drop
    assert phase_triggers.replay(flat, phase_triggers.build(settings, 10, rate, 40)) == 40  # none comes in this run
    settings["switch_after_drop"] = False
    assert phase_triggers.replay(flat, phase_triggers.build(settings, 10, rate, 200)) == 40
    settings["switch_window_epochs"] = 3  # windows do not reach over a drop: 0.1 up to 50, 0.01 up to 120
    assert phase_triggers.replay(flat, phase_triggers.build(settings, 10, rate, 200)) == 110
    assert phase_triggers.build(settings | {"switch_when": ""}, 10, rate, 200) is None


def test_the_rule_goes_on_where_its_checkpoint_left_it():
    train = [{"examples_seen": 10 * (k + 1), "loss": loss} for k, loss in enumerate([9, 5, 3, 2, 2, 2, 2])]
    whole, first = phase_triggers.Plateau(20, 0.1), phase_triggers.Plateau(20, 0.1)
    expected = [whole.look(row) for row in train]
    for row in train[:4]:
        first.look(row)
    second = phase_triggers.Plateau(20, 0.1)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second.look(row) for row in train[4:]] == expected[4:]
    assert expected[-1] is not None


# Real processes.


@pytest.mark.long
def test_one_phase_is_that_strategy(x64, tmp_path):
    finish(tmp_path, 2, **SWITCH, strategy__schedule="allreduce:1.0", max_updates=20)
    assert_same(final_state(tmp_path), reference_state(20, replicas=2), 1e-9)


@pytest.mark.parametrize("how", ["keep", long("zero"), long("ramp")])
def test_rounds_after_allreduce_are_allreduce(x64, tmp_path, how):
    """Over the boundary to bound 0 the run is one run; there momentum_handover means nothing."""
    schedule = "allreduce:0.5,parameter_server(max_staleness=0)"
    summary = finish(tmp_path, 2, servers=2, **SWITCH, strategy__schedule=schedule, strategy__momentum_handover=how)
    assert_same(final_state(tmp_path), reference_state(40, replicas=2), 1e-9)
    assert [p["strategy"] for p in summary["phases"]] == ["allreduce", "parameter_server(max_staleness=0)"]
    assert summary["phases"][1]["pushes_per_worker"] == [20, 20]


@pytest.mark.long
def test_allreduce_after_rounds_is_allreduce(x64, tmp_path):
    schedule = "parameter_server(max_staleness=0):0.3,allreduce:0.3,parameter_server(max_staleness=0)"
    finish(tmp_path, 2, servers=2, **SWITCH, strategy__schedule=schedule)
    assert_same(final_state(tmp_path), reference_state(40, replicas=2), 1e-9)


@pytest.mark.parametrize(
    "schedule",
    [
        "allreduce:0.25,parameter_server:0.5,allreduce",
        long("parameter_server:0.5,allreduce"),
        long("parameter_server(max_staleness=2):0.4,parameter_server(max_staleness=-1):0.2,allreduce"),
        long("allreduce:0.5,parameter_server"),
    ],
)
def test_every_example_is_trained_once_an_epoch(tmp_path, schedule):
    (tmp_path / "rows").mkdir()
    data = {"data__name": "recording_data:build", "data__options__folder": str(tmp_path / "rows")}
    summary = finish(tmp_path / "run", 2, servers=1, config="tests/helpers/recorded_config.py", **SWITCH, **data,
                     strategy__schedule=schedule)  # fmt: skip
    assert summary["examples_seen"] == 480
    assert taken(tmp_path / "rows") == dict.fromkeys(range(240), 2)
    switched = [e for e in events(tmp_path / "run") if e["event"] == "switched"]
    assert len(switched) == schedule.count(",")
    assert summary["updates"] == max(rows(tmp_path / "run", "eval"))


def test_a_boundary_at_an_evaluation_is_evaluated_once(tmp_path):
    """The slow chief ends its phase there; the other worker has last seen an earlier version."""
    settings = SWITCH | {"strategy__schedule": "parameter_server:0.5,allreduce"}
    finish(tmp_path, 2, servers=1, env={"JAXDIST_FAULT": "delay@process=0,seconds=0.1"}, **settings)
    assert [row["examples_seen"] for row in rows(tmp_path, "eval").values()] == [240, 480]


@pytest.mark.parametrize(
    "moment",
    [
        "update",
        long("kill@process=0,point=switch"),
        long("kill@process=1,point=switched"),
        long("kill@process=0,point=switched"),
    ],
)
def test_killed_at_any_moment_it_resumes(tmp_path, moment):
    schedule = "allreduce:0.4,parameter_server:0.3,allreduce"
    settings = SWITCH | {"servers": 2, "strategy__schedule": schedule, "checkpoint__every_updates": 5}
    kill_at = random.randrange(3, 40)
    fault = f"kill@process=0,update={kill_at}" if moment == "update" else moment
    with Run(tmp_path, 2, fault=f"delay@seconds=0.02;{fault}", **settings) as run:
        ended = run.wait(90, servers=False)  # they wait for somebody to begin a phase
    assert all(e.code != 0 for e in ended), (kill_at, [e.output[-1500:] for e in ended])
    folder = pathlib.Path(tmp_path) / "checkpoints"
    saved = folder.is_dir() and any(p.name.isdigit() for p in folder.iterdir())  # the one of update 5 may be under way
    assert saved or (moment == "update" and kill_at < 12)
    summary = finish(tmp_path, 2, **settings)
    assert summary["examples_seen"] == 480
    log = (pathlib.Path(tmp_path) / "logs" / "worker-0.log").read_text()
    assert ("The run goes on" in log) == saved


def test_a_worker_lost_in_the_asynchronous_phase_stops_nobody(tmp_path):
    fault = "delay@seconds=0.02;kill@process=1,update=30"
    with Run(tmp_path, 3, servers=1, fault=fault, **TO_SERVERS, strategy__lease_seconds=3.0) as run:
        ended = run.wait(120)
    assert [e.code for e in ended] == [0, -signal.SIGKILL, 0, 0], [e.output[-1500:] for e in ended]
    assert json.loads((tmp_path / "summary.json").read_text())["examples_seen"] == 480
    assert any(e["event"] == "worker_lost" for e in events(tmp_path))


@pytest.mark.long
def test_a_lost_worker_ends_the_run_where_a_synchronous_phase_needs_it(tmp_path):
    fault = "delay@seconds=0.02;kill@process=1,update=16"
    schedule = "allreduce:0.25,parameter_server:0.5,allreduce"
    settings = SWITCH | {"servers": 1, "strategy__schedule": schedule, "strategy__lease_seconds": 3.0}
    with Run(tmp_path, 3, fault=fault, **settings) as run:
        ended = run.wait(120)
    assert [e.code for e in ended] == [1, -signal.SIGKILL, 1, 1], [e.output[-1500:] for e in ended]
    assert "worker 1 was lost in phase 2, and phase 3 (allreduce) needs all 3" in ended[0].error
    stored = final_state(tmp_path)
    assert stored.examples_seen == 360
    summary = finish(tmp_path, 3, **settings)
    assert summary["examples_seen"] == 480
    assert "The run goes on at the boundary before phase 3 of 3" in (tmp_path / "logs" / "worker-0.log").read_text()


@pytest.mark.long
def test_a_worker_that_is_started_again_joins_the_asynchronous_phase(tmp_path):
    fault = "delay@seconds=0.1;kill@process=1,update=24"
    settings = SWITCH | {"strategy__schedule": "allreduce:0.1,parameter_server", "num_epochs": 6.0}
    with Run(tmp_path, 2, servers=1, fault=fault, **settings, strategy__lease_seconds=3.0) as run:
        run.processes[1].wait(90)
        run.restart("worker 1")
        ended = run.wait(120)
    assert [e.code for e in ended] == [0, 0, 0], [e.output[-1500:] for e in ended]
    assert "The run is in phase 2 already" in ended[1].output
    assert any(e["event"] == "worker_joined_again" for e in events(tmp_path))


def test_the_rule_ends_the_phase_and_can_be_replayed(tmp_path):
    settings = {"strategy__switch_when": "plateau", "strategy__switch_threshold": 0.9, "num_epochs": 4.0}
    settings |= {"strategy__switch_window_epochs": 0.5, "log_every_steps": 2}
    schedule = "allreduce:0.9,parameter_server"
    summary = finish(tmp_path, 2, servers=1, **SWITCH, strategy__schedule=schedule, **settings)
    assert summary["examples_seen"] == 960
    decided = next(e for e in events(tmp_path) if e["event"] == "switch_decided")
    switched = next(e for e in events(tmp_path) if e["event"] == "switched")
    assert decided["examples_seen"] == switched["examples_seen"] < 0.9 * 960
    train = [row for row in rows(tmp_path, "train").values() if row["phase"] == 1]
    rate = schedules.step_decay(0.05, drop_epochs=(1.5,), drop_factor=0.1, examples_per_epoch=240)
    rule = phase_triggers.Plateau(decided["window_examples"], decided["threshold"], rate, waits_above=0.05)
    assert phase_triggers.replay(train, rule) == decided["examples_seen"] > 1.5 * 240


@pytest.mark.long
def test_the_rule_ends_an_asynchronous_phase_without_a_latest_end(tmp_path):
    """Only the chief decides there: the others must hear what follows."""
    settings = {"strategy__switch_when": "plateau", "strategy__switch_threshold": 0.9, "num_epochs": 6.0}
    settings |= {"strategy__switch_window_epochs": 0.5, "log_every_steps": 2}
    settings |= {"env": {"JAXDIST_FAULT": "delay@seconds=0.05"}}  # the chief compiles first, and must see some of it
    finish(tmp_path, 2, servers=1, **SWITCH, strategy__schedule="parameter_server,allreduce", **settings)
    assert [e["to"] for e in events(tmp_path) if e["event"] == "switched"] == ["allreduce"]


@pytest.mark.long
def test_early_stopping_in_an_asynchronous_phase_ends_the_run_everywhere(tmp_path):
    settings = {"early_stopping_patience": 1, "data__holdout_examples": 24, "eval_every_epochs": 0.2}
    settings |= {"num_epochs": 20.0, "optim__learning_rate": 1e-9}
    schedule = "parameter_server:0.9,allreduce"
    summary = finish(tmp_path, 2, servers=1, **SWITCH, strategy__schedule=schedule, **settings)
    assert summary["examples_seen"] < 0.9 * 20 * 216
    assert any(e["event"] == "stopped_early" for e in events(tmp_path))


@pytest.mark.parametrize("schedule", ["parameter_server:0.5,allreduce", long("allreduce:0.5,parameter_server")])
def test_sigterm_to_all_in_any_phase_saves(tmp_path, schedule):
    settings = SWITCH | {"servers": 1, "strategy__schedule": schedule, "num_epochs": 100.0}
    with Run(tmp_path, 2, fault="delay@seconds=0.03", **settings) as run:
        wait_for_update(tmp_path, 9)
        for p in [*run.processes, *run.servers]:
            p.send_signal(signal.SIGTERM)
        ended = run.wait(60)
    assert [e.code for e in ended] == [75] * 3, [e.output[-1500:] for e in ended]
    assert final_state(tmp_path).updates >= 9


@pytest.mark.long
def test_a_worker_that_failed_may_come_back_in_an_asynchronous_phase(tmp_path):
    fault = "delay@seconds=0.1;raise@process=1,update=24"
    settings = SWITCH | {"strategy__schedule": "allreduce:0.1,parameter_server:0.8,allreduce", "num_epochs": 6.0}
    with Run(tmp_path, 2, servers=1, fault=fault, **settings, strategy__lease_seconds=3.0) as run:
        run.processes[1].wait(90)
        run.restart("worker 1")
        ended = run.wait(120)
    assert [e.code for e in ended] == [0, 0, 0], [e.output[-1500:] for e in ended]
    assert json.loads((tmp_path / "summary.json").read_text())["examples_seen"] == 1440


@pytest.mark.long
def test_the_rule_ends_an_asynchronous_phase_too(tmp_path):
    settings = {"strategy__switch_when": "plateau", "strategy__switch_threshold": 0.9, "num_epochs": 6.0}
    settings |= {"strategy__switch_window_epochs": 0.5, "log_every_steps": 2}
    settings |= {"env": {"JAXDIST_FAULT": "delay@seconds=0.05"}}
    schedule = "parameter_server:0.8,allreduce"
    summary = finish(tmp_path, 2, servers=1, **SWITCH, strategy__schedule=schedule, **settings)
    switched = next(e for e in events(tmp_path) if e["event"] == "switched")
    assert switched["examples_seen"] < 0.8 * 1440
    assert 1440 - 12 < summary["examples_seen"] <= 1440


def test_servers_with_another_configuration_are_found_before_training(tmp_path):
    with Run(tmp_path, 1, servers=1, **TO_SERVERS) as run:
        command = [*run.commands["worker 0"], "--config.optim.momentum=0.5"]
        run.processes[0].kill()
        other = start(command, {})
        output, _ = other.communicate(timeout=90)
    assert other.returncode == 2
    assert "do not agree on optim.momentum (0.5 here, 0.9 there)" in output
