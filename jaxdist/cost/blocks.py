"""What each block of a model costs: bytes by its shapes, seconds by measuring it."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdist.task import Batch, Task
from jaxdist.task.stage import Stage

_ROUNDS = 12


@dataclasses.dataclass(frozen=True)
class BlockCost:
    """Of one block, for one microbatch.

    Attributes:
      input_bytes, output_bytes: of activations; those cross a cut before or after it. The batch's inputs do not.
      output_dtype: of the activations.
      param_bytes: of its parameters.
      saved_bytes: what is kept from its forward to its backward pass.
      forward, backward: seconds; None where they were not measured.
    """

    name: str
    input_bytes: int
    output_bytes: int
    output_dtype: Any
    param_bytes: int
    saved_bytes: int
    forward: float | None = None
    backward: float | None = None


def block_costs(task: Task, examples: int) -> list[BlockCost]:
    """Of every block, by shapes alone, for microbatches of so many examples. Traces, but computes nothing."""
    found = []
    model = task.model
    values: dict[str, Any] = {}
    for name in model.names:
        stage = Stage(task, [name])
        arrays = _shapes_of(task, name)
        batch = _batch_shapes(task, examples)
        (sums, _) = jax.eval_shape(stage.start, arrays)
        x = {source: values[source] for source in stage.coming}
        y, _, saved = jax.eval_shape(stage.forward, arrays, sums, x, batch)
        out = y if stage.is_last else y[name]
        coming = list(x.values())
        found.append(
            BlockCost(
                name=name,
                input_bytes=_size(coming),
                output_bytes=_size(out),
                output_dtype=out.dtype,
                param_bytes=_size(arrays["params"]),
                saved_bytes=_size([*jax.tree.leaves(saved), *coming]),
            )
        )
        values[name] = out
    return found


def _shapes_of(task: Task, name: str) -> Any:
    params, stats = task.model.shapes[name]
    stats = {name: task.typed(stats)} if stats else {}
    return {"params": {name: task.typed(params)}, "model_state": stats, "opt_state": {}}


def _batch_shapes(task: Task, examples: int) -> Batch:
    return {
        "inputs": task.model.examples(task.dtype, examples),
        "target": jax.ShapeDtypeStruct((examples, *task.target.shape), task.target.dtype),
        "position": jax.ShapeDtypeStruct((examples,), np.uint32),
    }


def _size(tree: Any) -> int:
    return sum(int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


class _Trial:
    """One block on this process's first device, ready to be timed: compiling is part of the constructor."""

    def __init__(self, task: Task, name: str, examples: int, *, remat: bool) -> None:
        self._stage = Stage(task, [name], remat=remat)
        device = jax.local_devices()[0]
        zeros = lambda tree: jax.tree.map(lambda s: jax.device_put(np.zeros(s.shape, s.dtype), device), tree)  # noqa: E731
        self._arrays, self._batch = zeros(_shapes_of(task, name)), zeros(_batch_shapes(task, examples))
        shapes, dtype = task.model.activation_shapes, task.compute_dtype or task.dtype
        self._x = {
            source: jax.device_put(jnp.zeros((examples, *shapes[source]), dtype), device)
            for source in self._stage.coming
        }
        self._sums, self._grads = self._stage.start(self._arrays)
        self._cotangent: Any = None
        self.forward = self.backward = float("inf")
        self.run()  # compiles
        self.forward = self.backward = float("inf")

    def run(self) -> None:
        """Once forward and backward; remembers the fastest seconds of each."""
        begin = time.perf_counter()
        y, self._sums, saved = self._stage.forward(self._arrays, self._sums, self._x, self._batch)
        jax.block_until_ready((y, self._sums))
        if self._cotangent is None:
            self._cotangent = jax.block_until_ready(jax.tree.map(jnp.ones_like, y))
        between = time.perf_counter()
        by_x, self._grads = self._stage.backward(
            self._arrays, self._x, self._batch, saved, self._cotangent, self._grads
        )
        jax.block_until_ready((by_x, self._grads))
        self.forward = min(self.forward, between - begin)
        self.backward = min(self.backward, time.perf_counter() - between)


def measured(
    task: Task,
    costs: Sequence[BlockCost],
    examples: int,
    *,
    remat: bool,
    part: int,
    parts: int,
    gather: Callable[[Any], list[Any]],
) -> list[BlockCost]:
    """`costs` with times; each of `parts` processes measures its share of the blocks. Collective by `gather`."""
    names = [cost.name for cost in costs]
    logging.info(
        "Measuring %d blocks to balance the stages; their programs are compiled once, then cached.", len(names)
    )
    trials = {name: _Trial(task, name, examples, remat=remat) for name in names[part::parts]}
    for _ in range(_ROUNDS):  # block by block, again and again: a moment in which the machine is slow spoils no block
        for trial in trials.values():
            trial.run()
    own = {name: (trial.forward, trial.backward) for name, trial in trials.items()}
    every: dict[str, tuple[float, float]] = {}
    for found in gather(own):
        every |= {name: (times[0], times[1]) for name, times in found.items()}
    return [dataclasses.replace(c, forward=every[c.name][0], backward=every[c.name][1]) for c in costs]
