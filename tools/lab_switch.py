"""A switch between tap devices, in user space: rate, delay and loss of each host's link, changed while it runs.

    host's tap ---> loss? ---> queue of the sender's rate ---> delay ---> queue of the receiver's rate ---> other tap

A Python loop over epoll with a heap of frames that are due. At 100 Mbit/s it takes a tenth of a core; it does not reach
1 Gbit/s, which the kernel's shaper does.
"""

from __future__ import annotations

import heapq
import os
import random
import select
import threading
import time
from collections.abc import Mapping, Sequence

from lab_link import Link

QUEUE_SECONDS = 0.1  # what does not fit into a shaper's queue is dropped, as in a router
QUEUE_BYTES = 64 * 1024  # at least
_FRAMES_A_TURN = 64


class Switch:
    """Forwards frames between taps from a thread of its own, until `close`.

    Args:
      taps: file descriptors, one for each host; non-blocking.
      seed: of the losses.
    """

    def __init__(self, taps: Sequence[int], links: Sequence[Link], seed: int = 0) -> None:
        self._taps, self._links = list(taps), list(links)
        self._down = [False] * len(taps)
        self._random = random.Random(seed)
        self._port_of: dict[bytes, int] = {}  # address of a host -> where it was seen
        self._free = {"up": [0.0] * len(taps), "down": [0.0] * len(taps)}  # when each way has sent what it has
        self._due: list[tuple[float, int, int, bytes]] = []
        self._sequence = 0
        self._closing = False
        self.dropped = self.forwarded = 0
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._run, name="switch", daemon=True)
        self._thread.start()

    def set_link(self, host: int, link: Link) -> None:
        """From the next frame on. Does not block."""
        self._links[host] = link

    def set_down(self, host: int, down: bool) -> None:
        """A link that is down loses every frame, without a word to anybody. Does not block."""
        self._down[host] = down

    def seconds_of_cpu(self) -> float:
        """What the thread has used."""
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident or 0))

    def close(self) -> None:
        """Blocks until the thread has ended. The taps stay open."""
        self._closing = True
        os.write(self._waker, b"x")
        self._thread.join()

    def _run(self) -> None:
        poll = select.epoll()
        poll.register(self._wake, select.EPOLLIN)
        port_of_fd: Mapping[int, int] = {fd: port for port, fd in enumerate(self._taps)}
        for fd in self._taps:
            poll.register(fd, select.EPOLLIN)
        while not self._closing:
            wait = max(self._due[0][0] - time.monotonic(), 0.0) if self._due else None
            for fd, _ in poll.poll(wait):
                if fd in port_of_fd:
                    self._take(port_of_fd[fd])
            self._send_due()
        poll.close()

    def _take(self, port: int) -> None:
        for _ in range(_FRAMES_A_TURN):
            try:
                frame = os.read(self._taps[port], 65536)
            except (BlockingIOError, OSError):
                return
            now = time.monotonic()
            self._port_of[frame[6:12]] = port
            if frame[0] & 1:  # to all
                targets = [other for other in range(len(self._taps)) if other != port]
            else:
                known = self._port_of.get(frame[:6])
                targets = [other for other in range(len(self._taps)) if other != port] if known is None else [known]
            sent = self._passed("up", port, len(frame), now)
            if sent is None:
                continue
            for target in targets:
                if target == port:
                    continue
                arrives = self._passed("down", target, len(frame), sent)
                if arrives is not None:
                    heapq.heappush(self._due, (arrives, self._sequence, target, frame))
                    self._sequence += 1

    def _passed(self, way: str, port: int, size: int, at: float) -> float | None:
        """When a frame is through that way of a host's link; None: it is lost."""
        link = self._links[port]
        if self._down[port] or (link.loss and self._random.random() < link.loss):
            self.dropped += 1
            return None
        if not link.rate:
            return at + link.delay
        begin = max(self._free[way][port], at)
        if (begin - at) * link.rate / 8 > max(QUEUE_BYTES, QUEUE_SECONDS * link.rate / 8):
            self.dropped += 1
            return None
        self._free[way][port] = begin + 8 * size / link.rate
        return self._free[way][port] + link.delay

    def _send_due(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, _, target, frame = heapq.heappop(self._due)
            if self._down[target]:
                self.dropped += 1
                continue
            try:
                os.write(self._taps[target], frame)
                self.forwarded += 1
            except (BlockingIOError, OSError):
                self.dropped += 1
