"""Starts a whole run on this machine: N workers, each with cores of its own where there are enough, and servers.

    python tools/launch.py --num_workers=2 -- --config=experiments/densenet_digits.py --workdir=/tmp/digits
    python tools/launch.py --num_workers=2 --num_servers=1 -- --config=... --config.strategy.name=parameter_server

Every line of output is prefixed with its process. Exits with the first failure's code, after repeating its message;
with --keep_going a failure stops nobody, and the exit code is that of worker 0.
SIGINT and SIGTERM are forwarded; what has not ended after the grace period is killed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from free_ports import free_port

STOPPED_AFTER_SAVING = 75  # not a failure
STOPPED_WITH_NOTHING_TO_SAVE = 143  # not one where this launcher has asked for it
REMEMBERED_LINES = 15


class Child:
    """One process of the run, its output copied line by line with a prefix."""

    def __init__(self, name: str, command: list[str], cpus: set[int] | None, environ: dict[str, str]) -> None:
        self.name = name
        self.command, self.cpus, self.environ = command, cpus, environ
        self.last_lines: collections.deque[str] = collections.deque(maxlen=REMEMBERED_LINES)
        self.error_lines: list[str] = []
        self.killed_after = 0.0  # seconds of grace, after which this launcher has killed it
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environ,
            start_new_session=True,  # Ctrl-C reaches the launcher alone, which forwards it once
        )
        if cpus:
            os.sched_setaffinity(self.process.pid, cpus)
        self._reader = threading.Thread(target=self._copy, daemon=True)
        self._reader.start()

    def _copy(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.last_lines.append(line)
            if line.startswith(("jaxdist: error:", "jaxdist: stopped:")):
                self.error_lines.append(line)
            with contextlib.suppress(OSError):  # nobody reads our output any more; the child's must still be taken
                sys.stdout.write(f"[{self.name}] {line}")
                sys.stdout.flush()

    def finish(self) -> int:
        """Exit code as a shell would give it; the output has been copied by then."""
        code = self.process.wait()
        self._reader.join(timeout=5)
        return 128 - code if code < 0 else code

    def reason(self) -> str:
        """What the process said last, or the signal that ended it."""
        code = self.process.returncode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            if -code == signal.SIGKILL and self.killed_after:
                return f"{self.name} did not end within {self.killed_after:.0f} s of SIGTERM and was killed.\n"
            hint = " (out of memory?)" if -code == signal.SIGKILL else ""
            return f"{self.name} was ended by {name}{hint}\n"
        return "".join(self.error_lines[-1:] or self.last_lines)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """(the launcher's options, what jaxdist.main gets); exits with 2 where they cannot be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_workers", type=int, default=1)
    parser.add_argument(
        "--cpus_per_worker", type=int, default=0, help="default: an equal share, 0 where there are too few"
    )
    parser.add_argument("--num_servers", type=int, default=0, help="parameter servers")
    parser.add_argument("--evaluator", action="store_true", help="a process that evaluates beside the training")
    parser.add_argument("--keep_going", action="store_true", help="do not stop the others when one fails")
    parser.add_argument("--max_restarts", type=int, default=0, help="of servers that a signal ends, in all")
    parser.add_argument("--grace_seconds", type=float, default=60.0, help="between a forwarded signal and SIGKILL")
    parser.add_argument("--program", default="", help="a script with the flags of jaxdist.main, to run instead of it")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="-- and what jaxdist.main gets")
    options = parser.parse_args(argv)
    rest = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
    if options.num_workers < 1:
        parser.error("--num_workers must be at least 1")
    if options.num_servers < 0 or (options.evaluator and not options.num_servers):
        parser.error("--num_servers must be at least 0, and at least 1 for an --evaluator")
    if options.program and (options.num_servers or not os.path.isfile(options.program)):
        parser.error(f"--program={options.program} must be a file, and has workers alone")
    return options, rest


