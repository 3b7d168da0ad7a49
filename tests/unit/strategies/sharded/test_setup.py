"""A mesh or rules that do not fit are refused, with the arithmetic."""

from __future__ import annotations

import pytest
from helpers.reference import make_task

from jaxdist import strategies
from jaxdist.config import default_config
from jaxdist.errors import UsageError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mesh": "data:2,model:2"}, "2 x 2 = 4 devices, and there are 2"),
        ({"mesh": "model:2", "rules": "absent = model"}, "matches nothing"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    settings = default_config().strategy
    settings.update({"name": "model_parallel"} | options)
    with pytest.raises(UsageError) as e:
        strategies.check(settings, make_task("chain"), global_batch_size=12, num_processes=2, num_devices=2)
    assert words in str(e.value)
