"""Synchronous data parallelism under `jax.pmap`, for users who have such code."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxdist.parallel.mesh import DATA
from jaxdist.strategies.data_parallel.allreduce import AllReduce
from jaxdist.task import Batch


class AllReducePmap(AllReduce):
    """The same body under `jax.pmap`: each array has a leading dimension, one entry a local device."""

    def _compile(self) -> None:
        self._step = jax.pmap(
            self._replica_step,
            DATA,
            in_axes=(0, 0, None, 0),
            out_axes=(0, None),
            donate_argnums=0,
            devices=jax.devices(),
        )
        self._evaluate = jax.pmap(self._replica_evaluate, DATA, out_axes=None, devices=jax.devices())

    def _put_everywhere(self, leaf: Any) -> jax.Array:
        value = np.array(leaf)
        return self._put_local(np.broadcast_to(value, (len(jax.local_devices()), *value.shape)))

    def _put_local(self, value: np.ndarray) -> jax.Array:
        """`value` [local devices, ...] as the array over all devices that pmap's inputs are."""
        return jax.make_array_from_process_local_data(self._by_example, value)

    def _fetch(self, leaf: jax.Array) -> np.ndarray:
        return super()._fetch(leaf)[0]

    def place(self, batch: Batch) -> Batch:
        local = len(jax.local_devices())
        return jax.tree.map(lambda value: self._put_local(value.reshape(local, -1, *value.shape[1:])), batch)