def main(argv: Sequence[str]) -> int:
    options, rest = parse(argv)
    children: list[Child] = []
    asked_at: list[float] = []

    def forward(number: int, _frame: object) -> None:
        asked_at.append(time.monotonic())
        _signal_all(children, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, forward)
    for child in start(options, rest):
        children.append(child)
    if asked_at:
        _signal_all(children, signal.SIGTERM)
    first = wait(children, options, asked_at)
    if first is not None and options.keep_going:
        print(f"\nA failure that the others survived ({first.name}):\n{first.reason()}", end="", file=sys.stderr)
        first = next(c for c in children if c.name == "worker 0")
        return first.finish()
    if first is not None:
        print(f"\nFirst failure ({first.name}):\n{first.reason()}", end="", file=sys.stderr, flush=True)
        return first.finish()
    codes = {child.finish() for child in children}
    return next((code for code in (STOPPED_AFTER_SAVING, STOPPED_WITH_NOTHING_TO_SAVE) if code in codes), 0)


def start(options: argparse.Namespace, arguments: list[str]) -> Iterator[Child]:
    """Starts the processes, one as each is asked for; worker i takes the i-th share of the cores."""
    num_workers = options.num_workers
    cores = sorted(os.sched_getaffinity(0))
    share = options.cpus_per_worker or len(cores) // num_workers
    if share * num_workers > len(cores):
        print(f"{num_workers} workers of {share} cores do not fit the {len(cores)} there are: not pinned.", flush=True)
        share = 0
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environ = os.environ | {"PYTHONUNBUFFERED": "1"}
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environ.get("PYTHONPATH", ""))))
    program = [options.program] if options.program else ["-m", "jaxdist.main"]
    command = [sys.executable, *program, *arguments]
    address = f"127.0.0.1:{free_port()}"
    servers = []
    if options.num_servers:
        servers = ["--server_addresses=" + ",".join(f"127.0.0.1:{free_port()}" for _ in range(options.num_servers))]
    for i in range(options.num_servers):
        yield Child(f"server {i}", [*command, *servers, "--role=server", f"--server_index={i}"], None, environ)
    if options.evaluator:
        yield Child("evaluator", [*command, *servers, "--role=evaluator"], None, environ)
    for i in range(num_workers):
        place = list(servers)
        if num_workers > 1:
            place += [f"--num_processes={num_workers}", f"--process_id={i}", f"--coordinator_address={address}"]
        cpus = set(cores[i * share : (i + 1) * share]) if share else None
        yield Child(f"worker {i}", command + place, cpus, environ)


def wait(children: list[Child], options: argparse.Namespace, asked_at: list[float]) -> Child | None:
    """Waits for all; returns the one that failed first, after which the others are stopped.

    Servers that a signal has ended are started again, `max_restarts` times in all, without what JAXDIST_FAULT said.
    """
    first: Child | None = None
    running = list(children)
    restarts, grace = options.max_restarts, options.grace_seconds
    deadline = float("inf")
    while running:
        for child in list(running):
            code = child.process.poll()
            if code is None:
                continue
            running.remove(child)

            crashed = code < 0 and child.name.startswith("server")
            if crashed and restarts and first is None and not asked_at:
                restarts -= 1
                child.finish()
                print(f"[{child.name}] ended with {code}; starting it again ({restarts} restarts left).", flush=True)
                again = Child(child.name, child.command, child.cpus, child.environ | {"JAXDIST_FAULT": ""})
                running.append(again)
                children.append(again)
                continue
            stopped = code in (0, STOPPED_AFTER_SAVING) or (code == STOPPED_WITH_NOTHING_TO_SAVE and asked_at)
            if not stopped and first is None:
                first = child
                if not options.keep_going:
                    # The others find out by themselves and say what they know; then they are stopped.
                    deadline = time.monotonic() + grace
        if asked_at and deadline == float("inf"):
            deadline = asked_at[0] + grace
        if time.monotonic() > deadline:
            if asked_at:
                for child in running:
                    child.killed_after = time.monotonic() - asked_at[0]
                _signal_all(running, signal.SIGKILL)
            else:
                _signal_all(running, signal.SIGTERM)
            deadline = time.monotonic() + 10
            asked_at.append(time.monotonic())
        time.sleep(0.05)
    return first


def _signal_all(children: list[Child], number: int) -> None:
    for child in children:
        if child.process.poll() is None:
            child.process.send_signal(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
