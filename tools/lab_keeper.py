"""Keeps the laboratory's namespaces: started by `lab.py` inside `unshare -Urnmu`, ends with it, and takes all along.

Reads one JSON request a line from standard input, answers each with one line. Its own network namespace has the bridge,
or the switch; each host is a process of its own that sleeps in a network, mount and host-name namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from typing import Any

from lab_link import Link
from lab_switch import Switch

_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_LIBC = ctypes.CDLL(None, use_errno=True)


def address(host: int, ipv6: bool) -> str:
    """On the network that the hosts have in common."""
    return f"fd77::{host + 1}" if ipv6 else f"10.77.0.{host + 1}"


def second_address(host: int) -> str:
    """On a network that every host has for itself, and from which no other is reached."""
    return f"192.168.77.{host + 1}"


def hosts_file(own: int, count: int, names: str, networks: int, ipv6: bool) -> str:
    """`/etc/hosts` of a host.

    good      every name is that host's address, its own too
    debian    its own name is 127.0.1.1
    none      no names at all
    """
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    for host in range(count):
        if names == "none":
            continue
        where = address(host, ipv6)
        if host == own and names == "debian":
            where = "127.0.1.1"
        if host == own and networks == 2:
            where = second_address(host)
        lines.append(f"{where} h{host}.lab h{host}")
    return "\n".join([*lines, ""])


class Keeper:
    """The namespaces, from construction until `close`."""

    def __init__(self, count: int, link: Link, names: str, networks: int, ipv6: bool, shaped: bool) -> None:
        self._count, self._shaped = count, shaped
        self._files = tempfile.TemporaryDirectory(prefix="lab-")
        self._hosts = [self._hold() for _ in range(count)]
        self.pids = [host.pid for host in self._hosts]
        _run("ip", "link", "set", "lo", "up")
        if shaped:
            taps = [self._tap(host) for host in range(count)]
            self._switch: Switch | None = Switch(taps, [link] * count)
        else:
            self._switch = None
            _run("ip", "link", "add", "br0", "type", "bridge")
            _run("ip", "link", "set", "br0", "up")
            for host in range(count):
                self._plug(host)
        for host in range(count):
            self._set_up(host, names, networks, ipv6)
            if not shaped:
                self.set_link(host, link)

    def _hold(self) -> subprocess.Popen[bytes]:
        command = ["unshare", "-nmu", "--propagation", "private", "sleep", "infinity"]
        host = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)
        own = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{host.pid}/ns/net") == own or _name(host.pid) != "sleep":
            if host.poll() is not None:
                raise OSError("unshare ended at once")
        return host

    def _inside(self, host: int, *command: str) -> None:
        _run("nsenter", "-t", str(self.pids[host]), "-n", "-m", "-u", *command)

    def _plug(self, host: int) -> None:
        _run("ip", "link", "add", f"p{host}", "type", "veth", "peer", "name", "eth0", "netns", str(self.pids[host]))
        _run("ip", "link", "set", f"p{host}", "master", "br0", "up")

    def _tap(self, host: int) -> int:
        """A tap device inside a host's namespace, whose other end is here."""
        made: list[Any] = []

        def enter() -> None:
            try:
                with open(f"/proc/{self.pids[host]}/ns/net") as namespace:
                    if _LIBC.setns(namespace.fileno(), _CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
                fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH", b"eth0", _IFF_TAP | _IFF_NO_PI))
                made.append(fd)
            except OSError as e:
                made.append(e)

        thread = threading.Thread(target=enter)  # the namespace is the thread's alone
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]

    def _set_up(self, host: int, names: str, networks: int, ipv6: bool) -> None:
        folder = pathlib.Path(self._files.name)
        for file, text in (
            ("hosts", hosts_file(host, self._count, names, networks, ipv6)),
            ("resolv.conf", ""),
        ):
            (folder / f"{file}.{host}").write_text(text)
            self._inside(host, "mount", "--bind", str(folder / f"{file}.{host}"), f"/etc/{file}")
        self._inside(host, "hostname", f"h{host}")
        self._inside(host, "ip", "link", "set", "lo", "up")
        if networks == 2:  # listed first, as Docker's bridge may be
            self._inside(host, "ip", "link", "add", "mgmt0", "type", "veth", "peer", "name", "mgmt1")
            self._inside(host, "ip", "addr", "add", f"{second_address(host)}/24", "dev", "mgmt0")
            self._inside(host, "ip", "link", "set", "mgmt0", "up")
            self._inside(host, "ip", "link", "set", "mgmt1", "up")
        if ipv6:
            self._inside(host, "ip", "addr", "add", f"{address(host, True)}/64", "dev", "eth0", "nodad")
        else:
            self._inside(host, "ip", "addr", "add", f"{address(host, False)}/24", "dev", "eth0")
        self._inside(host, "ip", "link", "set", "eth0", "up")

    # While it runs.

    def set_link(self, host: int, link: Link) -> None:
        """Raises `ValueError` for what this laboratory was not made for."""
        if self._switch is not None:
            return self._switch.set_link(host, link)
        if not link.only_rate:
            raise ValueError("delays and losses need a laboratory that was made with them (shaped=True)")
        for inside, device in ((False, f"p{host}"), (True, "eth0")):
            run = (lambda *c: self._inside(host, *c)) if inside else _run
            with contextlib.suppress(subprocess.CalledProcessError):  # there was none
                run("tc", "qdisc", "del", "dev", device, "root")
            if link.rate:
                burst = str(int(max(16_000, link.rate / 8 / 100)))
                shaper = ("tbf", "rate", f"{int(link.rate)}bit", "burst", burst, "latency", "50ms")
                run("tc", "qdisc", "add", "dev", device, "root", *shaper)

    def set_down(self, host: int, down: bool) -> None:
        if self._switch is not None:
            return self._switch.set_down(host, down)
        _run("ip", "link", "set", f"p{host}", *(("nomaster",) if down else ("master", "br0")))

    def seconds_of_cpu(self) -> float:
        return self._switch.seconds_of_cpu() if self._switch is not None else 0.0

    def close(self) -> None:
        if self._switch is not None:
            self._switch.close()
        for host in self._hosts:
            host.kill()
            host.wait()
        self._files.cleanup()


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as e:
        e.add_note(f"{' '.join(command)}: {e.stderr.strip()}")
        raise


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the laboratory's owner ends this one
    wanted = json.loads(sys.argv[1])
    try:
        keeper = Keeper(link=Link(*wanted.pop("link")), **wanted)
    except (OSError, subprocess.CalledProcessError) as e:
        print(json.dumps({"error": "; ".join([str(e), *getattr(e, "__notes__", [])])}), flush=True)
        return 1
    print(json.dumps({"pids": keeper.pids}), flush=True)
    try:
        for line in sys.stdin:
            request = json.loads(line)
            reply: dict[str, Any] = {}
            try:
                match request.pop("do"):
                    case "link":
                        keeper.set_link(request["host"], Link(*request["link"]))
                    case "down":
                        keeper.set_down(**request)
                    case "cpu":
                        reply["seconds"] = keeper.seconds_of_cpu()
            except (OSError, ValueError, subprocess.CalledProcessError) as e:
                reply["error"] = "; ".join([str(e), *getattr(e, "__notes__", [])])
            print(json.dumps(reply), flush=True)
    finally:
        keeper.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
