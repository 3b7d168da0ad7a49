"""What a process needs is told before anything is made, and beyond the limit it is refused."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.in_process import BATCH
from helpers.reference import make_task

from jaxdist import strategies
from jaxdist.config import default_config
from jaxdist.errors import UsageError


def test_a_whole_model_beyond_the_limit_is_refused():
    task = make_task("chain", np.float32)
    limited = default_config().strategy
    limited.memory_limit = 1e-6
    with pytest.raises(UsageError, match=r"One process needs about .*memory_limit=1e-06 GB.*'pipeline' cuts"):
        strategies.check(limited, task, global_batch_size=BATCH, num_processes=1, num_devices=1)
