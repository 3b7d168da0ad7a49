"""Addresses as text, and where to listen for a name."""

from __future__ import annotations

import socket

import pytest

from jaxdist.comm import addresses


@pytest.mark.parametrize(
    ("text", "host", "port"), [("h:1", "h", 1), ("[::1]:80", "::1", 80), ("10.0.0.1:65535", "10.0.0.1", 65535)]
)
def test_taken_apart_and_put_together(text, host, port):
    assert addresses.split(text) == (host, port) and addresses.join(host, port) == text


def test_a_host_in_brackets_keeps_them():
    assert addresses.join("[::1]", 5) == "[::1]:5"


@pytest.mark.parametrize(
    ("host", "literal", "loopback"),
    [
        ("10.0.0.1", True, False),
        ("127.0.1.1", True, True),
        ("::1", True, True),
        ("[::1]", True, True),
        ("fe80::1", True, False),
        ("localhost", False, True),
        ("h0", False, False),
    ],
)
def test_names_and_addresses(host, literal, loopback):
    assert (addresses.is_literal(host), addresses.is_loopback(host)) == (literal, loopback)


def test_a_server_known_by_a_name_listens_everywhere(monkeypatch):
    for address in ("10.0.0.1:7", "[fd77::1]:7", "localhost:7", "127.0.0.1:0"):
        assert addresses.where_to_listen(address) == address
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: True)
    assert addresses.where_to_listen("h0.lab:7") == "[::]:7"
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    assert addresses.where_to_listen("h0.lab:7") == "0.0.0.0:7"
