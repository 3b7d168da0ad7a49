"""The programs of one pipeline stage: some blocks on one device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdist.state import Tree
from jaxdist.task.task import Batch, Metrics, Task, sum_of_squares
from jaxdist.task.two_pass import Saved, TwoPass
from jaxdist.task.update import all_finite

Values = dict[str, jax.Array]  # outputs of blocks, by their names


class Stage:
    """Forward and backward pass of a microbatch, evaluation and update. All programs run where their arrays are.

    A stage's arrays are {params, model_state, opt_state}, cut from the canonical ones; `sums` adds up what the forward
    passes of a step give ({stats, metrics}), `grads` what the backward passes give.

    What goes from stage to stage is {block: its output [b, ...]}; gradients come back by the same names.

    Args:
      names: of the blocks.

    Attributes:
      coming: the blocks of other stages whose outputs this one is given.
      going: its blocks whose outputs other stages are given.
      reads_inputs: it is given inputs of the examples.
      is_last: it has the model's head, and thus the loss.
      remat: compute the forward pass again in the backward pass instead of keeping what it needs.
      batch_axis: mesh axis over which BatchNorm's statistics are taken too.
    """

    def __init__(self, task: Task, names: Sequence[str], *, remat: bool = False, batch_axis: str | None = None) -> None:
        self.task, self.names = task, tuple(names)
        sources = {source for name in self.names for source in task.model.sources_of[name]}
        self.reads_inputs = bool(sources & set(task.model.inputs))
        self.coming, self.going = task.model.between(self.names)
        self.is_last = task.model.head in self.names
        self._batch_axis = batch_axis
        self.passes = TwoPass(self._run, recompute=remat)
        self.start = jax.jit(self._start)
        self.forward = jax.jit(self._forward, donate_argnums=1)
        self.backward = jax.jit(self._backward, donate_argnums=5)
        self.evaluate = jax.jit(self._evaluate)
        self.update = jax.jit(self._update, donate_argnums=0)
        self.all_finite = jax.jit(all_finite)
        self.squares = jax.jit(lambda grads, count: sum_of_squares(_mean(grads, count)))

    def cut(self, tree: Tree) -> Tree:
        """The entries of this stage's blocks in a tree that is keyed by block."""
        return {name: tree[name] for name in self.names if name in tree}

    def cut_arrays(self, canonical: Tree) -> Tree:
        """The same of params, model_state and every slot of the optimizer."""
        slots = canonical["opt_state"].items()
        return {
            "params": self.cut(canonical["params"]),
            "model_state": self.cut(canonical["model_state"]),
            "opt_state": {slot: self.cut(tree) if isinstance(tree, dict) else tree for slot, tree in slots},
        }

    def inputs(self, arrays: Tree, x: Values) -> tuple[Any, ...]:
        """What is differentiated: the batch's inputs are not."""
        return (arrays["params"], x) if self.coming else (arrays["params"],)

    def _run(self, differentiated: tuple[Any, ...], others: Any) -> tuple[Any, tuple[Tree, Metrics]]:
        """(what goes to other stages, or the mean loss; (new statistics, metrics)) of one microbatch."""
        stats, batch = others
        params, *rest = differentiated
        made, stats = self.task.apply_blocks(
            params, stats, batch, rest[0] if rest else {}, train=True, batch_axis=self._batch_axis, names=self.names
        )
        if not self.is_last:
            return {name: made[name] for name in self.going}, (stats, {})
        loss, metrics = self.task.training_score(made[self.task.model.head], batch)
        return loss, (stats, metrics)

    def _start(self, arrays: Tree) -> tuple[Tree, Tree]:
        """(sums, grads) of no microbatch at all."""
        zeros = lambda tree: jax.tree.map(jnp.zeros_like, tree)  # noqa: E731
        metrics = dict.fromkeys(self.sum_names, jnp.zeros((), self.metrics_dtype)) if self.is_last else {}
        return {"stats": zeros(arrays["model_state"]), "metrics": metrics}, zeros(arrays["params"])

    @property
    def sum_names(self) -> tuple[str, ...]:
        """Of a step's metrics."""
        return self.task.objective.training_sums

    @property
    def metrics_dtype(self) -> Any:
        """Of losses: float32, or float64 in a run of float64."""
        return jnp.promote_types(self.task.compute_dtype or self.task.dtype, jnp.float32)

    def _forward(self, arrays: Tree, sums: Tree, x: Values, batch: Batch) -> tuple[Any, Tree, Saved]:
        """(what goes on, or the loss; new sums; what the backward pass needs); `sums` is used up."""
        others = (arrays["model_state"], batch)
        y, (stats, metrics), saved = self.passes.forward(self.inputs(arrays, x), others)
        return y, jax.tree.map(jnp.add, sums, {"stats": stats, "metrics": metrics}), saved

    def _backward(
        self, arrays: Tree, x: Values, batch: Batch, saved: Saved, cotangent: Any, grads: Tree
    ) -> tuple[Values, Tree]:
        """(gradients by x, new sum of gradients); `grads` is used up. `cotangent`: like what the forward pass gave."""
        others = (arrays["model_state"], batch)
        own, *by_x = self.passes.backward(self.inputs(arrays, x), others, saved, cotangent)
        return by_x[0] if by_x else {}, jax.tree.map(jnp.add, grads, own)

    def _evaluate(self, arrays: Tree, x: Values, batch: Batch) -> Any:
        """What goes on, or metrics."""
        params, stats = self.task.evaluated(arrays), arrays["model_state"]
        made, _ = self.task.apply_blocks(params, stats, batch, x, train=False, names=self.names)
        if self.is_last:
            return self.task.evaluation_score(made[self.task.model.head], batch)
        return {name: made[name] for name in self.going}

    def _update(
        self,
        arrays: Tree,
        grads: Tree,
        stats: Tree,
        learning_rate: jax.Array,
        count: jax.Array,
        squares: jax.Array | None = None,
    ) -> Tree:
        """New arrays from sums over `count` microbatches; `arrays` is used up.

        `squares`: of the mean gradient of the whole model, where it may be clipped.
        """
        return self.task.updated(arrays, _mean(grads, count), _mean(stats, count), learning_rate, squares)


def _mean(sums: Tree, count: jax.Array) -> Tree:
    return jax.tree.map(lambda leaf: (leaf / count).astype(leaf.dtype), sums)
