"""Models as graphs of named Flax blocks, most of them chains. Importing this room imports no flax: its names are loaded
when asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jaxdist.models.families import FAMILIES as FAMILIES
from jaxdist.models.families import build as build
from jaxdist.models.families import ignored as ignored

if TYPE_CHECKING:
    from jaxdist.models.context import Context as Context
    from jaxdist.models.graph import COLLECTIONS as COLLECTIONS
    from jaxdist.models.graph import PARAMS as PARAMS
    from jaxdist.models.graph import STATS as STATS
    from jaxdist.models.graph import Graph as Graph
    from jaxdist.models.layers import BatchNorm as BatchNorm
    from jaxdist.models.layers import Dropout as Dropout

_WHERE = {
    "COLLECTIONS": "graph",
    "PARAMS": "graph",
    "STATS": "graph",
    "Graph": "graph",
    "Context": "context",
    "BatchNorm": "layers",
    "Dropout": "layers",
}


def __getattr__(name: str) -> Any:
    """PEP 562: a public name, from the module that it is in."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
