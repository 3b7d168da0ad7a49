"""One model, every way of distributing its training, on plain CPU clusters and GPU hosts."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "train_and_evaluate"]


def __getattr__(name: str) -> Any:
    """Imports `train_and_evaluate` when asked for: experiment files import this package and must not load JAX."""
    if name == "train_and_evaluate":
        from jaxdist.roles.worker import train_and_evaluate

        return train_and_evaluate
    raise AttributeError(f"module 'jaxdist' has no attribute {name!r}")
