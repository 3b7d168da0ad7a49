"""`tools/bench_profile.py`: which operation of a trace counts where."""

from __future__ import annotations

import pytest
from bench_profile import _group


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("jit(step)/jvp(Layer)/conv", "forward conv"),
        ("jit(step)/transpose(jvp(Layer))/dot", "backward dot"),
        ("jit(step)/mul", "update"),
    ],
)
def test_operations_are_forward_backward_or_of_the_update(name, group):
    assert _group(name) == group
