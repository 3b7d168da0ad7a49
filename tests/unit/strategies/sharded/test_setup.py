"""A mesh, rules or shares that cannot be are refused, with the arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.in_process import SHARDED
from helpers.reference import make_task

from jaxdist import strategies
from jaxdist.errors import UsageError


@pytest.mark.parametrize(
    ("devices", "options", "words"),
    [
        (4, {"mesh": "data:3,model:2"}, "3 x 2 = 6 devices, and there are 4"),
        (4, {"mesh": "rows:4"}, "axis 'rows'; there are data and model"),
        (4, {"mesh": "data:2,model:2", "rules": "nothing/like/it = model"}, "matches nothing"),
        (
            4,
            {"mesh": "data:2,model:2", "rules": "kernel = -,-,-,pipe"},
            "the axis 'pipe', and the mesh has data, model",
        ),
        (
            3,
            {"mesh": "model:3", "rules": "middle/conv/kernel = -,-,-,model"},
            "which the axis model:3 does not divide",
        ),
        (2, {"mesh": "model:2", "rules": ""}, "nothing lies along it"),
        (2, {"mesh": "model:2", "rules": "norm/scale = data"}, "nothing lies along it"),
        (4, {"mesh": "data:2,model:2", "shard_params": "fsdp"}, "over the data axis alone"),
        (2, {"sync_batch_norm": False}, "BatchNorm over the global batch"),
        (3, {}, "not divisible by the 3 part"),
        (2, {"accumulate": 2}, "takes it whole"),
        (2, {"memory_limit": 1e-5}, "memory_limit=1e-05 GB"),
    ],
)
def test_what_cannot_be_is_refused(devices, options, words):
    with pytest.raises(UsageError, match=words):
        strategies.check(
            SHARDED | options,
            make_task("chain", np.float32),
            global_batch_size=16,
            num_processes=1,
            num_devices=devices,
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mesh": "data:2,model:2"}, "2 x 2 = 4 devices, and there are 2"),
        ({"mesh": "model:2", "rules": "absent = model"}, "matches nothing"),
    ],
)
def test_devices_are_those_of_all_processes(options, words):
    with pytest.raises(UsageError, match=words):
        strategies.check(SHARDED | options, make_task("chain"), global_batch_size=12, num_processes=2, num_devices=2)
