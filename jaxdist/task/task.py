"""What is trained, as pure functions over plain dicts: model, loss and metrics."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdist import ops
from jaxdist.models import Context, Graph
from jaxdist.ops.kinds import LOSS
from jaxdist.optim.optimizers import Optimizer
from jaxdist.state import LazyArray, Position, Select, TrainState, Tree, arrays_of, flatten, part_shape
from jaxdist.task.initial_state import InitialModel
from jaxdist.task.objectives.classification import Classification
from jaxdist.task.objectives.objective import Objective

# inputs {name: [b, ...]}, target [b, ...], position uint32 [b]; in evaluation mask float [b] instead of it; where the
# examples have weights, weight float [b]
Batch = dict[str, Any]
_CLASSES, _LABEL = Classification(), jax.ShapeDtypeStruct((), np.int32)

Metrics = dict[str, Any]  # sums over examples: loss_sum, count and those of the objective's metrics


@dataclasses.dataclass(frozen=True)
class Task:
    """A model to train, and what for.

    Attributes:
      model: the blocks.
      optimizer: the update rule.
      learning_rate: examples_seen -> learning rate.
      seed: of initialisation and dropout.
      dtype: of parameters and statistics.
      compute_dtype: of activations; None: `dtype`. Statistics, loss and the update stay `dtype` or wider.
      microbatches: `gradient` takes a batch in so many equal parts, one after the other: less memory, and activations
        that stay in cache. BatchNorm sees the parts as replicas do theirs; statistics are the mean of the parts'.
      objective: the loss and the metrics.
      target: what one example's is like.
      clip_global_norm: the gradient is scaled down to this norm over the whole model; 0: never. Before what the
        optimizer adds to it (an L2 penalty).
      nonfinite: 'stop', 'skip' or 'warn'; 'skip' alone changes the step (`update.unless_not_finite`).
    """

    model: Graph
    optimizer: Optimizer
    learning_rate: Callable[[int], float]
    seed: int = 0
    dtype: Any = np.float32
    compute_dtype: Any = None
    microbatches: int = 1
    nonfinite: str = "stop"
    objective: Objective = _CLASSES
    target: Any = _LABEL
    clip_global_norm: float = 0.0

    def init(self, parts: Mapping[str, Select] | None = None) -> TrainState:
        """The initial canonical state. Its leaves are made block by block, when asked for: each once, in one thread, or
        their block is made again.

        Of those that `parts` names (as in 'params/stem/conv/kernel'), the part alone is ever made.

        Raises:
          KeyError: there is no such leaf.
        """
        parts = parts or {}
        model = InitialModel(self.model, self.seed, parts)
        leaves: dict[str, LazyArray] = {}
        shapes = flatten(self._shapes())
        for path, like in shapes.items():
            if path.startswith("opt_state/"):
                _, slot, name = (path + "/").split("/", 2)
                of = shapes.get(f"params/{name[:-1]}")
                leaves[path] = self._slot_leaf(slot, name[:-1], like, of, parts.get(path))
                continue
            shape = part_shape(like, parts[path]) if path in parts else tuple(like.shape)
            leaves[path] = LazyArray(shape, np.dtype(like.dtype), functools.partial(model.leaf, path))
        if unknown := sorted(parts.keys() - leaves.keys()):
            raise KeyError(unknown[0])
        initial = TrainState.of(arrays_of(leaves), 0, Position(0, ()))
        return initial if parts else dataclasses.replace(initial, cut_by=self.init)

    def _slot_leaf(self, slot: str, name: str, like: Any, of: Any, select: Select | None) -> LazyArray:
        """The leaf of an initial slot (or of it what `select` takes) that is like that and belongs to the parameter
        `name`, which is like `of`; None: to no parameter alone."""
        if of is not None and like.shape == of.shape:  # a part of it is that of a part of the parameter
            shape = part_shape(like, select) if select is not None else tuple(like.shape)
            return LazyArray(
                shape, np.dtype(like.dtype), lambda: self.optimizer.init_leaf(slot, shape, self.dtype, name)
            )
        if of is not None:
            make = functools.partial(self.optimizer.init_leaf, slot, tuple(of.shape), self.dtype, name)
        elif like.shape:
            make = functools.partial(self._whole_slot, slot)
        else:
            make = functools.partial(self.optimizer.init_leaf, slot, (), self.dtype)
        whole = LazyArray(tuple(like.shape), np.dtype(like.dtype), make)
        return whole if select is None else LazyArray.part(whole, select)

    def _whole_slot(self, slot: str) -> np.ndarray:
        """An array that may depend on all parameters' shapes."""
        return self.optimizer.init(self._shapes_of_params())[slot]

    def _shapes(self) -> Tree:
        """Of the canonical state's arrays, as `jax.ShapeDtypeStruct`s."""
        params, stats = ({name: both[i] for name, both in self.model.shapes.items()} for i in (0, 1))
        return {"params": self.typed(params), "model_state": self.typed(stats), "opt_state": self.slot_shapes()}

    def slot_shapes(self) -> Tree:
        """Of the optimizer's state, as `jax.ShapeDtypeStruct`s."""
        return self.optimizer.shapes(self._shapes_of_params())

    def _shapes_of_params(self) -> Tree:
        return self.typed({name: params for name, (params, _) in self.model.shapes.items() if params})

    def check_optimizer(self) -> None:
        """Refuses an optimizer that cannot train this model.

        Raises:
          ValueError: why.
        """
        try:
            self.optimizer.check(self._shapes_of_params())
        except ValueError as e:
            raise ValueError(f"optim.name={self.optimizer.name!r}: {e}.") from e

    def typed(self, shapes: Tree) -> Tree:
        """Shapes of the model's tensors in the dtype in which it has them."""
        return jax.tree.map(lambda like: jax.ShapeDtypeStruct(like.shape, self.dtype), shapes)

    def apply(
        self,
        params: Tree,
        stats: Tree,
        batch: Batch,
        *,
        train: bool,
        batch_axis: str | None = None,
    ) -> tuple[jax.Array, Tree]:
        """The model's outputs [b, ...] and new statistics."""
        made, stats = self.apply_blocks(params, stats, batch, {}, train=train, batch_axis=batch_axis)
        return made[self.model.head], stats

    def apply_blocks(
        self,
        params: Tree,
        stats: Tree,
        batch: Batch,
        values: Mapping[str, Any],
        *,
        train: bool,
        batch_axis: str | None = None,
        names: Collection[str] | None = None,
    ) -> tuple[dict[str, jax.Array], Tree]:
        """Outputs of the blocks called `names` (None: all), and their new statistics.

        `values`: outputs of other blocks that they are given; inputs are the batch's, where it has them.
        """
        dtype = self.compute_dtype or self.dtype
        given = self.model.given(batch["inputs"], dtype) if "inputs" in batch else {}
        context = Context(train=train, batch_axis=batch_axis, positions=batch.get("position"), dtype=dtype)
        return self.model.apply(params, stats, given | dict(values), context, seed=self.seed, names=names)

    def loss(
        self, params: Tree, stats: Tree, batch: Batch, batch_axis: str | None = None
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
        """Mean loss over the batch, with (new statistics, metrics)."""
        outputs, stats = self.apply(params, stats, batch, train=True, batch_axis=batch_axis)
        loss, metrics = self.training_score(outputs, batch)
        return loss, (stats, metrics)

    def training_score(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        """(mean loss over a batch, metrics)."""
        with ops.kind(LOSS):
            losses, metrics = self.objective.score(outputs, batch, training=True)
            return jnp.mean(losses), metrics

    def evaluation_score(self, outputs: jax.Array, batch: Batch) -> Metrics:
        """Metrics of a batch; examples whose mask is 0 do not count."""
        with ops.kind(LOSS):
            return self.objective.score(outputs, batch, training=False)[1]

    def gradient(
        self, params: Tree, stats: Tree, batch: Batch, batch_axis: str | None = None
    ) -> tuple[Tree, Tree, Metrics]:
        """(gradient of the mean loss, new statistics, metrics) of one batch, in `microbatches` parts."""
        differentiated = jax.grad(functools.partial(self.loss, batch_axis=batch_axis), has_aux=True)

        def part(batch: Batch) -> tuple[Tree, Tree, Metrics]:
            grads, (new, metrics) = differentiated(params, stats, batch)
            return grads, new, metrics

        count = self.microbatches
        if count == 1:
            return part(batch)
        parts = jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), batch)
        shapes = jax.eval_shape(part, jax.tree.map(lambda leaf: leaf[0], parts))
        start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        add = functools.partial(jax.tree.map, jnp.add)
        (grads, new, metrics), _ = jax.lax.scan(lambda total, one: (add(total, part(one)), None), start, parts)
        grads, new = jax.tree.map(lambda leaf: (leaf / count).astype(leaf.dtype), (grads, new))
        return grads, new, metrics

    def clipped(self, grads: Any, squares: Any = None) -> Any:
        """A gradient, or a part of one, scaled by what `clip_global_norm` asks for. Traceable.

        `squares`: the sum of squares over the whole model, where `grads` is not all of it.
        """
        if not self.clip_global_norm:
            return grads
        norm = jnp.sqrt(sum_of_squares(grads) if squares is None else squares)
        scale = self.clip_global_norm / jnp.maximum(norm, self.clip_global_norm)
        return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), grads)

    def updated(
        self, arrays: Tree, grads: Tree, stats: Tree, learning_rate: jax.Array, squares: jax.Array | None = None
    ) -> Tree:
        """New arrays from a mean gradient, which is clipped first; `squares` as for `clipped`. Traceable."""
        clipped = self.clipped(grads, squares)
        params, opt_state = self.optimizer.update(clipped, arrays["opt_state"], arrays["params"], learning_rate)
        return {"params": params, "model_state": stats, "opt_state": opt_state}

    def evaluated(self, arrays: Tree) -> Tree:
        """The parameters that evaluations are of."""
        return self.optimizer.evaluated(arrays["opt_state"], arrays["params"])

    def evaluate_state(self, arrays: Tree, batch: Batch) -> Metrics:
        """`evaluate` of the parameters that evaluations are of."""
        return self.evaluate(self.evaluated(arrays), arrays["model_state"], batch)

    def evaluate(self, params: Tree, stats: Tree, batch: Batch) -> Metrics:
        """Metrics of one batch with the running statistics; examples whose mask is 0 do not count."""
        outputs, _ = self.apply(params, stats, batch, train=False)
        return self.evaluation_score(outputs, batch)


def sum_of_squares(tree: Any) -> jax.Array:
    """Over all elements of all leaves, at least float32: []."""
    wide = lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))  # noqa: E731
    return sum((jnp.sum(jnp.square(wide(leaf))) for leaf in jax.tree.leaves(tree)), jnp.zeros((), jnp.float32))
