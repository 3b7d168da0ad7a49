"""Checkpoints of real processes: a kill in the middle of writing one."""

from __future__ import annotations

import signal

from helpers.outcomes import final_state
from helpers.processes import Run, finish, rows


def test_killed_while_writing_a_checkpoint(tmp_path):
    settings = {"checkpoint__every_updates": 6, "checkpoint__every_epochs": 0.0, "max_updates": 14}
    finish(tmp_path, 1, **(settings | {"max_updates": 7}))
    with Run(tmp_path, 1, fault="kill@point=checkpoint", **settings) as run:
        assert run.wait()[0].code == -signal.SIGKILL
    assert list((tmp_path / "checkpoints").glob("*.tmp-*"))
    assert final_state(tmp_path).updates == 7
    finish(tmp_path, 1, **settings)
    assert 14 in rows(tmp_path, "eval")
    assert not list((tmp_path / "checkpoints").glob("*.tmp-*"))
