"""TLS for one thread that sends and one that receives: what is sent arrives, and nothing of it can be read."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.certificates import issued

from jaxdist.comm.encrypted import EncryptedSocket

HOST = "127.0.0.1"


def connected(a: socket.socket, b: socket.socket) -> tuple[EncryptedSocket, EncryptedSocket]:
    with ThreadPoolExecutor(1) as pool:
        listening = pool.submit(EncryptedSocket, b, issued(HOST).listening_context, seconds=60.0)
        return EncryptedSocket(a, issued().calling_context, seconds=60.0, expected=HOST), listening.result(60)


def received(end: EncryptedSocket, size: int) -> bytes:
    buffer, got = bytearray(size), 0
    while got < size:
        count = end.recv_into(memoryview(buffer)[got:])
        assert count
        got += count
    return bytes(buffer)


def test_both_ends_send_and_receive_at_once():
    a, b = connected(*socket.socketpair())
    sent = [np.random.default_rng(i).bytes(3 * 2**20 + i) for i in range(2)]
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(received, end, len(data)) for end, data in ((b, sent[0]), (a, sent[1]))]
        for end, data in ((a, sent[0]), (b, sent[1])):
            pool.submit(end.sendall, data)
        assert [result.result(60) for result in results] == sent
    a.shutdown(socket.SHUT_RDWR)
    assert b.recv(10) == b""
    for end in (a, b):
        end.close()


def test_what_passes_by_cannot_be_read():
    """Through a third party that keeps a copy."""
    a, near = socket.socketpair()
    far, b = socket.socketpair()
    seen: list[bytes] = []

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):  # at the end
            while data := source.recv(2**16):
                seen.append(data)
                target.sendall(data)

    passing = [threading.Thread(target=pass_on, args=ends) for ends in ((near, far), (far, near))]
    for thread in passing:
        thread.start()
    one, other = connected(a, b)
    one.sendall(b"secret" * 100)
    assert received(other, 600) == b"secret" * 100
    assert seen and b"secret" not in b"".join(seen)
    for end in (a, b):
        end.shutdown(socket.SHUT_RDWR)
    for thread in passing:
        thread.join()
    for end in (a, b, near, far):
        end.close()


@pytest.mark.parametrize("case", ["another authority", "another host", "no TLS", "gone"])
def test_whom_a_caller_does_not_know_it_does_not_speak_to(case):
    a, b = socket.socketpair()
    theirs = issued(HOST, authority="a stranger") if case == "another authority" else issued(HOST)

    def listen() -> None:
        if case == "no TLS":
            b.sendall(b"220 mail.example ready\r\n")
        if case in ("no TLS", "gone"):
            b.close()
            return
        with pytest.raises((ssl.SSLError, ConnectionError)):
            EncryptedSocket(b, theirs.listening_context, seconds=60.0)
        b.close()

    with ThreadPoolExecutor(1) as pool:
        listening = pool.submit(listen)
        with pytest.raises(OSError):
            expected = "10.0.0.9" if case == "another host" else HOST
            EncryptedSocket(a, issued().calling_context, seconds=60.0, expected=expected)
        a.close()
        listening.result(60)


def test_a_stranger_that_sends_a_byte_now_and_then_does_not_hold_up_the_handshake():
    a, b = socket.socketpair()
    over = threading.Event()

    def drip() -> None:
        for byte in b"\x16\x03\x01\x02\x00" + bytes(1000):
            if over.wait(0.05):
                return
            a.sendall(bytes([byte]))

    with ThreadPoolExecutor(1) as pool:
        dripping = pool.submit(drip)
        begin = time.monotonic()
        with pytest.raises(OSError):
            EncryptedSocket(b, issued(HOST).listening_context, seconds=0.5)
        assert time.monotonic() - begin < 10
        over.set()
        dripping.result(60)
    a.close()
    b.close()
