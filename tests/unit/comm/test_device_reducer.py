"""Trees of several devices, summed from outside of a program; `processes/` has devices of several processes."""

from __future__ import annotations

import jax
import numpy as np

from jaxdist.comm.device_reducer import DeviceReducer


def test_every_device_gets_the_sum_of_all_on_itself():
    devices = [jax.devices()[i] for i in (2, 0, 5)]
    trees = [{"a": np.full((2, 3), k, np.float32), "b": np.int32(10 * k)} for k in (1, 2, 4)]
    found = DeviceReducer(devices)(trees)
    assert len(found) == 3
    for tree, device in zip(found, devices, strict=True):
        assert {leaf.devices().pop() for leaf in jax.tree.leaves(tree)} == {device}
        np.testing.assert_array_equal(tree["a"], np.full((2, 3), 7))
        assert tree["b"] == 70 and tree["b"].shape == () and tree["b"].dtype == np.int32


def test_one_device_sums_nothing():
    tree = {"a": np.ones(3)}
    assert DeviceReducer(jax.devices()[:1])([tree]) == [tree]
