"""How the programs of the tests are compiled, in this process and in those that it starts.

Quickly: with few optimizations, and by XLA's older emitters of fusions for CPUs, which take a third to a half of the
time (their programs are slower, and no less exact). JAXDIST_TEST_OPTIMIZED=1: as a user's programs are. XLA reads its
flags once a process.
"""

from __future__ import annotations

import os

OPTIMIZED = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}
QUICKLY = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false"}


def choose() -> None:
    """Before JAX is imported."""
    os.environ.update(OPTIMIZED if os.environ.get("JAXDIST_TEST_OPTIMIZED", "0") != "0" else QUICKLY)
