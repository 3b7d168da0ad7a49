"""Data parallelism whose state is divided among the devices (ZeRO: Rajbhandari et al. 2020, arXiv:1910.02054).

fsdp (stage 3)   each block    all-gather parameters - forward         ... and once more before its backward pass
                 each block    backward - all-to-all of the gradients' shares, add up the own
                 at the end    ONE fused all-reduce (small tensors, statistics, metrics) - update of the own share

zero1 (stage 1)  ONE fused all-reduce (small tensors, statistics, metrics) and ONE all-to-all of the gradients' shares;
                 update of the own share with the own part of the optimizer's state; ONE all-gather of new parameters
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdist.ops.ordering import once_there
from jaxdist.optim.optimizers import AVERAGE
from jaxdist.parallel.flat_shards import SHARDED, WHOLE, FlatShards
from jaxdist.parallel.local_box import Box, put_from_box
from jaxdist.parallel.mesh import DATA
from jaxdist.state import (
    LazyArray,
    TrainState,
    Tree,
    flatten,
    unflatten,
)
from jaxdist.strategies.sharded.divided_state import DividedState
from jaxdist.task import Batch, Metrics, Task
from jaxdist.task.stage import Stage
from jaxdist.task.task import sum_of_squares
from jaxdist.task.update import unless_not_finite


class ShardedState(DividedState):
    """What fsdp and zero1 have in common: trees stored as `FlatShards` has them.

    Args:
      threshold: tensors of fewer elements are not divided.
    """

    stored: tuple[str, ...]  # which of the state's trees are

    def __init__(self, task: Task, *, threshold: int, **options: Any) -> None:
        shapes = {name: params for name, (params, _) in task.model.shapes.items() if params}
        self._layout = FlatShards(shapes, task.dtype, len(jax.devices()), threshold)
        super().__init__(task, **options)

    def _state_specs(self) -> Tree:
        params = self._layout.specs(P(DATA), P()) if "params" in self.stored else P()
        return {"params": params, "model_state": P(), "opt_state": self._slot_specs()}

    def _slot_specs(self) -> Tree:
        """Slots may lack some parameters: a spec for each of their vectors and small tensors."""
        shapes = {name: self.task.typed(params) for name, (params, _) in self.task.model.shapes.items() if params}
        slots = self.task.optimizer.shapes(jax.eval_shape(self._layout.store, shapes))
        return jax.tree_util.tree_map_with_path(
            lambda path, _: P(DATA) if len(path) > 2 and path[2].key == SHARDED else P(), slots
        )

    def _map_stored(self, state: Tree, stored: Callable[[Tree], Tree], others: Callable[[Tree], Tree]) -> Tree:
        """`stored` of the trees that are stored in shares, `others` of the others."""
        slots = state["opt_state"].items()
        return {
            "opt_state": {slot: (stored if isinstance(tree, dict) else others)(tree) for slot, tree in slots},
            "model_state": others(state["model_state"]),
            "params": (stored if "params" in self.stored else others)(state["params"]),
        }

    def _placed(self, canonical: TrainState) -> Tree:
        """Block by block: of an initial state, no more than this process's shares of one are on the host at a time."""
        portions = self._layout.portions(*self._held)
        prefixes = [f"opt_state/{slot}" for slot, tree in canonical.opt_state.items() if isinstance(tree, dict)]
        if "params" in self.stored:
            prefixes.append("params")
        parts = {
            f"{prefix}/{path}": partial(_flat, portion) for prefix in prefixes for path, portion in portions.items()
        }
        there = flatten(canonical.arrays())  # a slot may lack parameters
        parts = {path: part for path, part in parts.items() if path in there}
        everywhere = partial(jax.tree.map, self._put_everywhere)
        placed = self._map_stored(canonical.cut(parts).arrays(), self._put_shares, everywhere)
        # Without dicts that are empty, as an update gives them; the average is of the parameters as they are stored.
        slots = placed["opt_state"].items()
        as_updated = {s: unflatten(flatten(t)) if isinstance(t, dict) and s != AVERAGE else t for s, t in slots}
        return placed | {"opt_state": as_updated}

    @cached_property
    def _by_share(self) -> NamedSharding:
        return NamedSharding(self._mesh, P(DATA))

    @cached_property
    def _held(self) -> tuple[int, int]:
        """The first share that this process's devices hold, and the one after the last."""
        return Box.held_here(self._by_share, (self._layout.count,)).bounds[0]

    def _put_shares(self, portions: Tree) -> Tree:
        """Of a canonical tree in which divided tensors are this process's portions of them, [elements]."""
        placed = {}
        for block, tree in portions.items():
            stored = self._layout.store_portions(block, tree, *self._held)
            vectors = {kind: self._put_vector(block, kind, held) for kind, held in stored[SHARDED].items()}
            placed[block] = {SHARDED: vectors, WHOLE: jax.tree.map(self._put_everywhere, stored[WHOLE])}
        return placed

    def _put_vector(self, block: str, kind: str, held: np.ndarray) -> jax.Array:
        share = self._layout.share(block, kind)
        box = Box(((self._held[0] * share, self._held[1] * share),))
        return put_from_box(held, box, self._by_share, (self._layout.count * share,))

    def _squares(self, grads: Tree) -> jax.Array | None:
        """Of a stored gradient, where it may be clipped: shares count on the device that has them, small tensors
        once."""
        if not self.task.clip_global_norm:
            return None
        shares, small = ({block: own[kind] for block, own in grads.items()} for kind in (SHARDED, WHOLE))
        return self._reducer.sum_here(sum_of_squares(shares)) + sum_of_squares(small)

    def _canonical(self, arrays: Tree) -> Tree:
        return self._map_stored(arrays, self._restored, lambda tree: tree)

    def _restored(self, stored: Tree) -> Tree:
        """Of a stored tree of host arrays and leaves; a block's vectors are kept until another's are asked for."""
        last: dict[str, dict[str, np.ndarray]] = {}

        def vector(block: str, kind: str) -> np.ndarray:
            if block not in last:
                last.clear()
            vectors = last.setdefault(block, {})
            if kind not in vectors:
                vectors[kind] = np.asarray(stored[block][SHARDED][kind])
            return vectors[kind]

        def cut(block: str, kind: str, at: int, size: int, shape: tuple[int, ...]) -> np.ndarray:
            return vector(block, kind)[at : at + size].reshape(shape)

        found = {}
        for block in self._layout.tensors:
            own = stored.get(block, {})  # flattening drops what is empty, and a slot may lack parameters
            flat: dict[str, Any] = flatten(own.get(WHOLE, {}))
            for kind, t, at in self._layout.offsets(block):
                if kind in own.get(SHARDED, {}):
                    dtype = np.dtype(own[SHARDED][kind].dtype)
                    flat[t.name] = LazyArray(t.shape, dtype, partial(cut, block, kind, at, t.size, t.shape))
            found[block] = unflatten(flat)
        return found


