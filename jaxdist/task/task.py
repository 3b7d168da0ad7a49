"""What is trained, as pure functions over plain dicts: model, loss, metrics and the canonical state.

The canonical state is the one layout that initialisation, checkpoints, strategies and tests share:

    params       {block: {layer: {name: array}}}
    model_state  {block: {layer: {mean, var}}}             BatchNorm's running statistics
    opt_state    {slot: <tree like params>, ...}           and 'count' where the optimizer counts its updates
    updates, examples_seen, pending                        Python integers, and ranges of the stream (`Position`)

Its leaves are arrays or `Leaf`s, which make their array when asked, so that no process needs more than its share of a
model plus one block; of the initial state, no more than the parts of leaves that it asks for (`TrainState.cut`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdist.models import PARAMS, STATS, Chain, Context, Select
from jaxdist.optim import Optimizer
from jaxdist.position import Position, Ranges

Tree = dict[str, Any]
Batch = dict[str, Any]  # image [b, ...], label int32 [b], position uint32 [b]; in evaluation also mask float [b]
Metrics = dict[str, Any]  # sums over examples: loss_sum, correct, count
_COLLECTION = {"params": PARAMS, "model_state": STATS}  # where Flax keeps the trees that a model has


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An array that is made, read or fetched only when `np.asarray` asks for it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        made = np.array(self.make(), dtype=dtype or self.dtype, copy=True if copy else None)
        if made.shape != self.shape:
            raise ValueError(f"A leaf of shape {self.shape} was made with shape {made.shape}.")
        return made

    @classmethod
    def part(cls, leaf: Any, select: Select) -> Leaf:
        """A part of an array or leaf, which is whole for a moment when the part is asked for and not empty."""
        shape, dtype = part_shape(leaf, select), np.dtype(leaf.dtype)
        return cls(shape, dtype, lambda: select(np.asarray(leaf)) if 0 not in shape else np.empty(shape, dtype))


def part_shape(leaf: Any, select: Select) -> tuple[int, ...]:
    """Of the part that `select` takes from such an array; takes nothing."""
    return tuple(jax.eval_shape(select, jax.ShapeDtypeStruct(leaf.shape, np.uint8)).shape)


@dataclasses.dataclass(frozen=True)
class TrainState:
    """The canonical state (see the module's docstring).

    Attributes:
      cut_by: what `cut` is done by, where better can be done than to take parts of whole leaves. A state with other
        leaves must not keep it: make such states by `of`.
    """

    params: Tree
    model_state: Tree
    opt_state: Tree
    updates: int = 0
    examples_seen: int = 0
    pending: Ranges = ()
    cut_by: Callable[[Mapping[str, Select]], TrainState] | None = dataclasses.field(default=None, compare=False)

    def cut(self, parts: Mapping[str, Select]) -> TrainState:
        """The same with parts of leaves in place of those that `parts` names (as in 'params/stem/conv/kernel')."""
        if self.cut_by is not None:
            return self.cut_by(parts)
        leaves = flatten(self.arrays())
        leaves |= {path: Leaf.part(leaves[path], select) for path, select in parts.items()}
        return TrainState.of(arrays_of(leaves), self.updates, self.position)

    def in_memory(self) -> TrainState:
        """The same with every leaf an array of this process."""
        return TrainState.of(jax.tree.map(np.asarray, self.arrays()), self.updates, self.position)

    @property
    def position(self) -> Position:
        """Where in the stream of examples the run stands."""
        return Position(self.examples_seen, self.pending)

    def arrays(self) -> Tree:
        """The three trees in one dict: what is placed on devices and written to disk."""
        return {"params": self.params, "model_state": self.model_state, "opt_state": self.opt_state}

    @classmethod
    def of(cls, arrays: Tree, updates: int, position: Position) -> TrainState:
        trees = arrays["params"], arrays["model_state"], arrays.get("opt_state", {})
        return cls(*trees, updates, position.seen, position.pending)


class _InitialModel:
    """Makes a block of one of the model's trees when one of its leaves is asked for."""

    def __init__(self, chain: Chain, seed: int, parts: Mapping[str, Select]) -> None:
        self._chain, self._seed, self._parts = chain, seed, parts
        self._made: dict[str, np.ndarray] = {}  # of the last block, not yet handed out

    def leaf(self, path: str) -> np.ndarray:
        if path not in self._made:
            tree, block, _ = path.split("/", 2)
            above = f"{tree}/{block}/"
            own = {path.removeprefix(above): cut for path, cut in self._parts.items() if path.startswith(above)}
            self._made = {}  # before the next is made
            made = self._chain.init_block(block, self._seed, (_COLLECTION[tree],), own)
            self._made = {above + name: leaf for trees in made for name, leaf in flatten(trees).items()}
        return self._made.pop(path)  # a large one must not stay until another block is asked for


@dataclasses.dataclass(frozen=True)
class Task:
    """A classifier to train.

    Attributes:
      chain: the model.
      optimizer: the update rule.
      learning_rate: examples_seen -> learning rate.
      seed: of initialisation and dropout.
      dtype: of parameters and statistics.
      compute_dtype: of activations; None: `dtype`. Statistics, loss and the update stay `dtype` or wider.
      microbatches: `gradient` takes a batch in so many equal parts, one after the other: less memory, and activations
        that stay in cache. BatchNorm sees the parts as replicas do theirs; statistics are the mean of the parts'.
    """

    chain: Chain
    optimizer: Optimizer
    learning_rate: Callable[[int], float]
    seed: int = 0
    dtype: Any = np.float32
    compute_dtype: Any = None
    microbatches: int = 1

    def init(self, parts: Mapping[str, Select] | None = None) -> TrainState:
        """The initial canonical state. Its leaves are made block by block, when asked for: each once, in one thread, or
        their block is made again.

        Of those that `parts` names (as in 'params/stem/conv/kernel'), the part alone is ever made.

        Raises:
          KeyError: there is no such leaf.
        """
        parts = parts or {}
        model = _InitialModel(self.chain, self.seed, parts)
        leaves: dict[str, Leaf] = {}
        for path, like in flatten(self._shapes()).items():
            shape = part_shape(like, parts[path]) if path in parts else tuple(like.shape)
            make = functools.partial(model.leaf, path)
            if path.startswith("opt_state/"):
                make = functools.partial(self.optimizer.init_leaf, path.split("/")[1], shape, like.dtype)
            leaves[path] = Leaf(shape, np.dtype(like.dtype), make)
        if unknown := sorted(parts.keys() - leaves.keys()):
            raise KeyError(unknown[0])
        initial = TrainState.of(arrays_of(leaves), 0, Position(0, ()))
        return initial if parts else dataclasses.replace(initial, cut_by=self.init)

    def _shapes(self) -> Tree:
        """Of the canonical state's arrays, as `jax.ShapeDtypeStruct`s."""
        params, stats = ({name: both[i] for name, both in self.chain.shapes.items()} for i in (0, 1))
        return {"params": self._typed(params), "model_state": self._typed(stats), "opt_state": self.slot_shapes()}

    def slot_shapes(self) -> Tree:
        """Of the optimizer's state, as `jax.ShapeDtypeStruct`s."""
        params = {name: params for name, (params, _) in self.chain.shapes.items() if params}
        return self.optimizer.shapes(self._typed(params))

    def _typed(self, shapes: Tree) -> Tree:
        return jax.tree.map(lambda like: jax.ShapeDtypeStruct(like.shape, self.dtype), shapes)

    def apply(
        self,
        params: Tree,
        stats: Tree,
        batch: Batch,
        *,
        train: bool,
        batch_axis: str | None = None,
        names: Sequence[str] | None = None,
        x: jax.Array | None = None,
    ) -> tuple[jax.Array, Tree]:
        """Logits [b, classes] and new statistics.

        Of the blocks called `names` alone, where they are given, with their input `x` (None: the images).
        """
        if x is None:
            x = batch["image"].astype(self.compute_dtype or self.dtype)
        context = Context(train=train, batch_axis=batch_axis, positions=batch.get("position"))
        return self.chain.apply(params, stats, x, context, seed=self.seed, names=names)

    def loss(
        self, params: Tree, stats: Tree, batch: Batch, batch_axis: str | None = None
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
        """Mean cross-entropy over the batch, with (new statistics, metrics)."""
        logits, stats = self.apply(params, stats, batch, train=True, batch_axis=batch_axis)
        losses, metrics = score(logits, batch["label"], None)
        return jnp.mean(losses), (stats, metrics)

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

    def evaluate(self, params: Tree, stats: Tree, batch: Batch) -> Metrics:
        """Metrics of one batch with the running statistics; examples whose mask is 0 do not count."""
        logits, _ = self.apply(params, stats, batch, train=False)
        return score(logits, batch["label"], batch["mask"])[1]


def score(logits: jax.Array, label: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, Metrics]:
    """(cross-entropy of each example, metrics); examples whose mask is 0 do not count in the metrics."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    weight = jnp.ones_like(losses) if mask is None else mask.astype(losses.dtype)
    hits = (jnp.argmax(logits, -1) == label).astype(losses.dtype)
    return losses, {
        "loss_sum": jnp.sum(losses * weight),
        "correct": jnp.sum(hits * weight),
        "count": jnp.sum(weight),
    }


def flatten(tree: Any, prefix: Sequence[str] = ()) -> dict[str, Any]:
    """{'params/stem/conv/kernel': leaf, ...} of nested dicts, in sorted order."""
    if not isinstance(tree, dict):
        return {"/".join(prefix): tree}
    found: dict[str, Any] = {}
    for key in sorted(tree):
        found |= flatten(tree[key], (*prefix, key))
    return found


def unflatten(flat: dict[str, Any]) -> Tree:
    """The inverse of `flatten`."""
    tree: Tree = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def arrays_of(leaves: Mapping[str, Any]) -> Tree:
    """`TrainState.arrays` from what `flatten` makes of them; it drops what is empty."""
    return {"params": {}, "model_state": {}, "opt_state": {}} | unflatten(dict(leaves))
