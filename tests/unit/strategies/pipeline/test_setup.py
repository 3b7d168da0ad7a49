"""What cannot be cut into stages is refused, with the arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.reference import make_task

from jaxdist import strategies
from jaxdist.config import default_config
from jaxdist.errors import UsageError


@pytest.mark.parametrize(
    ("n", "options", "words"),
    [
        (1, {"num_stages": 30}, "more stages than the model has blocks"),
        (3, {"num_stages": 2}, "cannot be dealt out to 3 process"),
        (1, {"num_stages": 1, "memory_limit": 1e-5}, "memory_limit=1e-05 GB"),
    ],
)
def test_what_cannot_be_is_refused(n, options, words):
    settings = default_config().strategy
    settings.update({"name": "pipeline", "num_microbatches": 2, "balance_by": "bytes"} | options)
    with pytest.raises(UsageError) as e:
        strategies.check(settings, make_task("chain", np.float32), global_batch_size=12, num_processes=n, num_devices=n)
    assert words in str(e.value)
