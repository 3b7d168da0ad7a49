"""What a model's layers have to compute, whichever way they are computed.

Kernels that compute more than that, to be quick, are not given credit for it.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxdist.models import Context, Graph
from jaxdist.ops.platforms import for_all_platforms
from jaxdist.profiling.naming import layer_of, tokens_of

_COUNTED = ("conv_general_dilated", "dot_general")


def forward_flops(chain: Graph) -> dict[str, float]:
    """{layer: operations of its convolutions and matrix products for one example}, two for each multiplication.

    From the traced model, with the plain formulation of each operation. Computes nothing.
    """
    found: dict[str, float] = {}
    blocks = frozenset(chain.names)

    def count(jaxpr: Any, outer: str) -> None:
        for equation in jaxpr.eqns:
            path = "/".join(part for part in (outer, str(equation.source_info.name_stack)) if part)
            if equation.primitive.name in _COUNTED:
                layer = layer_of([*tokens_of(path), ""], blocks)
                found[layer] = found.get(layer, 0.0) + _flops(equation)
            elif equation.primitive.name == "cond":  # one branch a platform: the last is the plain one
                count(equation.params["branches"][-1].jaxpr, path)
            else:
                for value in equation.params.values():
                    inner = getattr(value, "jaxpr", value)
                    if hasattr(inner, "eqns"):
                        count(inner, path)

    shapes = chain.shapes.items()
    params, stats = ({name: pair[k] for name, pair in shapes if pair[k]} for k in (0, 1))
    values = chain.examples(jnp.float32)
    context = Context(train=False)
    with for_all_platforms():
        count(
            jax.make_jaxpr(lambda p, s, x: chain.apply(p, s, x, context)[0][chain.head])(params, stats, values).jaxpr,
            "",
        )
    return found


def _flops(equation: Any) -> float:
    left, right = (variable.aval.shape for variable in equation.invars[:2])
    size = math.prod(equation.outvars[0].aval.shape)
    if equation.primitive.name == "dot_general":
        contracted = equation.params["dimension_numbers"][0][0]
        return 2.0 * size * math.prod(left[d] for d in contracted)
    outputs = right[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * size * math.prod(right) / outputs
