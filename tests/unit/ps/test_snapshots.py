"""A server's snapshots on its disk: whole, of one run, and no more than are needed."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdist.ps.snapshots import Snapshots

VECTORS = {"params": np.arange(5, dtype=np.float32), "slot/momentum": np.ones(5, np.float32)}


def test_a_snapshot_is_read_as_it_was_saved(tmp_path):
    snapshots = Snapshots(tmp_path / "0")
    for version, keep in ((10, 0), (20, 10), (30, 20)):
        snapshots.save("a run", version, {k: v + version for k, v in VECTORS.items()}, keep)
    assert snapshots.versions() == [20, 30], "the one to go back to and the newest"
    found = Snapshots(tmp_path / "0").load("a run", 30)
    assert found.keys() == VECTORS.keys()
    for name, vector in VECTORS.items():
        np.testing.assert_array_equal(found[name], vector + 30)


def test_what_is_missing_damaged_or_of_another_run_is_refused(tmp_path):
    snapshots = Snapshots(tmp_path)
    snapshots.save("a run", 10, VECTORS, 0)
    with pytest.raises(ValueError, match="is of the run a run, not of another"):
        snapshots.load("another", 10)
    with pytest.raises(ValueError, match=r"11\.npz cannot be read: FileNotFoundError"):
        snapshots.load("a run", 11)
    path = tmp_path / "10.npz"
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(VECTORS["slot/momentum"].tobytes()) + 3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"10\.npz cannot be read: BadZipFile"):
        snapshots.load("a run", 10)


def test_the_record_of_the_run(tmp_path):
    snapshots = Snapshots(tmp_path)
    assert snapshots.load_run() is None
    for version in (1, 2):
        snapshots.save_run({"run": "a run", "version": version})
    assert snapshots.load_run() == {"run": "a run", "version": 2}
    (tmp_path / "run.json").write_text('{"run": "a r')
    assert snapshots.load_run() is None
    snapshots.save("a run", 10, VECTORS, 0)
    snapshots.clear()
    assert not list(tmp_path.iterdir())
