"""A profile that is driven as the training loop does it (also `profiling/trace.py`, `profiling/files.py` and
`profiling/peak.py`, on the real trace that it takes)."""

import gzip
import json
import logging

import jax
import jax.numpy as jnp
import pytest

from jaxdist.profiling import files, run_profile
from jaxdist.profiling.run_profile import RunProfile
from jaxdist.profiling.windows import Window
from jaxdist.runtime import profiler


class State:
    """Of something that trains."""

    def __init__(self):
        self.updates = self.examples_seen = 0
        self.arrays = {"x": jnp.full((64, 64), 1e-3)}


@jax.jit
def step(x):
    with jax.named_scope("only"):
        return jnp.tanh(x @ x)


def train(profile, steps, state=None):
    """Returns the last state."""
    state = state or State()
    profile.examples = 5  # of two processes
    for _ in range(steps):
        with profiler.span(profiler.DATA_WAIT):
            pass
        state.arrays = {"x": step(state.arrays["x"])}
        state.updates += 1
        state.examples_seen += 10
        profile.at(state.updates, state)
    return state


def profile_of(folder, *windows, **options):
    events = []
    made = RunProfile(
        folder, "worker-0", windows, {"host": "here"}, events.append, blocks=frozenset({"only"}), **options
    )
    return made, events


@pytest.fixture
def quick(monkeypatch):
    """Without the second that measuring the peak takes."""
    monkeypatch.setattr(run_profile, "matrix_flops", lambda: 1e9)


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """(folder, events, what was written) of a profile of updates 3 to 9."""
    folder = tmp_path_factory.mktemp("profile")
    profile, events = profile_of(folder, Window(3, 9))
    train(profile, 12)
    profile.close()
    return folder / "updates_3-9", events, files.read_profile(folder / "updates_3-9" / "worker-0.json")


def test_its_steps_are_those_asked_for(taken):
    _, events, found = taken
    assert found["updates"] == [3, 9] and found["steps"] == 6 and not found["cut"] and found["host"] == "here"
    assert [e["event"] for e in events] == ["profiled"]
    assert events[0]["after_update"] == 3 and events[0]["to_update"] == 9


def test_rows_are_the_programs_operations_and_the_spans_of_the_thread(taken):
    rows = {row["kind"]: row for row in taken[2]["rows"]}
    product = rows["matrix product"]
    assert product["calls"] == 1 and product["layer"] == "only"
    assert product["gflop"] == pytest.approx(2 * 64**3 / 1e9, abs=1e-6)
    assert product["gflops_per_second"] > 0 and taken[2]["peak_gflops"] > 0
    assert rows["data wait"]["calls"] == 1
    assert sum(row["self_ms"] for row in taken[2]["rows"]) == pytest.approx(taken[2]["step_ms"], abs=1e-3)


def test_the_files_say_the_same(taken):
    folder, _, found = taken
    assert len((folder / "worker-0.csv").read_text().splitlines()) == 1 + len(found["rows"])
    text = (folder / "worker-0.md").read_text()
    assert f"A step took {found['step_ms']:.2f} ms" in text and "| matrix product | only |" in text
    events = json.loads(gzip.decompress((folder / "worker-0.trace.json.gz").read_bytes()))["traceEvents"]
    shown = [e for e in events if e["ph"] == "X" and e["name"] == "matrix product only"]
    assert len(shown) == 6
    assert all(found["began"] <= e["ts"] / 1e6 <= found["ended"] for e in shown)  # on the host's own clock
    kinds = files.by_kind(found["rows"])
    assert sum(row["self_ms"] for row in kinds) == pytest.approx(found["step_ms"], abs=1e-3)


def test_an_epoch_is_profiled_after_a_trial_and_cut_before_the_trace_is_full(quick, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(run_profile, "MOST_EVENTS", 200)
    profile, events = profile_of(tmp_path, Window(40, 400, "examples"))
    with caplog.at_level(logging.WARNING):
        train(profile, 45)
    (event,) = events
    assert event["cut"] and event["after_update"] == 4 and event["steps"] < 36
    assert "was cut" in caplog.text and not profile.waits
    assert (tmp_path / "examples_40-400" / "worker-0.json").exists()


def test_a_run_that_resumes_in_the_middle_or_behind_says_so(quick, tmp_path, caplog):
    state = State()
    state.updates = 20
    profile, events = profile_of(tmp_path, Window(2, 8), Window(15, 26))
    with caplog.at_level(logging.INFO):
        train(profile, 10, state)
    assert "updates_2-8 of this run were done before" in caplog.text
    assert "The profile of updates_15-26 begins at 22" in caplog.text
    assert [(e["after_update"], e["to_update"]) for e in events] == [(22, 26)]


def test_training_that_ends_ends_the_window(quick, tmp_path, caplog):
    profile, events = profile_of(tmp_path, Window(3, 9))
    with caplog.at_level(logging.WARNING):
        state = train(profile, 6)
        profile.end(state.updates, state)
    assert events[0]["cut"] and events[0]["steps"] == 3
    assert "training ends here" in caplog.text
    assert not profiler.is_tracing()


def test_a_folder_that_cannot_be_written_ends_the_profile_and_not_the_training(quick, tmp_path, caplog):
    (tmp_path / "taken").write_text("a file")
    profile, events = profile_of(tmp_path / "taken", Window(3, 6))
    with caplog.at_level(logging.WARNING):
        assert train(profile, 10).updates == 10
    assert events[-1]["event"] == "profile_failed" and events[-1]["process"] == "worker-0"
    assert "training goes on" in caplog.text and not profile.waits and not profiler.is_tracing()


def test_a_server_whose_tables_cannot_be_written_says_so_once(quick, tmp_path, caplog):
    (tmp_path / "taken").write_text("a file")
    profile, events = profile_of(tmp_path / "taken", Window(3, 6), in_background=True)
    with caplog.at_level(logging.WARNING):
        train(profile, 10)
        profile.close()
    assert [e["event"] for e in events] == ["profile_failed"]
    assert "training goes on" in caplog.text and not profiler.is_tracing()


def test_a_full_trace_is_said_to_be_cut(quick, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(run_profile, "FULL", 50)
    profile, _ = profile_of(tmp_path, Window(3, 9))
    with caplog.at_level(logging.WARNING):
        train(profile, 12)
    assert "is full" in caplog.text
    assert files.read_profile(tmp_path / "updates_3-9" / "worker-0.json")["cut"]


def test_another_profiler_in_this_process_ends_the_profile_and_not_the_training(quick, tmp_path):
    profile, events = profile_of(tmp_path, Window(3, 6))
    with jax.profiler.trace(str(tmp_path / "other")):
        assert train(profile, 10).updates == 10
    assert [e["event"] for e in events] == ["profile_failed"]


def test_without_a_window_it_does_nothing(tmp_path):
    profile, events = profile_of(tmp_path)
    train(profile, 3)
    profile.end(3)
    profile.merge()
    profile.close()
    assert not events and not list(tmp_path.iterdir())
