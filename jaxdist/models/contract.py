"""What a model must be, whoever made it: blocks that return one array of a batch, parameters that can be kept.

Checked before training, from shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdist.errors import nearest
from jaxdist.models.context import Context
from jaxdist.models.graph import COLLECTIONS, Graph, init_with_output
from jaxdist.state import flatten

_BATCH = 3  # none of the sizes that a shape has by accident is likely to be this one


def check_blocks(blocks: Any) -> None:
    """Raises `ValueError` unless these are pairs of a name and a Flax module, or triples with sources."""
    if not isinstance(blocks, list | tuple):
        raise ValueError(f"it must be a list of (name, Flax module), and is a {type(blocks).__name__}")
    for number, block in enumerate(blocks):
        if not (isinstance(block, tuple) and len(block) in (2, 3)):
            raise ValueError(
                f"entry {number} of its list must be (name, Flax module) or (name, Flax module, sources), and is "
                f"{block!r:.80}"
            )
        name, module = block[:2]
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(f"the name of entry {number} must be a word without '/', and is {name!r:.80}")
        if not isinstance(module, nn.Module):
            raise ValueError(f"block {name!r} must be a Flax module, and is a {type(module).__name__}")
        sources = block[2] if len(block) == 3 else ()
        if not isinstance(sources, str | tuple | list) or not all(isinstance(source, str) for source in sources):
            raise ValueError(f"the sources of block {name!r} must be names, and are {sources!r:.80}")


def in_order(
    blocks: Sequence[Any], inputs: Sequence[str]
) -> tuple[tuple[tuple[str, nn.Module], ...], tuple[tuple[str, ...], ...]]:
    """((name, module), ...) with each block after its sources, the head last; and the sources of each.

    Raises:
      ValueError: a name that is there twice or is an input's, a source that is not there, a cycle, several heads.
    """
    sources: dict[str, tuple[str, ...]] = {}
    before: tuple[str, ...] = tuple(inputs)
    for block in blocks:
        own = block[2] if len(block) == 3 else before
        name, sources_of_it = block[0], (own,) if isinstance(own, str) else tuple(own)
        if name in sources:
            raise ValueError(f"two blocks are called {name!r}")
        sources[name], before = sources_of_it, (name,)
    if not sources:
        raise ValueError("it has no blocks")
    known = [*inputs, *sources]
    for name, own in sources.items():
        if name in inputs:
            raise ValueError(f"{name!r} is a block and an input: give one another name")
        if not own or len(set(own)) < len(own):
            raise ValueError(f"block {name!r} has the sources {own}: it needs at least one, and each once")
        for source in own:
            if source not in known or (source == name and source not in inputs):
                there = nearest(source, known)
                raise ValueError(f"block {name!r} asks for {source!r}, and there is no such block or input{there}")
    order: list[str] = []
    while len(order) < len(sources):
        ready = [n for n, own in sources.items() if n not in order and all(s in order or s in inputs for s in own)]
        if not ready:
            left = [name for name in sources if name not in order]
            raise ValueError(f"its blocks go round in a circle: {', '.join(left)}")
        order.append(ready[0])
    heads = [name for name in sources if not any(name in own for own in sources.values())]
    if len(heads) != 1:
        words = " and ".join(map(repr, heads))
        raise ValueError(f"nothing follows the blocks {words}: one alone, the head, may be the last")
    unused = [name for name in inputs if not any(name in own for own in sources.values())]
    if unused:
        raise ValueError(f"no block uses the input {unused[0]!r} of the examples; use it, or leave it out of the data")
    modules = {block[0]: block[1] for block in blocks}
    ordered = [name for name in order if name != heads[0]] + heads
    return tuple((name, modules[name]) for name in ordered), tuple(sources[name] for name in ordered)


def check(chain: Graph, dtype: Any) -> None:
    """Traces each block as it is evaluated and trained, without computing anything.

    Args:
      dtype: in which parameters and statistics are kept.

    Raises:
      ValueError: which block, what it must do, and what it does.
    """
    values: dict[str, Any] = chain.examples(dtype, _BATCH)
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    for name, module in chain.blocks:
        x, sources = chain.gathered(name, values), chain.sources_of[name]
        there = ", ".join(map(repr, sources)) if len(sources) > 1 else ""
        made, variables = _traced(
            name,
            lambda m=module, x=x: jax.eval_shape(lambda k, x: init_with_output(m, k, x), key, x),
            there,
        )
        _check_variables(name, variables, dtype)
        evaluated = _check_output(name, made)

        def trained(variables: Any, x: Any, module: nn.Module = module) -> Any:
            positions, key = jnp.zeros(_BATCH, jnp.uint32), jnp.zeros((), jnp.uint32)
            context = Context(train=True, dropout_key=key, positions=positions)
            return module.apply(variables, x, context, mutable=list(COLLECTIONS[1:]))[0]

        out = _check_output(name, _traced(name, lambda v=variables, x=x, f=trained: jax.eval_shape(f, v, x)))
        if len(sources) > 1:
            _check_every_source_is_used(name, lambda v=variables, x=x, f=trained: jax.make_jaxpr(f)(v, x), x)
        if out.shape != evaluated.shape:
            raise ValueError(
                f"block {name!r} returns {list(out.shape)} in training and {list(evaluated.shape)} in evaluation; both "
                "must be equal"
            )
        values[name] = out


def check_outputs(chain: Graph, shape: tuple[int, ...], words: str) -> None:
    """Raises `ValueError` unless the last block gives outputs of that shape for each example; `words`: why."""
    last = chain.head
    if chain.activation_shapes[last] != shape:
        raise ValueError(
            f"the last block {last!r} must return {_with_batch(shape)}, {words}, and returns "
            f"{_with_batch(chain.activation_shapes[last])}"
        )


def _with_batch(shape: tuple[int, ...]) -> str:
    return f"[batch{''.join(f', {n}' for n in shape)}]"


def _check_every_source_is_used(name: str, traced: Any, x: Any) -> None:
    """Where there are several, one that goes nowhere is a mistake, of the model or of the data set."""
    jaxpr = traced().jaxpr
    used = {id(v) for equation in jaxpr.eqns for v in equation.invars} | {id(v) for v in jaxpr.outvars}
    count = len(jax.tree.leaves(x))  # the last of the arguments, in the order of their names
    unused = [key for key, v in zip(sorted(x), jaxpr.invars[-count:], strict=True) if id(v) not in used]
    if unused:
        raise ValueError(
            f"block {name!r} does not use {unused[0]!r}, which it is given: use it, or leave it out (an input, of the "
            "data)"
        )


def _traced(name: str, trace: Any, inputs: str = "") -> Any:
    """`inputs`: names of what the block is given, where it is given several."""
    try:
        return trace()
    except Exception as e:  # whatever somebody's module raises
        words = " ".join(str(e).split())
        remedy = ": take Dropout from jaxdist.models, which needs no key" if "dropout" in words.lower() else ""
        if inputs:
            remedy = f", which is given a dict of {inputs}"
        raise ValueError(f"block {name!r} fails{remedy}: {type(e).__name__}: {words[:300]}") from e


def _check_output(name: str, out: Any) -> Any:
    if not hasattr(out, "shape"):
        raise ValueError(f"block {name!r} must return one array, and returns a {type(out).__name__}")
    if not out.shape or out.shape[0] != _BATCH:
        raise ValueError(
            f"block {name!r} must return as many examples as it is given, and returns {list(out.shape)} for a batch of "
            f"{_BATCH}"
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(f"block {name!r} must return floating-point numbers, and returns {out.dtype}")
    return out


def _check_variables(name: str, variables: Any, dtype: Any) -> None:
    kept = (np.dtype(np.float32), np.dtype(dtype))
    for collection in COLLECTIONS:
        for path, leaf in flatten(dict(variables.get(collection, {}))).items():
            where = f"{collection}/{name}/{path}"
            if leaf.dtype not in kept:
                raise ValueError(
                    f"{where} is {leaf.dtype}, and would be trained as {np.dtype(dtype)}: make it float32 (the run's "
                    "type is model.param_dtype, that of activations model.dtype)"
                )
            if not math.prod(leaf.shape):
                raise ValueError(f"{where} has the shape {list(leaf.shape)}, without elements: leave it out")
