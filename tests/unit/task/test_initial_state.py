"""The canonical initial state is made leaf by leaf, and no more of it than is asked for."""

from __future__ import annotations

import numpy as np
from helpers.reference import make_task


def test_canonical_leaves_are_made_one_block_at_a_time():
    task = make_task("chain", np.float32)
    made = []
    original = type(task.chain).init_block
    try:
        type(task.chain).init_block = lambda self, name, *rest: made.append(name) or original(self, name, *rest)
        state = task.init()
        assert made == []
        np.asarray(state.params["stem"]["conv"]["kernel"])
        assert made == ["stem"]
        made.clear()
        task.init().in_memory()
        assert sorted(made) == sorted(
            [n for n, (params, _) in task.chain.shapes.items() if params]
            + [n for n, (_, stats) in task.chain.shapes.items() if stats]
        )
    finally:
        type(task.chain).init_block = original
