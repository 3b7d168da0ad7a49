"""What a process, alone or of several, holds of an array, as one box of it."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdist.parallel.local_box import Box, put_from_box

MESH = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:4])


def test_a_box_lies_within_another():
    outer, inner = Box(((2, 10), (0, 3))), Box(((4, 6), (1, 3)))
    assert inner.shape == (2, 2) and inner.index == (slice(4, 6), slice(1, 3))
    assert inner.within(outer) == (slice(2, 4), slice(1, 3))
    with pytest.raises(AssertionError):
        outer.within(inner)
    assert Box.of((slice(None), slice(1, None)), (4, 3)) == Box(((0, 4), (1, 3)))


@pytest.mark.parametrize("partition", [P(), P("data"), P("model", "data"), P(None, ("data", "model"))])
def test_an_array_is_put_from_what_is_held_of_it(partition):
    whole = np.arange(32.0, dtype=np.float32).reshape(4, 8)
    sharding = NamedSharding(MESH, partition)
    box = Box.held_here(sharding, whole.shape)
    assert box == Box(((0, 4), (0, 8)))  # all devices are this process's
    placed = put_from_box(whole[box.index], box, sharding, whole.shape)
    assert placed.sharding == sharding
    np.testing.assert_array_equal(placed, whole)


class ThreeDevices:
    """A sharding of which this process has some devices."""

    def addressable_devices_indices_map(self, shape):
        return {k: (slice(start, start + 2), slice(None)) for k, start in enumerate((4, 2, 6))}


def test_the_box_is_the_smallest_that_holds_all_devices_parts():
    assert Box.held_here(ThreeDevices(), (10, 3)) == Box(((2, 8), (0, 3)))


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
