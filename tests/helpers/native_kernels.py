"""The native kernels, for tests of them."""

from __future__ import annotations

import pytest

from jaxdist.ops.native.library import NotThere, load


def load_or_skip() -> None:
    """They are loaded; where there are none, the test is skipped and says why."""
    try:
        load()
    except NotThere as e:
        pytest.skip(str(e))
