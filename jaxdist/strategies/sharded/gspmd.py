"""The global program under `jit` with NamedSharding (once called pjit): rules say where arrays lie, XLA exchanges.

    mesh data:2,model:2        batch over `data`; the arrays that a rule matches over `model`; all others everywhere

A pair of layers split by output, then by input channels, needs one all-reduce (Shoeybi et al. 2019, arXiv:1909.08053,
section 3): what lies between them is computed for the own channels alone.

                        conv1 [.., in, C]      conv2 [.., C, out]
    x  (all channels)   C/2 on device 0   ->   partial sums   \\
                        C/2 on device 1   ->   partial sums   -- all-reduce -- y

Without rules this is `allreduce` with strategy.spmd=jit. BatchNorm sees the global batch, so with a `data` axis every
layer communicates, forward and backward: ruinous on a slow network.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdist.parallel.local_box import Box, put_from_box
from jaxdist.parallel.partition_rules import Partition
from jaxdist.state import TrainState, Tree, arrays_of, flatten
from jaxdist.strategies.data_parallel.allreduce import AllReduceReport
from jaxdist.strategies.sharded.divided_state import DividedState
from jaxdist.task import Batch, Metrics, Task
from jaxdist.task.update import update


class MeshReport(AllReduceReport):
    """Says too how the devices are arranged."""

    def __init__(self, strategy: ModelParallel, axes: Mapping[str, int]) -> None:
        super().__init__(strategy)
        self._axes = {str(axis): size for axis, size in axes.items()}

    def summary(self) -> dict[str, Any]:
        return super().summary() | {"mesh": self._axes}


class ModelParallel(DividedState):
    """Arrays and batches over a mesh, as partitions say.

    Args:
      partitions: {path of a parameter or statistic: its partition}; others are whole everywhere. What the
        optimizer keeps for a parameter lies as the parameter does, if it has its shape.
    """

    def __init__(self, task: Task, *, partitions: Mapping[str, Partition] | None = None, **options: Any) -> None:
        self._partitions = dict(partitions or {})
        super().__init__(task, **options)
        self.report = MeshReport(self, self._mesh.shape)

    def _compile(self) -> None:
        # Operations that XLA could not partition see from the mesh that it is to do so.
        mesh = self._mesh.abstract_mesh

        def step(arrays: Tree, batch: Batch, learning_rate: jax.Array, stop: jax.Array) -> tuple[Tree, Metrics]:
            with jax.sharding.use_abstract_mesh(mesh):
                arrays, metrics = update(self.task, arrays, batch, learning_rate)
            return arrays, metrics | {"stop": stop.sum()}

        def evaluate(arrays: Tree, batch: Batch) -> Metrics:
            with jax.sharding.use_abstract_mesh(mesh):
                return self.task.evaluate_state(arrays, batch)

        arrays = self.task.init().arrays()
        self._param_shapes = {path: leaf.shape for path, leaf in flatten(arrays["params"]).items()}
        self._shardings = jax.tree_util.tree_map_with_path(self._sharding, arrays)
        self._step = jax.jit(step, donate_argnums=0, out_shardings=(self._shardings, self._replicated))
        self._evaluate = jax.jit(evaluate, out_shardings=self._replicated)

    def _sharding(self, path: Any, leaf: Any) -> NamedSharding:
        """Of the array at `path` in {params, model_state, opt_state}."""
        keys = [key.key for key in path]
        name = "/".join(keys[2:] if keys[0] == "opt_state" else keys[1:])
        if keys[0] == "opt_state" and self._param_shapes.get(name) != leaf.shape:
            return self._replicated
        return NamedSharding(self._mesh, P(*self._partitions.get(name, ())))

    def _flags(self, asked: bool) -> jax.Array:
        value = np.full(len(jax.local_devices()), asked, self.task.dtype)
        return jax.make_array_from_process_local_data(NamedSharding(self._mesh, P(self._mesh.axis_names)), value)

    def _put_share(self, value: np.ndarray) -> jax.Array:
        shape = (len(value) * self.own_part[1], *value.shape[1:])
        return jax.make_array_from_process_local_data(self._by_example, value, shape)

    def _placed(self, canonical: TrainState) -> Tree:
        shardings, wholes = flatten(self._shardings), flatten(canonical.arrays())
        boxes = {path: Box.held_here(shardings[path], leaf.shape) for path, leaf in wholes.items()}
        divided = {path: box for path, box in boxes.items() if box.shape != wholes[path].shape}
        held = flatten(canonical.cut({path: partial(_at, box.index) for path, box in divided.items()}).arrays())
        placed = {
            # A copy: the step donates it.
            path: put_from_box(np.array(leaf), boxes[path], shardings[path], wholes[path].shape)
            for path, leaf in held.items()
        }
        return arrays_of(placed)

    def _join_collectives(self) -> None:
        """Along each axis: the members of a gloo collective wait 30 seconds for each other the first time, and may take
        unequally long to compile."""
        for axis in self._mesh.axis_names:
            add = jax.shard_map(partial(jax.lax.psum, axis_name=axis), mesh=self._mesh, in_specs=P(), out_specs=P())
            jax.block_until_ready(jax.jit(add)(np.zeros((), np.float32)))


def _at(index: tuple[slice, ...], array: Any) -> Any:
    return array[index]
