"""Profiles of real runs (`roles/profiles.py`): on every process, under every strategy, without any other number."""

from __future__ import annotations

import json

import pytest
from helpers.outcomes import final_state
from helpers.processes import Run, events, finish, long
from helpers.reference import assert_same

from jaxdist.profiling.files import read_profile

WINDOW = "(4,10)"
KERNEL, INPUT = "convolution kernel gradient", "convolution input gradient"


def profiled(folder, n: int, **overrides) -> dict[str, dict]:
    """{process: its profile} of a run to its good end."""
    finish(folder, n, profile__updates=WINDOW, max_updates=14, **overrides)
    (window,) = (folder / "profile").glob("updates_*")
    return {path.stem: read_profile(path) for path in sorted(window.glob("*-[0-9].json"))}


def kinds(profile: dict) -> dict[str, float]:
    """Kind -> calls a step."""
    found: dict[str, float] = {}
    for row in profile["rows"]:
        found[row["kind"]] = found.get(row["kind"], 0.0) + row["calls"]
    return found


def check(profile: dict, seconds_unattributed: float = 0.3) -> None:
    """What holds of every worker's profile."""
    assert sum(row["self_ms"] for row in profile["rows"] if row["share"]) == pytest.approx(profile["step_ms"], rel=1e-3)
    left = sum(row["share"] for row in profile["rows"] if row["kind"] == "not attributed")
    assert left < seconds_unattributed, f"{left:.0%} of the step is not attributed"
    assert "operation of an unknown program" not in kinds(profile)
    assert profile["steps"] == 6 and profile["updates"] == [4, 10] and not profile["cut"]


SYNCHRONOUS = [
    ("shard_map", 2, {}),
    long("one process of 8 devices", 1, {"env": {"JAX_NUM_CPU_DEVICES": "8"}, "global_batch_size": 16}),
    long("single", 1, {"strategy__name": "single"}),
    long("three processes", 3, {}),
    long("jit", 2, {"strategy__spmd": "jit"}),
    long("fsdp", 2, {"strategy__name": "model_parallel", "strategy__shard_params": "fsdp"}),
    long("model", 2, {"strategy__name": "model_parallel", "strategy__mesh": "model:2"}),
    long(
        "pipeline",
        2,
        {"strategy__name": "pipeline", "strategy__num_microbatches": 2, "strategy__balance_by": "bytes"},
    ),
    long("bound 0", 2, {"servers": 1, "strategy__max_staleness": 0}),
]


@pytest.mark.parametrize(("name", "n", "settings"), SYNCHRONOUS)
def test_every_process_has_its_rows_and_the_run_its_bits(x64, tmp_path, name, n, settings):
    found = profiled(tmp_path / "with", n, **settings)
    finish(tmp_path / "without", n, max_updates=14, **settings)
    assert_same(final_state(tmp_path / "with"), final_state(tmp_path / "without"), 0.0)
    workers = {process: profile for process, profile in found.items() if process.startswith("worker")}
    assert len(workers) == n
    every = {kind: calls for profile in workers.values() for kind, calls in kinds(profile).items()}
    assert {"convolution forward", KERNEL, INPUT, "BatchNorm forward", "BatchNorm backward", "optimizer update"} <= (
        every.keys() | ({"optimizer update"} if "servers" in settings else set())
    )
    for profile in workers.values():
        check(profile)
    if n > 1 and "servers" not in settings:
        assert any(kind.startswith("all-") for kind in every) or "pipeline idle" in every
    (page,) = (tmp_path / "with" / "profile").glob("updates_*/index.html")
    assert page.read_text().count("worker-0") and (page.parent / "all.trace.json.gz").exists()
    said = [event for event in events(tmp_path / "with") if event["event"] == "profiled"]
    assert [(event["after_update"], event["to_update"]) for event in said] == [(4, 10)]


@pytest.mark.long
def test_who_waits_for_a_slowed_worker_waits_as_long_as_it_is_slowed(tmp_path):
    """120 ms a step: in worker 0's collective, of which the exchange itself is a small part. On a busy machine worker 0
    may be late itself, by less."""
    profiled(tmp_path, 2, fault="delay@process=1,seconds=0.12")
    (summary,) = (tmp_path / "profile").glob("updates_*/summary.json")
    waits = {one["process"]: one for one in json.loads(summary.read_text())["collectives"]}
    assert waits["worker-0"]["waiting_ms"] > 60 > waits["worker-1"]["waiting_ms"]


@pytest.mark.long
def test_rows_of_push_pull_and_update_are_on_worker_and_server(tmp_path):
    found = profiled(tmp_path, 1, servers=2, strategy__overlap=True)
    assert set(found) == {"server-0", "server-1", "worker-0"}
    assert {"push and pull", "pull", "server wait", "preprocess"} <= kinds(found["worker-0"]).keys()
    for server in ("server-0", "server-1"):
        assert kinds(found[server])["server-side update"] == pytest.approx(1.0, abs=0.4)
        assert {"server takes a push", "server answers a pull", "waiting for calls"} <= kinds(found[server]).keys()


@pytest.mark.long
def test_an_epoch_of_a_switch_is_cut_at_the_boundary_of_its_phases(tmp_path):
    """240 examples and batches of 12: 20 updates an epoch, of which the first phase has 10."""
    with Run(
        tmp_path,
        2,
        servers=1,
        strategy__name="switch",
        strategy__schedule="allreduce:0.25,parameter_server",
        profile__at_epochs="(1,)",
        num_epochs=2.0,
    ) as run:
        outputs = [(ended.code, ended.output) for ended in run.wait()]
    assert [code for code, _ in outputs] == [0, 0, 0]
    assert "was cut after" in outputs[0][1]
    (event,) = (event for event in events(tmp_path) if event["event"] == "profiled")
    assert event["cut"] and event["to_update"] == 10


def test_what_the_run_does_not_have_is_refused_before_it_trains(tmp_path):
    for values, words in (
        ({"profile__updates": "(5,200)"}, "the run has 40 updates; end the profile at 40 or before"),
        ({"profile__at_epochs": "(3,)"}, "the run has 2 epochs, and no epoch 3"),
    ):
        with Run(tmp_path, 1, **values) as run:
            (ended,) = run.wait()
        assert ended.code == 2 and words in ended.error, ended.output[-2000:]
    assert not (tmp_path / "profile").exists()


@pytest.mark.long
def test_a_profile_that_cannot_be_written_is_an_event_and_the_run_ends_well(tmp_path):
    (tmp_path / "profile").write_text("a file")
    finish(tmp_path, 1, profile__updates=WINDOW, max_updates=14)
    (failed,) = (event for event in events(tmp_path) if event["event"] == "profile_failed")
    assert "profile" in failed["reason"]
    assert json.loads((tmp_path / "summary.json").read_text())["updates"] == 14
