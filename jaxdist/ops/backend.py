"""Which back end the operations of this process use: XLA alone, or native kernels where they are quicker.

Chosen once, before anything is traced (`use`); until then XLA.
"""

from __future__ import annotations

import collections
import logging

import jax
import jax.numpy as jnp

from jaxdist.errors import UsageError
from jaxdist.ops.platforms import trace_for

XLA, NATIVE = "xla", "native"

_instructions = ""  # of the native kernels in use; '' for XLA
_traced: collections.Counter[str] = collections.Counter()


def use(backend: str) -> str:
    """From now on operations of this process are traced for that back end, as `ops.backend` names them, and for JAX's
    default platform; 'auto' takes XLA where there are no native kernels, and says so once. May block, to build them.
    Begins JAX's back ends: call it after `jax.distributed` has met.

    Returns:
      'xla', or 'native (AVX2)'.

    Raises:
      UsageError: of 'native', which is not there.
    """
    global _instructions
    before, _instructions = _instructions, ""
    if backend != XLA and _on_cpus(backend):
        from jaxdist.ops.native.library import NotThere, load

        try:
            _instructions = load()
        except NotThere as e:
            remedy = f"python -m jaxdist.ops.native.build builds them, once for each host. The reason: {e}"
            if backend == NATIVE:
                raise UsageError(f"ops.backend=native: this process has no native kernels. {remedy}.") from e
            logging.warning("Convolutions take up to twice the time: there are no native kernels. %s.", remedy)
    if trace_for(jax.default_backend()) or before != _instructions:
        jax.clear_caches()  # what was traced has the other one's operations
    return in_use()


def in_use() -> str:
    """'xla', or 'native' with its instructions."""
    return f"native ({_instructions})" if _instructions else XLA


def native_takes(*arrays: jax.Array, features: int = 1) -> bool:
    """Whether the native kernels take an operation on these arrays, of at least so many features; counts it."""
    if not _instructions:
        return False
    takes = (
        arrays[0].shape[-1] >= features
        and all(a.dtype == jnp.float32 for a in arrays)
        and all(0 not in a.shape for a in arrays)
    )
    _traced["native" if takes else "xla"] += 1
    return takes


def traced() -> dict[str, int]:
    """Operations of this process so far that have native kernels: how many were traced for them, and for XLA."""
    return {"native": _traced["native"], "xla": _traced["xla"]}


def _on_cpus(backend: str) -> bool:
    """Whether this process computes on CPUs; other devices have XLA's operations alone."""
    if jax.default_backend() == "cpu":
        return True
    if backend == NATIVE:
        raise UsageError(
            f"ops.backend=native: the kernels are for CPUs, and this process computes on {jax.default_backend()}."
        )
    return False
