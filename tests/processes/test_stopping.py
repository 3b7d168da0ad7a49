"""SIGTERM and SIGINT before there is anything to save: wherever a process waits, it ends at once, and says so.

SIGTERM during training: `test_data_parallel.py`, `test_switch.py` and their neighbours.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from free_ports import free_port
from helpers.compiled import OPTIMIZED
from helpers.processes import ROOT, TINY_CONFIG, Run, environment, main_command, start, wait_for_checkpoint
from helpers.waiting import wait_until

SECONDS = 2.0  # promised; a machine that is busy with other tests has as much again
SERVERS = {"strategy__name": "parameter_server"}
TAKES_LONG = {"model__name": "densenet", "model__depth": 40, "model__growth_rate": 12, "model__param_dtype": "float32"}


def flags(process: int) -> list[str]:
    return ["--coordinator_address=127.0.0.1:PORT", "--num_processes=2", f"--process_id={process}"]


def servers(role: str) -> list[str]:
    return ["--server_addresses=127.0.0.1:PORT", f"--role={role}", "--server_index=0"]


FOR_EVER, INSIDE_C = (
    {"data__name": f"helpers.faulty_data:{name}"} for name in ("that_takes_for_ever", "stuck_inside_c")
)
# What a process is busy with: its command's flags and settings, and the words in its log after which the signal comes.
BUSY = {
    "for process 1": (flags(0), {}, "rendezvous at"),
    "for process 0": (flags(1), {}, "rendezvous at"),
    "for a server": (servers("worker"), SERVERS, "pid"),
    "a server, for a run": (servers("server"), SERVERS, "serves at"),
    "an evaluator, for servers": (servers("evaluator"), SERVERS, "pid"),
    "for data": ([], FOR_EVER, "Reading for ever"),
    "where no handler runs": ([], INSIDE_C, "Reading for ever"),
    "interrupted": ([], INSIDE_C, "Reading for ever"),
}


def end_by(process, number: int) -> tuple[int, str, float]:
    """Exit code, last line, and seconds that a process took to end after a signal."""
    begin = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output.splitlines()[-1], time.monotonic() - begin


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> dict[str, tuple[int, str, float]]:
    """All of `BUSY`, started at once and then stopped one after the other."""
    folder = tmp_path_factory.mktemp("stopping")
    found = {}
    with Run(folder, 0) as run:
        for name, (own, settings, _) in BUSY.items():
            own = [flag.replace("PORT", str(free_port())) for flag in own]
            run.processes.append(start(main_command(folder / name, *own, **settings), {}))
        for process, (name, (_, _, words)) in zip(run.processes, BUSY.items(), strict=True):
            wait_for_words(folder / name, words)
            time.sleep(0.3)
            found[name] = end_by(process, signal.SIGINT if name == "interrupted" else signal.SIGTERM)
    return found


def is_stopped(log: pathlib.Path) -> bool:
    """Whether the process that writes this log stands still."""
    pid = re.search(r"pid (\d+)", log.read_text()) if log.exists() else None
    return pid is not None and pathlib.Path(f"/proc/{pid[1]}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def wait_for_words(folder, words: str) -> None:
    wait_until(lambda: any(words in p.read_text() for p in (folder / "logs").glob("*.log")), words)


@pytest.mark.parametrize("name", sorted(BUSY.keys() - {"interrupted"}))
def test_sigterm_ends_a_process_that_has_nothing_to_save(ended, name):
    code, last, seconds = ended[name]
    assert code == 143, ended
    assert last.startswith("jaxdist: stopped: SIGTERM came"), last
    assert seconds < 2 * SECONDS


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_compilation_is_not_waited_for(tmp_path, number):
    with Run(tmp_path, 1, env=OPTIMIZED | {"JAX_ENABLE_COMPILATION_CACHE": "false"}, **TAKES_LONG) as run:
        wait_for_words(tmp_path, "Compiling the training step")
        time.sleep(3.0)
        code, last, seconds = end_by(run.processes[0], number)
    assert code == (143 if number == signal.SIGTERM else 130) and last.startswith("jaxdist: stopped:")
    assert seconds < 2 * SECONDS


def test_sigint_reaches_a_process_where_no_handler_runs(ended):
    code, last, seconds = ended["interrupted"]
    assert (code, last) == (130, "jaxdist: stopped: interrupted (SIGINT)") and seconds < 2 * SECONDS


def test_with_a_checkpoint_the_run_can_be_taken_up_again(tmp_path):
    """A resumed run that is stopped while it compiles: nothing is lost, the code says so, the other process too."""
    settings = {"num_epochs": 50.0, "checkpoint__every_updates": 5}
    with Run(tmp_path, 2, **settings) as run:
        wait_for_checkpoint(tmp_path, 5)
        for p in run.processes:
            p.send_signal(signal.SIGTERM)
        assert [e.code for e in run.wait()] == [75, 75]
    before = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    with Run(tmp_path, 2, fault="delay@process=0,point=compile,seconds=30", **settings) as run:
        log = tmp_path / "logs" / "worker-0.log"
        wait_until(lambda: log.read_text().count("Compiling the training step") == 2, "compilation")
        begin = time.monotonic()
        run.processes[0].send_signal(signal.SIGTERM)
        ended = run.wait()
    assert time.monotonic() - begin < 3 * SECONDS
    assert [e.code for e in ended] == [75, 75], ended
    assert "before training went on from update" in ended[0].output.splitlines()[-1]
    assert ended[1].output.splitlines()[-1].startswith("jaxdist: stopped:")
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == before


def test_the_launcher_says_what_it_has_killed(tmp_path):
    """One that gives no answer (SIGSTOP) is killed after the grace period, by the launcher, which is not the memory's
    fault; nobody has saved anything."""
    words = ["--num_workers=2", "--grace_seconds=3", "--", f"--config={TINY_CONFIG}", f"--workdir={tmp_path}"]
    env = environment() | {"JAXDIST_FAULT": "stop@process=1,point=compile;delay@process=0,point=compile,seconds=60"}
    command = [sys.executable, "tools/launch.py", *words]
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
        try:
            wait_for_words(tmp_path, "Compiling")
            wait_until(lambda: is_stopped(tmp_path / "logs" / "worker-1.log"), "worker that stands still")
            p.send_signal(signal.SIGTERM)
            output, _ = p.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                p.kill()
    assert "worker 1 did not end within 3 s of SIGTERM and was killed" in output, output[-2000:]
    assert "out of memory" not in output
