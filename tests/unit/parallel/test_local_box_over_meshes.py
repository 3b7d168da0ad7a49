"""What one process of several holds of an array, over meshes in both orders of their axes."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxdist.parallel.local_box import Box


class OfProcess:
    """A sharding as a process sees it that has only some of the devices."""

    def __init__(self, sharding, devices) -> None:
        self._sharding, self._devices = sharding, devices

    def addressable_devices_indices_map(self, shape):
        every = self._sharding.devices_indices_map(shape)
        return {device: every[device] for device in self._devices}


@pytest.mark.parametrize("axes", ["data:2,model:4", "model:4,data:2", "data:8", "model:8"])
@pytest.mark.parametrize("each", [1, 2, 4])
@pytest.mark.parametrize("partition", [("model", None), (None, "data"), ("data", "model"), ()])
def test_a_process_holds_a_box(axes, each, partition):
    sizes = {axis: int(size) for axis, size in (part.split(":") for part in axes.split(","))}
    partition = tuple(axis if axis in sizes else None for axis in partition)
    mesh = jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(jax.sharding.AxisType.Auto,) * len(sizes))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*partition))
    whole = np.arange(16 * 8).reshape(16, 8)
    for start in range(0, 8, each):
        devices = mesh.devices.flat[start : start + each]
        box = Box.held_here(OfProcess(sharding, devices), whole.shape)
        held = whole[box.index]
        assert held.shape == box.shape
        for index in OfProcess(sharding, devices).addressable_devices_indices_map(whole.shape).values():
            np.testing.assert_array_equal(held[Box.of(index, whole.shape).within(box)], whole[index])
        if each == 1:
            assert held.size * int(np.prod([sizes[axis] for axis in partition if axis])) == whole.size
