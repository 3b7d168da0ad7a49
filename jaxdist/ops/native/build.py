"""Builds the native kernels: `python -m jaxdist.ops.native.build`. A run does so by itself at its first start."""

from __future__ import annotations

import logging
import sys

from jaxdist.cxx_library import CannotBuild
from jaxdist.ops.native.compiler import build


def main() -> int:
    """Prints where the library is; exits with 1 where it cannot be built."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        print(build())
    except CannotBuild as e:
        print(f"The native kernels cannot be built: {e}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
