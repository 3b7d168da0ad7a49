"""The names that users are shown in place of the one that they wrote."""

from __future__ import annotations

from jaxdist.errors import ConnectionLost, PeerError, UsageError, nearest


def test_the_nearest_name_is_shown_if_any_is_near():
    assert nearest("denset", ["resnet", "densenet", "cnn"]) == "; nearest: 'densenet'"
    assert nearest("x", ["resnet", "densenet"]) == "" == nearest("x", [])


def test_a_lost_connection_ends_a_process_as_a_lost_peer_does():
    assert issubclass(ConnectionLost, PeerError) and not issubclass(PeerError, UsageError)
