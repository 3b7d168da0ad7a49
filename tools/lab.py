"""A laboratory of hosts and links on one machine: network namespaces with names, addresses and links of their own.

    python tools/lab.py --hosts=3 --link=100mbit,5ms,0.1% --names=debian -- COMMAND

runs COMMAND on each host, with {host}, {address} and {index} filled in, prefixes its lines, and ends with the first
exit code that is not 0. Everything is gone afterwards, however it ends. Traffic stays inside. It needs root, or user
namespaces that an ordinary user may make. As a library: `with Lab(3, link=Link.parse("100mbit")) as lab`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import lab_keeper
from lab_link import Link

NAMES = ("good", "debian", "none")
_COUNTERS = {"rx_bytes": 0, "rx_packets": 1, "tx_bytes": 8, "tx_packets": 9}  # columns of /proc/net/dev


class NoLab(Exception):
    """This machine does not allow one, or what was asked for cannot be. One sentence."""


class Lab:
    """Hosts and links, from `__enter__` to `__exit__`.

    Args:
      hosts: how many; they are h0, h1, ... at `addresses`.
      link: of each host to all the others.
      names: 'good', 'debian' (a host's own name is 127.0.1.1) or 'none'.
      networks: 2: each host has a second one, listed first, to which its own name leads; nobody is reached from it.
      ipv6: addresses are IPv6 alone.
      shaped: links may get delays and losses later.
      cores: processes of host i run on core i modulo so many; 0: anywhere.

    Raises:
      NoLab: namespaces are not allowed here, or a tool is missing.
    """

    def __init__(
        self,
        hosts: int = 2,
        *,
        link: Link | None = None,
        names: str = "good",
        networks: int = 1,
        ipv6: bool = False,
        shaped: bool = False,
        cores: int = 0,
    ) -> None:
        if not 1 <= hosts <= 200:
            raise NoLab(f"{hosts} hosts: there may be 1 to 200.")
        self.link = link or Link()
        self._wanted = {"count": hosts, "names": names, "networks": networks, "ipv6": ipv6}
        self._wanted |= {"shaped": shaped or not self.link.only_rate, "link": dataclasses.astuple(self.link)}
        self._cores = cores
        self.names = [f"h{host}" for host in range(hosts)]
        self.addresses = [lab_keeper.address(host, ipv6) for host in range(hosts)]
        self._processes: list[subprocess.Popen[Any]] = []
        self._keeper: subprocess.Popen[str] | None = None
        self._asking = threading.Lock()

    def __enter__(self) -> Lab:
        missing = [tool for tool in ("unshare", "nsenter", "ip", "tc") if not shutil.which(tool)]
        if missing:
            raise NoLab(f"A laboratory needs {', '.join(missing)} (packages util-linux and iproute2).")
        keeper = pathlib.Path(lab_keeper.__file__)
        self._keeper = subprocess.Popen(
            ["unshare", "-Urnmu", "--propagation", "private", sys.executable, str(keeper), json.dumps(self._wanted)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._keeper.stdout is not None and self._keeper.stderr is not None
        first = self._keeper.stdout.readline()
        reply = json.loads(first) if first else {"error": self._keeper.stderr.read().strip()[-300:]}
        if "error" in reply:
            self.close()
            raise NoLab(
                f"This machine allows no namespaces ({reply['error']}): a laboratory needs root, or user namespaces "
                "that an ordinary user may make."
            )
        self._pids = reply["pids"]
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def popen(self, host: int, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Starts a command on a host, in this process's working directory or `cwd`; `options` as of `subprocess.Popen`.
        What is left of it is killed when the laboratory ends."""
        where = str(options.pop("cwd", None) or os.getcwd())
        enter = ["nsenter", "-t", str(self._pids[host]), "-U", "--preserve-credentials", "-n", "-m", "-u"]
        pinned = ["taskset", "-c", str(host % self._cores)] if self._cores else []
        process = subprocess.Popen([*enter, *pinned, "sh", "-c", 'cd "$0" && exec "$@"', where, *command], **options)
        self._processes.append(process)
        return process

    def run(self, host: int, command: Sequence[str], **options: Any) -> str:
        """What a command says on a host. Blocks.

        Raises:
          subprocess.CalledProcessError: it failed.
        """
        with self.popen(host, command, stdout=subprocess.PIPE, text=True, **options) as process:
            said, _ = process.communicate()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, said)
        return said

    def set_link(self, link: Link, host: int | None = None) -> None:
        """Of one host, or of all; from the next frame on.

        Raises:
          NoLab: a delay or a loss in a laboratory that was made without.
        """
        for one in range(len(self.names)) if host is None else [host]:
            self._ask(do="link", host=one, link=dataclasses.astuple(link))

    def cut(self, host: int) -> None:
        """Takes a host's link down, without a word to anybody: its frames vanish."""
        self._ask(do="down", host=host, down=True)

    def mend(self, host: int) -> None:
        """Brings it up again."""
        self._ask(do="down", host=host, down=False)

    def counters(self, host: int) -> dict[str, int]:
        """Bytes and packets that its interface has sent and received, headers of Ethernet included."""
        return counters_in(self.run(host, ["cat", "/proc/net/dev"]))

    def seconds_of_cpu(self) -> float:
        """What the switch in user space has used so far; 0 where the kernel does its work."""
        return self._ask(do="cpu")["seconds"]

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._keeper is not None and self._keeper.stdin is not None and self._keeper.stdout is not None
        with self._asking:  # several threads may each have a run in the laboratory
            self._keeper.stdin.write(json.dumps(request) + "\n")
            self._keeper.stdin.flush()
            reply = json.loads(self._keeper.stdout.readline())
        if "error" in reply:
            raise NoLab(reply["error"])
        return reply

    def close(self) -> None:
        """Kills what runs on the hosts, and takes them away. Idempotent; blocks for a moment."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        self._processes.clear()
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        for stream in (keeper.stdin, keeper.stdout, keeper.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            keeper.wait(10)
        except subprocess.TimeoutExpired:
            keeper.kill()
            keeper.wait()


def counters_in(text: str) -> dict[str, int]:
    """Those of a host's interface in what /proc/net/dev says there."""
    numbers = next(line for line in text.splitlines() if line.strip().startswith("eth0:")).partition(":")[2].split()
    return {name: int(numbers[at]) for name, at in _COUNTERS.items()}