class FullySharded(ShardedState):
    """`shard_params=fsdp`.

    Each block is a stage of its own, as a pipeline has them: its forward pass returns what its backward pass needs
    besides its inputs, so the gathered parameters are not kept between the two. (With a `compute_dtype` of its own it
    returns nothing, and the backward pass computes it again.)
    """

    stored = ("params", "opt_state")

    def _compile(self) -> None:
        # Parameters that are cast to another dtype are no longer a stage's inputs and would be kept, all of them.
        cast = self.task.compute_dtype not in (None, self.task.dtype)
        names = self.task.model.names
        self._stages = {name: Stage(self.task, [name], remat=cast, batch_axis=self._batch_axis) for name in names}
        super()._compile()

    def _replica_step(
        self, arrays: Tree, batch: Batch, learning_rate: jax.Array, stop: jax.Array
    ) -> tuple[Tree, Metrics]:
        grads, stats, metrics = self._gradient(arrays["params"], arrays["model_state"], batch)
        small = {block: own[WHOLE] for block, own in grads.items()}  # shares are sums over the replicas already
        small, stats, metrics = self._reducer.step(small, stats, metrics, stop)
        grads = {
            block: {SHARDED: self._reducer.mean(own[SHARDED]), WHOLE: small[block]} for block, own in grads.items()
        }
        new = self.task.updated(arrays, grads, stats, learning_rate, self._squares(grads))
        return unless_not_finite(self.task, new, arrays, grads, metrics, self._reducer.all_true)

    def _gradient(self, params: Tree, stats: Tree, batch: Batch) -> tuple[Tree, Tree, Metrics]:
        """(stored gradients: own shares of sums over the replicas, and own small tensors; new statistics; metrics)."""
        values: dict[str, jax.Array] = {}
        kept: list[tuple[Stage, dict[str, jax.Array], Any, Any]] = []
        new: Tree = {}
        loss: Any = None
        for name, stage in self._stages.items():
            others = ({name: stats[name]} if name in stats else {}, batch)
            x = {source: values[source] for source in stage.coming}
            y, (own, metrics), saved = stage.passes.forward(self._inputs(stage, params, x, [*x.values()]), others)
            kept.append((stage, x, others, saved))
            new |= own
            loss = y
            if not stage.is_last:
                values |= y
        grads: Tree = {}
        cotangents: dict[str, jax.Array] = {}
        reduced: list[jax.Array] = []  # of the block before: XLA would put off all all-reduces and do them as one
        while kept:
            stage, x, others, saved = kept.pop()
            cotangent: Any = jnp.ones_like(loss)
            if not stage.is_last:
                cotangent = {name: cotangents.pop(name) for name in stage.going}
            inputs = self._inputs(stage, params, x, [*jax.tree.leaves(cotangent), *reduced])
            by_params, *by_x = stage.passes.backward(inputs, others, saved, cotangent)
            for block, tree in by_params.items():
                whole = self._layout.store_block(block, tree)
                shares = self._reducer.shares_of_sum(whole[SHARDED])
                grads[block] = {SHARDED: shares, WHOLE: whole[WHOLE]}
                reduced = list(shares.values())
            for name, own in (by_x[0] if by_x else {}).items():
                cotangents[name] = cotangents[name] + own if name in cotangents else own
        return grads, new, metrics

    def _inputs(
        self, stage: Stage, params: Tree, x: dict[str, jax.Array], after: Sequence[jax.Array]
    ) -> tuple[Any, ...]:
        """What a stage is differentiated by; its parameters are gathered when all of `after` are there."""
        return stage.inputs({"params": self._gathered(stage.names, params, after)}, x)

    def _gathered(self, names: Sequence[str], params: Tree, after: Sequence[jax.Array]) -> Tree:
        """The parameters of these blocks, whole."""

        def whole_vector(share: jax.Array) -> jax.Array:
            for other in after:
                share = once_there(share, other)
            return jax.lax.all_gather(share, DATA, tiled=True)

        return {name: self._layout.restore_block(name, params[name], whole_vector) for name in names if name in params}

    def _replica_evaluate(self, arrays: Tree, batch: Batch) -> Metrics:
        values: dict[str, jax.Array] = {}
        stored = self.task.evaluated(arrays)
        for name, stage in self._stages.items():
            params = self._gathered((name,), stored, [values[source] for source in stage.coming])
            values |= self.task.apply_blocks(params, arrays["model_state"], batch, values, train=False, names=(name,))[
                0
            ]
        return self._reducer.metrics(self.task.evaluation_score(values[self.task.model.head], batch))


