"""Checkpointer: round trip, damage, retention; a kill while writing is in `processes/test_checkpoint.py`."""

from __future__ import annotations

import functools
import logging

import numpy as np
import pytest
from helpers.reference import make_task

from jaxdist.checkpoint import checkpointer
from jaxdist.errors import UsageError
from jaxdist.state import Position, TrainState, flatten, unflatten


@functools.cache
def initial() -> dict[str, np.ndarray]:
    return {n: np.asarray(leaf) for n, leaf in flatten(make_task("chain", np.float32).init().arrays()).items()}


def make_state(updates: int) -> TrainState:
    arrays = {n: leaf + updates for n, leaf in initial().items()}
    return TrainState.of(unflatten(arrays), updates, Position(12 * updates, ((3, 7),)))


def save(folder, *updates: int, keep: int = 3) -> None:
    checkpoints = checkpointer.Checkpointer(str(folder), keep=keep)
    for update in updates:
        checkpoints.save(make_state(update), {"elapsed": float(update)})
    checkpoints.close()


def restored(folder) -> checkpointer.Restored:
    found = checkpointer.Checkpointer(str(folder), keep=3).restore()
    assert found is not None
    return found


def test_round_trip_keeps_every_bit(tmp_path):
    save(tmp_path, 7)
    found = restored(tmp_path)
    expected = flatten(make_state(7).arrays())
    assert found.leaves.keys() == expected.keys()
    for name, leaf in found.leaves.items():
        np.testing.assert_array_equal(np.asarray(leaf), expected[name])
    assert (found.state.updates, found.state.examples_seen, found.progress["elapsed"]) == (7, 84, 7.0)


def test_large_states_are_written_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpointer, "PART_BYTES", 1000)
    save(tmp_path, 3)
    assert len(list((tmp_path / "checkpoints" / "3").glob("part-*"))) > 3
    expected = flatten(make_state(3).arrays())
    for name, leaf in restored(tmp_path).leaves.items():
        np.testing.assert_array_equal(np.asarray(leaf), expected[name])


def test_a_checkpoint_that_was_to_be_replaced_is_not_lost(tmp_path):
    """Killed between the two renames of an update that is saved again."""
    save(tmp_path, 7, keep=1)
    folder = tmp_path / "checkpoints"
    (folder / "7").rename(folder / "7.before")
    assert restored(tmp_path).progress["elapsed"] == 7.0
    save(tmp_path, 7, keep=1)
    assert [p.name for p in folder.iterdir()] == ["7"]


def test_only_the_newest_are_kept(tmp_path):
    save(tmp_path, 1, 2, 3, 4, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest"])
def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path, caplog, damage):
    save(tmp_path, 1, 2)
    newest = tmp_path / "checkpoints" / "2"
    files = [p for p in newest.rglob("*") if p.is_file() and p.name != "MANIFEST.json"]
    victim = max(files, key=lambda p: p.stat().st_size)
    if damage == "flip":
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    elif damage == "truncate":
        victim.write_bytes(victim.read_bytes()[:-1])
    elif damage == "delete":
        victim.unlink()
    else:
        (newest / "MANIFEST.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert restored(tmp_path).state.updates == 1
    assert "checkpoints/2 is damaged" in caplog.text and "going back" in caplog.text


def test_a_damaged_checkpoint_does_not_count_as_kept(tmp_path):
    save(tmp_path, 2, 3, keep=2)
    (tmp_path / "checkpoints" / "3" / "progress.json").unlink()
    assert restored(tmp_path).state.updates == 2
    (tmp_path / "checkpoints" / "3").rename(tmp_path / "checkpoints" / "9")
    save(tmp_path, 5, keep=1)
    assert restored(tmp_path).state.updates == 5


def test_nothing_but_damaged_checkpoints_is_an_error(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "checkpoints" / "1" / "progress.json").unlink()
    with pytest.raises(UsageError, match="All 1 checkpoints"):
        restored(tmp_path)


def test_a_failed_write_is_raised_at_the_next_call(tmp_path):
    (tmp_path / "checkpoints").write_text("not a folder")
    checkpoints = checkpointer.Checkpointer(str(tmp_path), keep=1)
    checkpoints.save(make_state(1), {})
    with pytest.raises(OSError):
        checkpoints.wait()
