"""One model, every way of distributing its training, on plain CPU clusters and GPU hosts."""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["Callback", "__version__", "train_and_evaluate"]

_WHERE = {"Callback": "jaxdist.train.callbacks", "train_and_evaluate": "jaxdist.roles.worker"}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is asked for: experiment files import this package and must not load JAX."""
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'jaxdist' has no attribute {name!r}")
