"""Whether a run directory can take the checkpoints of a run: looked at before training, nothing is written."""

from __future__ import annotations

import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from jaxdist.errors import UsageError

MB = 1e6


def checkpoint_bytes(arrays: Any) -> int:
    """Of a canonical state's arrays, or their shapes."""
    leaves = jax.tree.leaves(arrays)
    return sum(int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in leaves)


def check(workdir: str, bytes_each: int, keep: int) -> str:
    """What there is, in words.

    Args:
      bytes_each: of one checkpoint.
      keep: how many of them are kept; one more is there while it is written.

    Raises:
      UsageError: the directory cannot be written, or not even one checkpoint more fits.
    """
    folder = pathlib.Path(workdir).resolve()
    try:
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UsageError(f"--workdir={workdir} cannot be written: {existing} is not a directory that takes files.")
        total, _, free = shutil.disk_usage(existing)
    except OSError as e:
        raise UsageError(f"--workdir={workdir} cannot be written: {e.strerror or e}.") from e
    if not total:
        return f"this file system does not say how much is free; a checkpoint has {bytes_each / MB:.1f} MB"
    numbers = f"{free / MB:.0f} MB are free at {existing}, and a checkpoint has {bytes_each / MB:.1f} MB"
    if free < bytes_each:
        raise UsageError(f"{numbers}: not one fits. Free some, or choose another --workdir.")
    kept = len(list(folder.glob("checkpoints/*")))
    if free < (keep + 1 - min(kept, keep)) * bytes_each:
        numbers += f", of which checkpoint.keep={keep} and one more will not fit"
    return numbers
