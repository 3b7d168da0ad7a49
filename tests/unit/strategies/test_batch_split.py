"""A global batch that cannot be shared out in equal parts is refused, with the arithmetic."""

from __future__ import annotations

import pytest
from helpers.reference import make_task

from jaxdist import strategies
from jaxdist.config import default_config
from jaxdist.errors import UsageError


def test_batch_that_does_not_divide():
    with pytest.raises(UsageError, match=r"128 = 5 x 25 \+ 3.*nearest: 125 or 130"):
        strategies.check(
            default_config().strategy, make_task("chain"), global_batch_size=128, num_processes=5, num_devices=5
        )


def test_parts_that_do_not_divide_or_cannot_be():
    settings, task = default_config().strategy, make_task("chain")
    settings.accumulate = 4
    with pytest.raises(UsageError, match=r"24 is not divisible by the 16 parts.*accumulate=4 on 4 device.*16 or 32"):
        strategies.check(settings, task, global_batch_size=24, num_processes=2, num_devices=4)
    settings.spmd = "jit"
    with pytest.raises(UsageError, match="shard_map"):
        strategies.check(settings, task, global_batch_size=32, num_processes=1, num_devices=4)