class ShardedOptimizer(ShardedState):
    """`shard_params=zero1`."""

    stored = ("opt_state",)

    def _replica_step(
        self, arrays: Tree, batch: Batch, learning_rate: jax.Array, stop: jax.Array
    ) -> tuple[Tree, Metrics]:
        grads, stats, metrics = self.task.gradient(arrays["params"], arrays["model_state"], batch, self._batch_axis)
        stored = self._layout.store(grads)
        small = {block: tree[WHOLE] for block, tree in stored.items()}
        small, stats, metrics = self._reducer.step(small, stats, metrics, stop)
        shares = self._reducer.shares_of_sum({block: tree[SHARDED] for block, tree in stored.items()})
        grads = {b: {SHARDED: self._reducer.mean(shares[b]), WHOLE: small[b]} for b in stored}
        own = arrays | {"params": self._shares(arrays["params"])}
        new = self.task.updated(own, grads, stats, learning_rate, self._squares(grads))
        new["params"] = self._gathered(new["params"])
        return unless_not_finite(self.task, new, arrays, grads, metrics, self._reducer.all_true)

    def _replica_evaluate(self, arrays: Tree, batch: Batch) -> Metrics:
        params = arrays["params"]
        if self.task.optimizer.ema_decay:
            params = self._gathered(self.task.evaluated(arrays | {"params": self._shares(params)}))
        return self._reducer.metrics(self.task.evaluate(params, arrays["model_state"], batch))

    def _shares(self, tree: Tree) -> Tree:
        stored = self._layout.store(tree)
        return {
            block: {SHARDED: jax.tree.map(self._reducer.own_share, own[SHARDED]), WHOLE: own[WHOLE]}
            for block, own in stored.items()
        }

    def _gathered(self, stored: Tree) -> Tree:
        """The whole parameters from everybody's shares, in one collective."""
        shares, structure = jax.tree.flatten({block: own[SHARDED] for block, own in stored.items()})
        if shares:
            every = jax.lax.all_gather(jnp.concatenate(shares), DATA)  # [devices, all shares]
            ends = np.cumsum([share.size for share in shares])
            shares = [part.reshape(-1) for part in jnp.split(every, ends[:-1], axis=1)]
        vectors = jax.tree.unflatten(structure, shares)
        return {
            block: self._layout.restore_block(block, {SHARDED: vectors[block], WHOLE: own[WHOLE]})
            for block, own in stored.items()
        }


def _flat(portion: tuple[int, int], array: Any) -> Any:
    """Elements in row-major order."""
    return array.reshape(-1)[slice(*portion)]