def filled(command: Sequence[str], host: int, lab: Lab) -> list[str]:
    """The command with {host}, {address} and {index} replaced, and {address0}, {host0} by those of the first."""
    values = {"{host}": lab.names[host], "{address}": lab.addresses[host], "{index}": str(host)}
    values |= {"{host0}": lab.names[0], "{address0}": lab.addresses[0], "{hosts}": str(len(lab.names))}
    words = []
    for word in command:
        for name, value in values.items():
            word = word.replace(name, value)
        words.append(word)
    return words


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--link", default="", help="RATE[,DELAY[,LOSS]] of each host's link; default: free")
    parser.add_argument("--names", choices=NAMES, default="good")
    parser.add_argument("--networks", type=int, choices=(1, 2), default=1)
    parser.add_argument("--ipv6", action="store_true")
    parser.add_argument("--cores", type=int, default=0, help="pins host i to core i modulo so many")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and what runs on each host")
    options = parser.parse_args(argv)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("-- COMMAND is missing")
    try:
        link = Link.parse(options.link)
    except ValueError as e:
        parser.error(f"--link={options.link}: {e}")
    settings = {"names": options.names, "networks": options.networks, "ipv6": options.ipv6, "cores": options.cores}
    try:
        with Lab(options.hosts, link=link, **settings) as lab:
            return _run_everywhere(lab, command)
    except NoLab as e:
        print(f"lab: {e}", file=sys.stderr)
        return 2


def _run_everywhere(lab: Lab, command: Sequence[str]) -> int:
    processes = []
    for host in range(len(lab.names)):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(lab.popen(host, filled(command, host, lab), **pipes))

    def forward(number: int, _: object) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    readers = [
        threading.Thread(target=_copy, args=(name, process), daemon=True)
        for name, process in zip(lab.names, processes, strict=True)
    ]
    for reader in readers:
        reader.start()
    codes = [process.wait() for process in processes]
    for reader in readers:
        reader.join(5)
    return next((code if code > 0 else 128 - code for code in codes if code), 0)


def _copy(name: str, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(f"[{name}] {line}")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
