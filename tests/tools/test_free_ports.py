"""Ports for processes that are started later."""

from __future__ import annotations

import pathlib
import socket
import subprocess
import sys

import free_ports
import pytest


def test_a_port_is_given_once_and_can_be_listened_at():
    ports = [free_ports.free_port() for _ in range(2 * free_ports._MARKS)]
    assert len(set(ports[-free_ports._MARKS :])) == free_ports._MARKS == len(free_ports._marks)
    with socket.create_server(("127.0.0.1", ports[-1])):
        pass


def test_no_other_caller_is_given_the_same(monkeypatch):
    port = free_ports.free_port()
    program = f"import free_ports; free_ports._candidates = lambda: [{port}]; free_ports.free_port()"
    folder = pathlib.Path(free_ports.__file__).parent
    ended = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60)
    assert "No TCP port is free" in ended.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(free_ports, "_candidates", lambda: [taken.getsockname()[1]])
        with pytest.raises(RuntimeError, match="No TCP port is free"):
            free_ports.free_port()


def test_ports_of_outgoing_connections_are_not_given(monkeypatch, tmp_path):
    (tmp_path / "range").write_text("32768\t60999\n")
    monkeypatch.setattr(free_ports, "_OUTGOING", tmp_path / "range")
    found = free_ports._candidates()
    assert len(found) == 200 and not [port for port in found if 32768 <= port <= 60999 or port < 10000]
    (tmp_path / "range").write_text("1024\t65535\n")  # some hosts give all of them
    assert free_ports._candidates()
    monkeypatch.setattr(free_ports, "_OUTGOING", tmp_path / "none")  # not Linux
    assert free_ports._candidates()
