"""The initial state: made a block at a time, no more than is asked for; parts equal the parts of whole arrays.

That no process holds more than its part is held by `models/test_graph.py`.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from helpers.reference import make_task

from jaxdist.state import flatten
from jaxdist.task import initial_state


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_initial_state_is_cut_as_any_other(optimizer):
    task = make_task("chain", np.float32, optimizer)
    parts = {
        path: (lambda a: a[..., 1:3]) if path.endswith("mean") else (lambda a: a.reshape(-1)[1:-2])
        for path, leaf in flatten(task.init().arrays()).items()
        if path.endswith(("middle/conv/kernel", "last/norm/mean", "stem/conv/kernel"))
    }
    assert {path.split("/")[0] for path in parts} == {"params", "model_state", "opt_state"}
    cut, plain = task.init().cut(parts), dataclasses.replace(task.init(), cut_by=None).cut(parts)
    found, wanted = flatten(cut.arrays()), flatten(plain.arrays())
    assert found.keys() == wanted.keys()
    for path, leaf in found.items():
        assert (leaf.shape, leaf.dtype) == (wanted[path].shape, wanted[path].dtype), path
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(wanted[path]), err_msg=path)
    for state in (task.init(), plain):
        with pytest.raises(KeyError):
            state.cut({"params/stem/conv/colonel": lambda a: a})


def test_canonical_leaves_are_made_one_block_at_a_time_and_large_blocks_tree_by_tree(monkeypatch):
    task = make_task("chain", np.float32)
    made = []
    original = type(task.model).init_block
    monkeypatch.setattr(
        type(task.model), "init_block", lambda self, name, *rest: made.append(name) or original(self, name, *rest)
    )
    state = task.init()
    assert made == []
    np.asarray(state.params["stem"]["conv"]["kernel"])
    assert made == ["stem"]
    made.clear()
    small = task.init().in_memory()
    assert sorted(made) == sorted(task.model.names)

    made.clear()
    monkeypatch.setattr(initial_state, "KEPT_BYTES", 500)  # that many bytes may wait for the other tree: the stem's
    large = task.init().in_memory()
    assert made.count("stem") == 1
    assert sorted(name for name in made if name != "stem") == ["head", "last", "last", "middle", "middle"]
    jax.tree.map(np.testing.assert_array_equal, small.arrays(), large.arrays())
