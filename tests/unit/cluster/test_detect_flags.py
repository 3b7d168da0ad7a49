"""Flags that say too little or contradict each other are refused (`cluster/detect.py`)."""

from __future__ import annotations

import pytest

from jaxdist import cluster
from jaxdist.errors import UsageError


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"num_processes": 2, "process_id": 5, "coordinator_address": "h:1"}, "ids are 0 to 1"),
        ({"num_processes": 2, "process_id": -1, "coordinator_address": "h:1"}, "ids are 0 to 1"),
        ({"num_processes": 2, "coordinator_address": "h:1"}, "--process_id"),
        ({"num_processes": 2, "process_id": 1}, "--coordinator_address"),
        ({"num_processes": 2, "process_id": 1, "coordinator_address": "h"}, "HOST:PORT"),
        ({"num_processes": 0}, "at least 1"),
    ],
)
def test_cluster_flags(flags, words):
    with pytest.raises(UsageError) as e:
        cluster.detect(environ={}, **flags)
    assert words in str(e.value)
