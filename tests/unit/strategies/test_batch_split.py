"""A global batch that cannot be shared out in equal parts is refused, with the arithmetic."""

from __future__ import annotations

import jax
import pytest
from helpers.reference import make_task

from jaxdist.cost import memory
from jaxdist.errors import UsageError
from jaxdist.strategies.batch_split import check_divisible, check_microbatches


@pytest.mark.parametrize(
    ("size", "count", "words"),
    [
        (
            128,
            5,
            r"global_batch_size=128 is not divisible by the 5 things \(128 = 5 x 25 \+ 3\); nearest: 125 or 130\.$",
        ),
        (3, 5, r"\(3 = 5 x 0 \+ 3\); nearest: 5\.$"),
    ],
)
def test_parts_that_are_unequal(size, count, words):
    with pytest.raises(UsageError, match=words):
        check_divisible(size, count, f"the {count} things")
    check_divisible(count * 7, count, "equal parts")


def test_microbatches_that_are_unequal():
    settings = {"accumulate": 4, "memory_limit": 0.0}
    with pytest.raises(UsageError, match=r"24 is not divisible by the 16 parts.*accumulate=4 on 4 device.*16 or 32"):
        check_microbatches(settings, make_task("dense"), 24, 4)
    check_microbatches(settings, make_task("dense"), 32, 4)
    check_microbatches(settings | {"accumulate": 1}, make_task("dense"), 25, 4)  # not looked at here


def test_microbatches_that_are_too_large(monkeypatch):
    """The memory of one part on one device, of all devices that are this process's."""
    asked = []

    def of_whole_model(task, examples, copies):
        asked.append((examples, copies))
        return memory.Need(400, 300, 200, 100, 0)

    monkeypatch.setattr(memory, "of_whole_model", of_whole_model)
    settings = {"accumulate": 2, "memory_limit": 999e-9}
    with pytest.raises(UsageError, match=r"^One process needs .*; smaller batches or strategy\.accumulate need less"):
        check_microbatches(settings, make_task("dense"), 48, 8)
    check_microbatches(settings | {"memory_limit": 1000e-9}, make_task("dense"), 48, 1)
    assert asked == [(3, len(jax.local_devices())), (24, 1)]
