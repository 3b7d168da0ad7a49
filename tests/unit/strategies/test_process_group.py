"""What strategies need of the processes of a run is there, under the same names and arguments."""

from __future__ import annotations

import inspect

import pytest

from jaxdist import cluster
from jaxdist.strategies.process_group import ProcessGroup

NEEDED = {name: member for name, member in vars(ProcessGroup).items() if not name.startswith("_")}


@pytest.mark.parametrize("name", NEEDED)
def test_the_cluster_s_group_has_it(name):
    needed, found = NEEDED[name], getattr(cluster.ProcessGroup, name)
    assert isinstance(found, property) == isinstance(needed, property)
    if not isinstance(needed, property):
        assert inspect.signature(found) == inspect.signature(needed)


def test_something_is_needed():
    assert {"gather", "broadcast", "host", "fate_sharing"} <= NEEDED.keys()
