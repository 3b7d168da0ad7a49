"""Traces what most processes of tests will trace, before they are forked (`preloaded`): it saves each a quarter second.

JAX keeps what it has traced of its own functions, by the shapes of their arguments. No array is made and no backend is
started: a process that has devices, and thus threads, must not be forked.
"""

from __future__ import annotations

import jax
import numpy as np
from helpers.reference import make_batches, make_task


def _trace(examples: int) -> None:
    task = make_task("chain")
    arrays = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), task.init().arrays())
    params, stats = arrays["params"], arrays["model_state"]
    batch = make_batches(1, examples)[0]
    jax.eval_shape(task.gradient, params, stats, batch)
    jax.eval_shape(task.evaluate, params, stats, batch | {"mask": np.ones(examples)})


before = jax.config.jax_enable_x64
jax.config.update("jax_enable_x64", True)  # as `tiny_config` has it
try:
    _trace(6)  # of two workers
finally:
    jax.config.update("jax_enable_x64", before)
