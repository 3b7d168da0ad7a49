"""Model families: each a function that returns a chain of named Flax blocks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdist.dotted import asked_for, function_of
from jaxdist.models import cnn, densenet, resnet
from jaxdist.models.chain import PARAMS as PARAMS
from jaxdist.models.chain import STATS as STATS
from jaxdist.models.chain import Chain as Chain
from jaxdist.models.context import Context as Context
from jaxdist.models.layers import BatchNorm as BatchNorm
from jaxdist.models.layers import Dropout as Dropout

FAMILIES: dict[str, Callable[..., Sequence[tuple[str, Any]]]] = {
    "cnn": cnn.build,
    "resnet": resnet.build,
    "densenet": densenet.build,
}


def build(
    name: str,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Chain:
    """Builds a model.

    Args:
      name: a family of `FAMILIES`, or 'package.module:function' for a function `f(num_classes, **options)` of the
        user's that returns [(block name, Flax module called as `module(x, context)`), ...]; its module may have
        a function `partition_rules(**options)`, which gives the rules that `Chain` takes.
      input_shape: shape of one example.
      settings: values a family may ask for by name (depth, growth_rate, ...); those it does not know are left out.
      options: keyword arguments passed on as they are, to families too.

    Raises:
      ValueError: unknown name, or the family refuses the values.
    """
    if ":" in name:
        family = function_of(name, "model.name")
        arguments = dict(options)
    else:
        family = FAMILIES[name]
        arguments = asked_for(family, settings) | dict(options)
    try:
        blocks = family(num_classes, **arguments)
    except TypeError as e:
        raise ValueError(f"model.name={name!r} does not accept these options: {e}.") from e
    where = sys.modules[name.partition(":")[0] if ":" in name else family.__module__]
    rules = getattr(where, "partition_rules", lambda **_: ())
    return Chain(tuple(blocks), tuple(input_shape), tuple(rules(**arguments)))
