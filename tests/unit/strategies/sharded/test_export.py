"""Arrays in shards on the host: each process keeps its own shards, the chief puts them together when asked.

Over real processes it is held by `processes/test_sharded.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdist.state import LazyArray, flatten
from jaxdist.strategies.sharded.export import export_arrays


class Device(NamedTuple):
    id: int
    process_index: int


class Shard(NamedTuple):
    device: Device
    data: np.ndarray
    replica_id: int


class OverProcesses:
    """An array [8, 3] over four devices as process `process` of two has it: parts of four rows, each there twice."""

    is_fully_replicated = is_fully_addressable = False
    shape, dtype = (8, 3), np.dtype(np.float32)

    def __init__(self, whole: np.ndarray, process: int) -> None:
        self._whole, self._process, self.sharding = whole, process, self

    def devices_indices_map(self, shape):
        assert shape == self.shape
        return {Device(k, k % 2): (slice(4 * (k % 2), 4 * (k % 2) + 4), slice(None)) for k in range(4)}

    @property
    def addressable_shards(self):
        indices = self.devices_indices_map(self.shape)
        mine = {device: index for device, index in indices.items() if device.process_index == self._process}
        return [Shard(device, self._whole[index], device.id // 2) for device, index in mine.items()]


class Exchange:
    """Of one process; `others` has what each has kept."""

    def __init__(self, process: int, others: dict) -> None:
        self.is_chief, self._process, self._others = process == 0, process, others
        self.asked: list[str] = []

    def keep(self, version, arrays):
        self._others[self._process] = version, arrays

    def lazy(self, process, version, name, shape, dtype):
        def fetch():
            self.asked.append(name)
            kept, arrays = self._others[process]
            assert kept == version
            return arrays[name]

        return LazyArray(tuple(shape), np.dtype(dtype), fetch)


def test_each_keeps_its_own_shards_and_the_chief_fetches_the_others_when_asked():
    whole, kept = np.arange(24, dtype=np.float32).reshape(8, 3), {}
    exchanges = [Exchange(process, kept) for process in range(2)]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    count = jax.device_put(np.float32(5), NamedSharding(mesh, P()))
    found = [
        export_arrays({"params": {"a": OverProcesses(whole, process)}, "opt_state": {"count": count}}, 3, exchange)
        for process, exchange in enumerate(exchanges)
    ]
    assert [list(arrays) for _, arrays in kept.values()] == [["params/a@0"], ["params/a@1"]]  # a part is kept once
    assert exchanges[0].asked == []
    np.testing.assert_array_equal(found[0]["params"]["a"], whole)
    assert exchanges[0].asked == ["params/a@1"] and float(found[0]["opt_state"]["count"]) == 5
    for array, shape in ((found[1]["params"]["a"], (8, 3)), (found[1]["opt_state"]["count"], ())):
        assert array.shape == shape
        with pytest.raises(RuntimeError, match="The chief alone has the canonical state"):
            np.asarray(array)


def test_one_process_has_everything_as_copies():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    whole = np.arange(24, dtype=np.float32).reshape(8, 3)
    arrays = {name: jax.device_put(whole, NamedSharding(mesh, spec)) for name, spec in (("a", P("data")), ("b", P()))}
    found = flatten(export_arrays({"params": arrays}, 3, None))
    for array in arrays.values():
        array.delete()  # as the next step does, to which it is donated
    assert found.keys() == {"params/a", "params/b"}
    for array in found.values():
        assert type(array) is np.ndarray
        np.testing.assert_array_equal(array, whole)
