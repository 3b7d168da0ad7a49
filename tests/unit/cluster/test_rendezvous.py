"""What processes that meet say of each other; that they meet is tested in `test_process_group.py`."""

from __future__ import annotations

from jaxdist.cluster.rendezvous import differences


def test_differing_versions_are_named():
    signatures = [{"jaxlib": "0.10.2"}, {"jaxlib": "0.10.1"}, {"jaxlib": "0.10.2"}]
    assert differences(signatures) == ['jaxlib is "0.10.2" on processes 0, 2 but "0.10.1" on process 1']
