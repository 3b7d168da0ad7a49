"""What cannot be cut into stages is refused, with the arithmetic; what is cut by time fits."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.in_process import BATCH, PIPELINE, build_pipeline
from helpers.reference import make_task

from jaxdist import strategies
from jaxdist.errors import UsageError


@pytest.mark.parametrize(
    ("options", "processes", "words"),
    [
        ({"num_stages": 12}, 1, r"12 are more stages than the model has blocks \(4: stem to head\): at most 4"),
        ({"num_stages": 2, "balance": (3, 5)}, 1, r"2 entries, 3 \+ 5 = 8. For example \(2, 2\)"),
        ({"num_stages": 3, "balance": (2, 2)}, 1, r"2 entries, 2 \+ 2 = 4"),
        ({"num_stages": 2, "balance": (0, 4)}, 1, r"balance=\(0, 4\) does not fit"),
        ({"num_stages": 2, "num_microbatches": 5}, 2, r"16 is not divisible by 5 microbatches x 1 .*nearest: 15 or 20"),
        ({"num_stages": 2, "replicas": 3, "num_microbatches": 2}, 6, r"2 microbatches x 3 replica.*nearest: 12 or 18"),
        ({"num_stages": 2, "replicas": 1}, 3, r"2 stages x 1 replica\(s\) = 2 cannot be dealt out to 3 process"),
        ({"num_stages": 3, "replicas": 2}, 4, r"3 stages x 2 replica\(s\) = 6 cannot be dealt out to 4 process"),
        ({"memory_limit": 1e-6}, 2, r"Process 0, with stage 0, needs about .* GB \(parameters"),
        ({"memory_limit": 1e-6, "num_stages": 2}, 1, r"Process 0, with stages 0, 1, needs about"),
        ({"memory_limit": 1e-5, "num_stages": 1}, 1, r"memory_limit=1e-05 GB"),
        ({"accumulate": 4}, 2, r"accumulate=4 is not for a pipeline.*num_microbatches"),
    ],
)
def test_what_cannot_be_cut_is_refused(options, processes, words):
    task = make_task("chain", np.float32)
    with pytest.raises(UsageError, match=words):
        strategies.check(
            PIPELINE | options, task, global_batch_size=BATCH, num_processes=processes, num_devices=processes
        )


def test_a_balance_by_time():
    task = make_task("chain", np.float32)
    pipeline = build_pipeline(task, devices=2, num_stages=2, balance_by="time")
    try:
        pipeline.import_state(task.init())
        assert sum(pipeline.state_dict()["balance"]) == len(task.model.names)
        predicted = pipeline.report.plan["predicted"]
        assert 0 < predicted["bubble"] < 1 and len(predicted["cut_bytes"]) == 1
    finally:
        pipeline.close()
