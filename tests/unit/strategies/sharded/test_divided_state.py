"""A state that comes in parts: of arrays that are divided, a process asks for its own parts alone."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from helpers.in_process import SHARDED, strategy_on
from helpers.reference import make_task

from jaxdist.state import flatten, part_shape


@pytest.mark.parametrize("options", [{"mesh": "model:2"}, {"shard_params": "fsdp"}, {"shard_params": "zero1"}])
def test_of_divided_arrays_parts_alone_are_asked_for(options, monkeypatch):
    """On a process of one device of two: stopped where it would put them on devices that it does not have."""
    asked = {}

    class Enough(Exception):
        pass

    def cut(parts):
        asked.update({path: part_shape(leaves[path], select) for path, select in parts.items()})
        raise Enough

    task = make_task("resnet", np.float32)
    leaves = flatten(task.init().arrays())
    strategy = strategy_on(2, task, **SHARDED | options)
    here = jax.devices()[1:2]
    monkeypatch.setattr(
        jax.sharding.NamedSharding,
        "addressable_devices_indices_map",
        lambda self, shape: {d: index for d, index in self.devices_indices_map(shape).items() if d in here},
    )
    with pytest.raises(Enough):
        strategy.import_state(dataclasses.replace(task.init(), cut_by=cut))
    trees = {path.split("/")[0] for path in asked}
    assert "opt_state" in trees and ("params" in trees) == (options.get("shard_params") != "zero1")
    size = lambda path, shape: (int(np.prod(shape)), int(np.prod(leaves[path].shape)))  # noqa: E731
    part, whole = np.sum([size(path, shape) for path, shape in asked.items()], axis=0)
    assert 0.45 * whole < part < 0.55 * whole
    assert whole > 0.9 * sum(np.prod(leaf.shape) for path, leaf in leaves.items() if path.split("/")[0] in trees) * (
        0.5 if "mesh" in options else 1
    )
