"""The model families there are: a name and a 'module:function' each. Imports no flax until a model is built."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxdist.dotted import asked_for, function_of

if TYPE_CHECKING:
    from jaxdist.models.graph import Graph

FAMILIES: dict[str, str] = {
    "cnn": "jaxdist.models.cnn:build",
    "resnet": "jaxdist.models.resnet:build",
    "cnn1d": "jaxdist.models.cnn1d:build",
    "densenet": "jaxdist.models.densenet:build",
    "branches": "jaxdist.models.branches:build",
    "transformer": "jaxdist.models.transformer:build",
}


def ignored(name: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Of `settings` those that are not the default, and mean nothing to the family or the function of that name."""
    where = FAMILIES.get(name, name)
    known = asked_for(function_of(where, "model.name"), settings) if name in FAMILIES else {}
    return sorted(key for key, default in defaults.items() if settings[key] != default and key not in known)


def build(
    name: str,
    *,
    inputs: Mapping[str, Any] | tuple[int, ...],
    num_outputs: int,
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Graph:
    """Builds a model.

    Args:
      name: a family of `FAMILIES`, or 'package.module:function' for a function `f(num_outputs, **options)` of the
        user's that returns [(block name, Flax module called as `module(x, context)`), ...], each given what the one
        before gives, or with (block name, module, sources) what those give; its module may have
        a function `partition_rules(**options)`, which gives the rules that `Graph` takes.
      inputs: {name: what one example has there (anything with a shape and a dtype)}, or the shape of one image.
      num_outputs: of the last block, for an example: the number of classes, say.
      settings: values a family may ask for by name (depth, growth_rate, ...); those it does not know are left out.
      options: keyword arguments passed on as they are, to families too.

    Raises:
      ValueError: unknown name, or the family refuses the values.
    """
    from jaxdist.models import contract
    from jaxdist.models.graph import IMAGE, Graph

    where = FAMILIES.get(name, name)
    family = function_of(where, "model.name")
    names = tuple(inputs) if isinstance(inputs, Mapping) else (IMAGE,)
    given = {**settings, "inputs": names}  # a family may ask for them
    arguments = (asked_for(family, given) if name in FAMILIES else {}) | dict(options)
    try:
        blocks = family(num_outputs, **arguments)
    except TypeError as e:
        raise ValueError(f"model.name={name!r} does not accept these options: {e}.") from e
    try:
        contract.check_blocks(blocks)
        blocks, sources = contract.in_order(blocks, names)
    except ValueError as e:
        raise ValueError(f"what model.name={name!r} returns is not a model: {e}.") from e
    rules = getattr(sys.modules[where.partition(":")[0]], "partition_rules", lambda **_: ())
    return Graph(blocks, inputs, tuple(rules(**arguments)), sources)
