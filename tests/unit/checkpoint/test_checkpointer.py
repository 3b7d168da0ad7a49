"""Checkpointer: round trip, damage, retention; a kill while writing is in `processes/test_checkpoint.py`."""

from __future__ import annotations

import functools
import logging
import pathlib
import random
import shutil
import threading
import time

import numpy as np
import pytest
from helpers.processes import long
from helpers.reference import make_task

from jaxdist.checkpoint import checkpointer
from jaxdist.errors import NotSaved, UsageError
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


def test_what_is_written_behind_training_is_told_from_what_is_waited_for(tmp_path):
    noted, go_on = [], threading.Event()
    checkpoints = checkpointer.Checkpointer(
        str(tmp_path), keep=1, before_commit=lambda: go_on.wait(60.0), note_seconds=noted.append
    )
    checkpoints.save(make_state(1), {})
    time.sleep(0.3)  # training goes on
    threading.Timer(0.2, go_on.set).start()
    checkpoints.close()
    waited, written = sorted(noted)
    assert -written < waited < -0.1 and written > 0.5
    assert sum(noted) > 0.2  # what was hidden


def test_a_failed_write_is_raised_at_the_next_call(tmp_path):
    (tmp_path / "checkpoints").write_text("not a folder")
    checkpoints = checkpointer.Checkpointer(str(tmp_path), keep=1)
    checkpoints.save(make_state(1), {})
    with pytest.raises(NotSaved, match=r"update 1 could not be written to .*checkpoints .*there is no earlier one"):
        checkpoints.wait()


@pytest.mark.parametrize(
    "name",
    ["run[1]", "a*b", "back\\slash", "q?x#y%20|{1,2}", "~", "'$HOME' \"x\"", "two\nlines", "ünï çødé", "-rf", "..."],
)
def test_a_folder_s_name_is_a_name_and_no_pattern(tmp_path, name):
    for other in ("run1", "axb", "back", "slash"):  # what such patterns would find
        save(tmp_path / other, 3)
    before = sorted(p.name for p in tmp_path.iterdir())
    save(tmp_path / name, 7, 8)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, name])
    assert restored(tmp_path / name).state.updates == 8
    for leaf, wanted in zip(flatten(restored(tmp_path / name).state.arrays()).values(), stored(8), strict=True):
        np.testing.assert_array_equal(np.asarray(leaf), wanted)


def stored(updates: int) -> list[np.ndarray]:
    return list(flatten(make_state(updates).arrays()).values())


@pytest.mark.parametrize("fault", ["value", "dtype", "lost", "error"])
def test_what_cannot_be_read_back_is_not_called_saved(tmp_path, monkeypatch, fault):
    save(tmp_path, 1)
    checkpoints = checkpointer.Checkpointer(str(tmp_path), keep=1)
    read = checkpoints._read_part

    def wrong(folder: pathlib.Path, number: int) -> dict[str, np.ndarray]:
        found = read(folder, number)
        name = "params/stem/conv/kernel"
        if fault == "error":
            raise ValueError("NOT_FOUND")
        kernel = found.pop(name)
        return (
            found if fault == "lost" else found | {name: kernel + 1 if fault == "value" else kernel.astype(np.float64)}
        )

    monkeypatch.setattr(checkpoints, "_read_part", wrong)
    checkpoints.save(make_state(2), {"elapsed": 2.0})
    with pytest.raises(
        NotSaved, match=r"(cannot be read back from |ValueError: NOT_FOUND).*goes on from .*checkpoints/1"
    ):
        checkpoints.wait()
    assert restored(tmp_path).state.updates == 1


def test_what_others_have_put_there_is_left_alone(tmp_path):
    save(tmp_path, 1, 2)
    folder = tmp_path / "checkpoints"
    for name in ("²", "07", "notes", "copy.before", "my.tmp-folder", "3.txt"):
        (folder / name).mkdir()
    (folder / "9").write_text("a file")
    assert restored(tmp_path).state.updates == 2
    save(tmp_path, 3, keep=1)
    left = {p.name for p in folder.iterdir()}
    assert left == {"3", "²", "07", "notes", "copy.before", "my.tmp-folder", "3.txt", "9"}


@pytest.mark.parametrize("seeds", [range(20), long(range(20, 200))])
def test_a_random_damage_never_gives_wrong_numbers(tmp_path, caplog, seeds):
    """The newest checkpoint that is whole is restored, to the bit; where there is none, the remedy is said."""
    save(tmp_path / "good", 1, 2, 3)
    caplog.set_level(logging.ERROR)
    for seed in seeds:
        draw = random.Random(seed)
        workdir = tmp_path / f"{seed}"
        shutil.copytree(tmp_path / "good", workdir)
        hurt = {damage(workdir / "checkpoints", draw) for _ in range(draw.randint(1, 4))} - {0}
        whole = sorted({1, 2, 3} - hurt)
        if not whole:
            with pytest.raises(UsageError, match="choose another --workdir"):
                restored(workdir)
            continue
        found = restored(workdir)
        assert found.state.updates == whole[-1], (seed, hurt)
        for leaf, wanted in zip(flatten(found.state.arrays()).values(), stored(whole[-1]), strict=True):
            np.testing.assert_array_equal(np.asarray(leaf), wanted)
        shutil.rmtree(workdir)


def damage(folder: pathlib.Path, draw: random.Random) -> int:
    """Does something to a checkpoint, and says to which; 0 where it has hurt none."""
    number = draw.choice([n for n in (1, 2, 3) if (folder / str(n)).is_dir()] or [0])
    if not number:
        return 0
    one = folder / str(number)
    files = sorted(p for p in one.rglob("*") if p.is_file())
    kind = draw.choice(
        ["bit", "cut", "remove", "empty", "rename file", "rename folder", "half a copy", "lose a part", "beside"]
    )
    if not files and kind != "beside":
        kind = "remove folder"
    if kind in ("bit", "cut", "remove", "empty", "rename file"):
        victim = draw.choice(files)
        content = bytearray(victim.read_bytes())
        if not content:
            kind = "remove"
        if kind == "bit":
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            victim.write_bytes(content)
        elif kind == "cut":
            victim.write_bytes(content[: draw.randrange(len(content))])
        elif kind == "empty":
            victim.write_bytes(b"")
        elif kind == "remove":
            victim.unlink()
        else:
            victim.rename(victim.with_name(victim.name + ".old"))
    elif kind == "rename folder":
        one.rename(folder / draw.choice(["17", f"{number}.bak", "three", f"{number} (copy)"]))
    elif kind == "remove folder":
        shutil.rmtree(one)
    elif kind == "lose a part":
        shutil.rmtree(one / "part-0", ignore_errors=True)
    elif kind == "half a copy":
        for path in files[draw.randrange(len(files)) :]:
            path.unlink()
    else:  # beside it: nothing of the run's
        (folder / draw.choice(["0x3", "3.tmp-12", "notes.txt", "²"])).mkdir(exist_ok=True)
        return 0
    return number
