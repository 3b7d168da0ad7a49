"""A model as a graph of named blocks that can be cut anywhere; most are chains.

    chain      input -> stem -> dense1_layer1 -> ... -> transition1 -> ... -> head -> outputs

    branches   optical -> stem_o -> deep_o --+
                                             +--> merge -> head -> outputs
               radar   -> stem_r -> deep_r --+

Parameters and BatchNorm statistics are plain nested dicts keyed by block name, so that a pipeline stage is a slice of
the blocks and the matching sub-dicts, with no name changed. A block without parameters (or statistics) has no entry.
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Collection, Mapping
from functools import cached_property, lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdist import ops
from jaxdist.models.context import Context
from jaxdist.ops.threefry import THREEFRY
from jaxdist.state import Select, Tree

IMAGE = "image"  # an input without a name
COLLECTIONS = PARAMS, STATS = "params", "batch_stats"


def _crc(text: str) -> np.uint32:
    return np.uint32(zlib.crc32(text.encode()))


Sources = tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Graph:
    """Named blocks, each a Flax module called as `block(x, context)`.

    A block with one source is given what that gives; one with several a dict of it by name. A source is another block,
    or an input of the examples.

    Attributes:
      blocks: ((name, module), ...); names are unique, and each comes after its sources.
      inputs: {name: what one example has there (anything with a shape and a dtype), without the batch dimension}, or
        the shape of one image. Integers stay integers.
      partition_rules: which dims of its arrays may be divided among devices, as 'PATTERN = PARTITION'
        (`jaxdist.parallel.partition_rules`); patterns are searched for in block/layer/name.
      sources: of each block; (): a chain, whose first block has all inputs.
    """

    blocks: tuple[tuple[str, nn.Module], ...]
    inputs: Any = dataclasses.field(hash=False)
    partition_rules: tuple[str, ...] = ()
    sources: Sources = ()

    def __post_init__(self) -> None:
        given = self.inputs
        if not isinstance(given, Mapping):
            given = {IMAGE: jax.ShapeDtypeStruct(tuple(given), jnp.float32)}
        structs = {name: jax.ShapeDtypeStruct(tuple(like.shape), like.dtype) for name, like in given.items()}
        object.__setattr__(self, "inputs", structs)
        names = self.names
        doubles = sorted({n for n in names if names.count(n) > 1})
        if doubles or not names:
            raise ValueError(
                f"A model needs blocks of different names; got {len(names)} block(s), repeated: {doubles}."
            )

        if not self.sources:
            chain = (tuple(structs), *((name,) for name in names[:-1]))
            object.__setattr__(self, "sources", chain)

    @cached_property
    def sources_of(self) -> dict[str, tuple[str, ...]]:
        """Block -> what it is given: names of blocks and inputs."""
        return dict(zip(self.names, self.sources, strict=True))

    @cached_property
    def users_of(self) -> dict[str, tuple[str, ...]]:
        """Block -> the blocks that are given its output; of the head none."""
        return {name: tuple(other for other in self.names if name in self.sources_of[other]) for name in self.names}

    @property
    def head(self) -> str:
        """The block whose output is the model's."""
        return self.names[-1]

    @property
    def is_chain(self) -> bool:
        """Whether each block is given what the one before it gives, and of other blocks nothing."""
        return all(self.blocks_before(b) == (a,) for a, b in itertools.pairwise(self.names))

    def blocks_before(self, name: str) -> tuple[str, ...]:
        """The sources of a block that are blocks."""
        return tuple(source for source in self.sources_of[name] if source not in self.inputs)

    def between(self, names: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Of some of the blocks: (the others' whose outputs they are given; those of theirs whose outputs others are
        given)."""
        coming = {source for name in names for source in self.sources_of[name] if source not in names}
        going = {name for name in names if any(user not in names for user in self.users_of[name])}
        return tuple(n for n in self.names if n in coming), tuple(n for n in self.names if n in going)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.blocks)

    @cached_property
    def shapes(self) -> dict[str, tuple[Tree, Tree]]:
        """Block name -> (parameter shapes, statistics shapes), as `jax.ShapeDtypeStruct` leaves. Computes nothing."""
        return {name: _split(variables) for name, (variables, _) in self._traced.items()}

    @cached_property
    def activation_shapes(self) -> dict[str, tuple[int, ...]]:
        """Block name -> shape of its output for one example."""
        return {name: shape for name, (_, shape) in self._traced.items()}

    @cached_property
    def _traced(self) -> dict[str, tuple[Mapping[str, Any], tuple[int, ...]]]:
        found = {}
        values = self.examples(jnp.float32)
        for name, module in self.blocks:
            x, key = self.gathered(name, values), jax.ShapeDtypeStruct((2,), jnp.uint32)
            y, variables = jax.eval_shape(partial(init_with_output, module), key, x)
            if 0 in y.shape:
                raise ValueError(f"block {name!r} would have outputs of {y.shape[1:]}: the examples are too small")
            found[name] = (variables, tuple(y.shape[1:]))
            values[name] = y
        return found

    def init_block(
        self,
        name: str,
        seed: int,
        collections: Collection[str] = COLLECTIONS,
        parts: Mapping[str, Select] | None = None,
    ) -> tuple[Tree, Tree]:
        """(parameters, statistics) of one block as NumPy arrays; a function of (seed, block, path in the block) alone.

        Only `collections` are made. Of the leaves that `parts` names ('layer/name'), only the part is made, as long as
        the initialiser works element by element, as all of Flax's do but the orthogonal ones.

        Flax derives each leaf's key from the block's key and the leaf's path. The forward pass that Flax's `init`
        traces is dead code under `jit` and not computed.
        """
        program = self.init_program(name, collections, parts or {})
        return _split(jax.tree.map(np.asarray, program(*self._init_inputs(name, seed))))

    def init_program(self, name: str, collections: Collection[str], parts: Mapping[str, Select]) -> jax.stages.Compiled:
        """The program of `init_block`: one for all blocks of equal modules and inputs, where `parts` names nothing."""
        module = dict(self.blocks)[name]
        words, x = self._init_inputs(name, 0)
        if parts or not isinstance(x, np.ndarray) or x.dtype != np.float32 or not _hashable(module):
            return _compile_init(module, collections, parts, words, x)
        return _init_of_equal_blocks(module, tuple(collections), x.shape, jax.dtypes.canonicalize_dtype(np.float64))

    def _init_inputs(self, name: str, seed: int) -> tuple[np.ndarray, Any]:
        """(the block's key [2], an example of its inputs [1, ...])."""
        words = np.array([_crc(name), np.uint32(seed % 2**32)], np.uint32)
        values: dict[str, Any] = self.examples(np.float32)
        for source in self.sources_of[name]:
            if source not in values:
                values[source] = jax.ShapeDtypeStruct((1, *self.activation_shapes[source]), np.float32)
        zeros = lambda like: np.zeros(like.shape, like.dtype)  # noqa: E731
        return words, jax.tree.map(zeros, self.gathered(name, values))

    def examples(self, dtype: Any, batch: int = 1) -> dict[str, Any]:
        """Each input of a batch, as `jax.ShapeDtypeStruct`s; `dtype`: of floating-point ones."""
        return {
            name: jax.ShapeDtypeStruct((batch, *like.shape), _own_dtype(like.dtype, dtype))
            for name, like in self.inputs.items()
        }

    def given(self, inputs: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
        """The inputs of a batch, floating-point ones in that type."""
        return {name: inputs[name].astype(_own_dtype(like.dtype, dtype)) for name, like in self.inputs.items()}

    def gathered(self, name: str, values: Mapping[str, Any]) -> Any:
        """What a block is called with, from what its sources give."""
        sources = self.sources_of[name]
        return values[sources[0]] if len(sources) == 1 else {source: values[source] for source in sources}

    def apply(
        self,
        params: Tree,
        stats: Tree,
        values: Mapping[str, Any],
        context: Context,
        *,
        seed: int = 0,
        names: Collection[str] | None = None,
    ) -> tuple[dict[str, jax.Array], Tree]:
        """Runs the blocks called `names` (default: all) in order: (their outputs by name, their new statistics).

        `values`: what comes from elsewhere: inputs by name, outputs of other blocks. `context.dropout_key` is set here,
        per block, from `seed`.
        """
        new_stats: Tree = {}
        values, made = dict(values), {}
        for name, module in self.blocks:
            if names is not None and name not in names:
                continue
            x = self.gathered(name, values)
            own = context._replace(dropout_key=ops.mix32(jnp.uint32(seed % 2**32) ^ _crc(name)))
            variables = {PARAMS: params.get(name, {}), STATS: stats.get(name, {})}
            with jax.named_scope(name):  # a profile's rows name the block
                if context.train:
                    x, changed = module.apply(variables, x, own, mutable=[STATS])
                    if changed.get(STATS):
                        new_stats[name] = changed[STATS]
                else:
                    x = module.apply(variables, x, own)
                # What crosses a boundary has several readers, and so has the sum of their gradients on the way back.
                made[name] = values[name] = ops.materialize(x)
        return made, (new_stats if context.train else stats)


def _own_dtype(of_input: Any, dtype: Any) -> Any:
    """`dtype`, but of integers, which stay what they are."""
    return of_input if np.dtype(of_input).kind in "iu" else dtype


def _hashable(module: nn.Module) -> bool:
    try:
        hash(module)
    except TypeError:  # somebody's own, with a list as a field
        return False
    return True


# Enough for blocks of one kind, which follow each other; all of a DenseNet-100's, no two equal, would hold 110 MB.
@lru_cache(maxsize=8)
def _init_of_equal_blocks(
    module: nn.Module, collections: tuple[str, ...], shape: tuple[int, ...], widest: np.dtype
) -> jax.stages.Compiled:
    """A block's name is in its key, not in its program: the 56 blocks of a ResNet-110 are of seven kinds."""
    del widest  # float64 or float32: programs made under the one are not for the other
    return _compile_init(module, collections, {}, np.zeros(2, np.uint32), np.zeros(shape, np.float32))


def _compile_init(
    module: nn.Module, collections: Collection[str], parts: Mapping[str, Select], words: np.ndarray, x: Any
) -> jax.stages.Compiled:
    def init(words: jax.Array, x: Any) -> Mapping[str, Any]:
        made = dict(zip(COLLECTIONS, _split(init_with_output(module, words, x)[1]), strict=True))
        return {name: _select(made[name], parts) for name in collections}

    # Runs once: not worth optimising.
    return jax.jit(init, compiler_options={"xla_backend_optimization_level": 0}).lower(words, x).compile()


def _select(tree: Any, parts: Mapping[str, Select], path: str = "") -> Any:
    if isinstance(tree, Mapping):
        return {key: _select(value, parts, f"{path}/{key}" if path else key) for key, value in tree.items()}
    return parts[path](tree) if path in parts else tree


def init_with_output(module: nn.Module, key: jax.Array, x: Any) -> tuple[jax.Array, Mapping[str, Any]]:
    """(what a block makes of `x` in evaluation, its variables); `key`: uint32 [2]."""
    # Said, not the default: the initial bits must not follow a user's choice of jax_default_prng_impl.
    typed = jax.random.wrap_key_data(key, impl=THREEFRY)
    # Evaluation mode: no dropout key is needed and no statistics of the dummy input are kept.
    return module.init_with_output(typed, x, Context(train=False))


def _split(variables: Mapping[str, Any]) -> tuple[Tree, Tree]:
    unknown = set(variables) - set(COLLECTIONS)
    if unknown:
        raise ValueError(f"A block may keep the collections {PARAMS!r} and {STATS!r}; found {sorted(unknown)}.")
    return dict(variables.get(PARAMS, {})), dict(variables.get(STATS, {}))
