"""Why an address gives no answer, from real sockets where this machine has the case."""

from __future__ import annotations

import errno
import socket

import pytest

from jaxdist.comm import waiting
from jaxdist.comm.waiting import Found, Waiting, why_no_answer


def nobody() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def test_a_name_that_is_not_known_and_a_port_at_which_nothing_listens():
    assert why_no_answer("no.invalid:1")[0].startswith("this host does not know the name no.invalid (")
    port = nobody()
    words = f"127.0.0.1 is there, but nothing listens at its port {port}: not yet, no more, or at another port"
    assert why_no_answer(f"127.0.0.1:{port}") == (words, Found.NOBODY)


def test_something_else_listens():
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
        assert why_no_answer(f"127.0.0.1:{port}") == (f"something listens at 127.0.0.1:{port}", Found.SOMETHING)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            TimeoutError(),
            "gives no answer at all: it is off, the link is down, or a firewall drops what comes to port 7",
        ),
        (OSError(errno.ENETUNREACH, ""), "no route leads from this host to h9 (10.0.0.9)"),
        (OSError(errno.EHOSTUNREACH, ""), "(no route to host): it is off, or a firewall rejects what comes to port 7"),
        (OSError(errno.EADDRNOTAVAIL, "odd"), "h9 (10.0.0.9) cannot be reached (odd)"),
    ],
)
def test_what_a_network_says(monkeypatch, error, words):
    def fail(*_):
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("10.0.0.9", 7))] * 2)
    monkeypatch.setattr(socket, "create_connection", fail)
    said, found = why_no_answer("h9:7")
    assert words in said and said.count("h9") == 1 and found is Found.NOTHING


def test_a_name_that_leads_to_this_host_itself(monkeypatch):
    port = nobody()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", port))])
    assert "that name leads to this host itself" in why_no_answer(f"h0:{port}")[0]


def test_it_is_logged_when_it_lasts_and_when_it_changes(monkeypatch, caplog):
    monkeypatch.setattr(waiting, "QUIET_SECONDS", 0.0)
    port = nobody()
    one = Waiting("process 0", f"127.0.0.1:{port}", 60.0)
    for _ in range(3):
        one.note("refused")
    assert not one.over and one.refused
    with socket.create_server(("127.0.0.1", port)):
        one.note("no HTTP/2")
        one.note("deadline exceeded", late=True)
    one.note("it is reserved by another run", answered=True)
    assert not one.refused
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(f"Waiting for process 0 at 127.0.0.1:{port}, for 60 s at most (cluster.connect_timeout")
    ends = [
        "or at another port.",
        "does not answer: it is another program, or TLS is set up on one side alone (no HTTP/2).",
        "does not answer: it is too busy to answer (deadline exceeded).",
        "cluster.connect_timeout_seconds): it is reserved by another run.",
    ]
    assert len(said) == len(ends) and all(line.endswith(end) for line, end in zip(said, ends, strict=True)), said
    quiet = Waiting("process 0", f"127.0.0.1:{port}", 60.0)
    monkeypatch.undo()
    quiet.note("refused")
    assert not quiet.words
