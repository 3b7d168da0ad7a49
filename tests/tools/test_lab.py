"""`tools/lab.py` with lab_link, lab_keeper and lab_switch: hosts and links on one machine, as they are asked for.

Runs of jaxdist on them: `hosts/`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

import lab as laboratory
import lab_keeper
import pytest
from helpers.hosts import lab_of
from helpers.waiting import wait_until
from lab_link import Link
from lab_switch import Switch


@pytest.mark.parametrize(
    ("text", "link", "said"),
    [
        ("", Link(), "free"),
        ("free", Link(), "free"),
        ("100mbit", Link(100e6), "100mbit"),
        ("1gbit,5ms,0.1%", Link(1e9, 0.005, 0.001), "1gbit,5ms,0.1%"),
        (",20ms", Link(0, 0.02), "free,20ms"),
        ("2.5mbit,,3%", Link(2.5e6, 0, 0.03), "2.5mbit,,3%"),
    ],
)
def test_links_are_read_and_said(text, link, said):
    assert Link.parse(text) == link and str(link) == said and Link.parse(said) == link


@pytest.mark.parametrize("text", ["fast", "100", "100mbit,5", "100mbit,5ms,200%", "1mbit,1ms,1%,x", "1mbit,1ms,0.1"])
def test_links_that_cannot_be_read(text):
    with pytest.raises(ValueError):
        Link.parse(text)


def test_names_as_they_are_set_up():
    good = lab_keeper.hosts_file(0, 2, "good", 1, ipv6=False)
    assert "10.77.0.1 h0.lab h0" in good and "10.77.0.2 h1.lab h1" in good
    debian = lab_keeper.hosts_file(1, 2, "debian", 1, ipv6=True)
    assert "127.0.1.1 h1.lab h1" in debian and "fd77::1 h0.lab h0" in debian
    assert "h0" not in lab_keeper.hosts_file(0, 2, "none", 1, ipv6=False)
    assert "192.168.77.1 h0.lab h0" in lab_keeper.hosts_file(0, 2, "good", 2, ipv6=False)


class Taps:
    """Two ends of datagram sockets, in place of taps."""

    def __init__(self, count: int) -> None:
        import socket

        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(count)]
        self.hosts = [a for a, _ in pairs]
        self.switch = [b for _, b in pairs]
        for one in (*self.hosts, *self.switch):
            one.setblocking(False)

    def close(self) -> None:
        for one in (*self.hosts, *self.switch):
            one.close()


def frame(to: int, of: int, size: int = 100) -> bytes:
    address = lambda host: bytes([255] * 6) if host < 0 else bytes([2, 0, 0, 0, 0, host])  # noqa: E731
    return (address(to) + address(of)).ljust(size, b"x")


def arrived(taps: Taps, host: int) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while taps.hosts[host].recv(65536):
            count += 1
    return count


def test_the_switch_delays_shapes_loses_and_cuts():
    with contextlib.closing(Taps(3)) as taps:
        switch = Switch([s.fileno() for s in taps.switch], [Link()] * 3, seed=1)
        with contextlib.closing(switch):
            taps.hosts[0].send(frame(-1, 0))  # to all: the switch learns where 0 is
            wait_until(lambda: switch.forwarded == 2, "frame to all")
            assert [arrived(taps, host) for host in range(3)] == [0, 1, 1]
            taps.hosts[1].send(frame(0, 1))
            wait_until(lambda: switch.forwarded == 3, "frame to one")
            assert [arrived(taps, host) for host in range(3)] == [1, 0, 0]

            switch.set_link(0, Link(delay=0.1))
            begin = time.monotonic()
            taps.hosts[1].send(frame(0, 1))
            wait_until(lambda: arrived(taps, 0) == 1, "frame that was delayed")
            assert 0.1 <= time.monotonic() - begin < 1.0

            switch.set_link(0, Link(rate=8 * 1000 * 10))  # ten frames of 1000 bytes a second
            before, begin = switch.forwarded, time.monotonic()
            for _ in range(5):
                taps.hosts[1].send(frame(0, 1, 1000))
            wait_until(lambda: switch.forwarded == before + 5, "frames at their rate")
            assert 0.4 < time.monotonic() - begin < 2.0 and arrived(taps, 0) == 5

            switch.set_link(0, Link(loss=0.5))
            before = switch.forwarded + switch.dropped
            for _ in range(200):
                taps.hosts[1].send(frame(0, 1))
                time.sleep(0.0005)
            wait_until(lambda: switch.forwarded + switch.dropped == before + 200, "losses")
            assert 60 < arrived(taps, 0) < 140

            switch.set_link(0, Link())
            switch.set_down(0, True)
            dropped = switch.dropped
            taps.hosts[1].send(frame(0, 1))
            wait_until(lambda: switch.dropped == dropped + 1, "frame at a link that is down")
            switch.set_down(0, False)
            taps.hosts[1].send(frame(0, 1))
            wait_until(lambda: arrived(taps, 0) == 1, "frame at a link that is up again")
            assert switch.seconds_of_cpu() > 0


def test_hosts_have_names_and_links_and_are_gone_afterwards():
    with lab_of(2, names="debian", shaped=True) as lab:
        assert lab.run(1, ["hostname"]) == "h1\n"
        assert lab.run(0, ["getent", "hosts", "h0"]).split()[0] == "127.0.1.1"
        assert lab.run(1, ["getent", "hosts", "h0"]).split()[0] == lab.addresses[0]
        server = (
            "import socket; s = socket.create_server(('', 5000)); print('up', flush=True); s.accept()[0].sendall(b'x')"
        )
        listening = lab.popen(0, [sys.executable, "-c", server], stdout=subprocess.PIPE, text=True)
        assert listening.stdout.readline() == "up\n"
        client = "import socket, sys; print(socket.create_connection((sys.argv[1], 5000), 10).recv(1))"
        before = lab.counters(0)
        assert lab.run(1, [sys.executable, "-c", client, lab.addresses[0]]) == "b'x'\n"
        assert lab.counters(0)["tx_bytes"] > before["tx_bytes"]
        listening.communicate(timeout=30)
        lab.cut(1)
        with pytest.raises(subprocess.CalledProcessError):
            lab.run(
                1, [sys.executable, "-c", client.replace(", 10", ", 1"), lab.addresses[0]], stderr=subprocess.DEVNULL
            )
        lab.mend(1)
        lab.set_link(Link.parse("10mbit,1ms"))
        sleeping = lab.popen(1, ["sleep", "600"])
        pids = [sleeping.pid, *lab._pids]
    assert sleeping.returncode is not None
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "end of the hosts", 10)


def test_the_command_runs_everywhere_and_says_who_says_what(capfd):
    with lab_of(1):
        pass
    assert (
        laboratory.main(["--hosts=2", "--", "sh", "-c", "echo {index} {host} {address} {address0}; exit {index}"]) == 1
    )
    said = sorted(capfd.readouterr().out.splitlines())
    assert said == ["[h0] 0 h0 10.77.0.1 10.77.0.1", "[h1] 1 h1 10.77.0.2 10.77.0.1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--link=fast", "--", "true"], "--link=fast: 'fast' is not a number"),
        (["--hosts=2"], "COMMAND is missing"),
        (["--names=odd", "--", "true"], "invalid choice"),
    ],
)
def test_what_cannot_be_is_refused(capsys, arguments, words):
    with pytest.raises(SystemExit) as refused:
        laboratory.main(arguments)
    assert refused.value.code == 2 and words in capsys.readouterr().err
    assert laboratory.main(["--hosts=0", "--", "true"]) == 2


def test_a_machine_that_allows_none(monkeypatch, capsys):
    monkeypatch.setattr(laboratory.shutil, "which", lambda tool: None)
    assert laboratory.main(["--", "true"]) == 2
    assert "A laboratory needs unshare, nsenter, ip, tc" in capsys.readouterr().err
