"""`python -m jaxdist.main --config=FILE --workdir=DIR`: one process of a run."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which would be made twice
    from jaxdist.runtime.allocator import restart_with_large_pages

    restart_with_large_pages("jaxdist.main")

import contextlib
import faulthandler
import logging
import math
import os
import pathlib
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from jaxdist import cluster as cluster_lib
from jaxdist import config as config_lib
from jaxdist.errors import NotSaved, PeerError, Preempted, Terminated, Unhealthy, UsageError, ending
from jaxdist.runtime import last_words, monitor, process_start, prometheus, standard_streams, stop_signal
from jaxdist.runtime.allocator import keep_freed_memory
from jaxdist.train.shown_rows import ShownRows

_SERVER_SECONDS = 30.0

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file, then --config.KEY=VALUE.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory; a run in it is resumed.")
_ROLE = flags.DEFINE_enum("role", "worker", ["worker", "server", "evaluator"], "What this process is.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of workers.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which worker this is, from 0.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of process 0, which listens there; the rest listens in --config.cluster.port_range (gloo: at any port).",
)
_RUN_ID = flags.DEFINE_string("run_id", None, "The run's name, where its processes have different --workdir.")
_SERVERS = flags.DEFINE_list(
    "server_addresses", [], "HOST:PORT of all parameter servers, in order: a server listens at its own alone."
)
_SERVER_INDEX = flags.DEFINE_integer("server_index", None, "Which of them a server is.")
_CHECK = flags.DEFINE_bool("check", False, "Check data, model, cluster and disk; start and write nothing.")
_WARM_UP = flags.DEFINE_bool(
    "warm_up", False, "Compile what the run's first update and evaluation need, keep it in the cache, and end."
)
_INSECURE = flags.DEFINE_bool("insecure", False, "The run may reach beyond this machine without JAXDIST_TOKEN.")
_WITH_SERVER = flags.DEFINE_bool("with_server", False, "Start server --server_index on this host as a child.")


def main(argv: Sequence[str]) -> int:
    """Runs one process; returns its exit code (0 done, 1 failed, 2 bad input, 75 stopped after saving, 130 interrupted,
    143 stopped with nothing to save)."""
    begin = process_start.started()
    if "--help" in argv:
        print(flags.FLAGS.module_help(sys.modules[__name__]))
        return 0
    with stop_signal.sigterm_as_stop_signal(end_process=True) as stop:
        stop.end_at_once(Terminated("SIGTERM came before training began: there was nothing to save."))
        return _run(argv, stop, begin)


def _run(argv: Sequence[str], stop: stop_signal.StopSignal, begin: float) -> int:
    with contextlib.ExitStack() as stack:
        return _run_until_end(argv, stop, begin, stack)


def _run_until_end(argv: Sequence[str], stop: stop_signal.StopSignal, begin: float, stack: contextlib.ExitStack) -> int:
    """`stack` is closed when the last line has been said."""
    try:
        workdir = _parse_flags(argv)
        keep_freed_memory()
        cluster = cluster_lib.detect(
            role=_ROLE.value,
            coordinator_address=_COORDINATOR.value,
            num_processes=_NUM_PROCESSES.value,
            process_id=_PROCESS_ID.value,
            server_addresses=_SERVERS.value,
            server_index=_SERVER_INDEX.value,
            run_id=_RUN_ID.value or _CONFIG.value.cluster.run_id,
            insecure=_INSECURE.value,
        )
        config_lib.validate(_CONFIG.value)
        if _CHECK.value:
            logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
            _quieten_others()
            from jaxdist.roles import check

            return _end(0, check.run(_CONFIG.value, workdir, cluster))
        if _WARM_UP.value:
            if cluster.role == "evaluator":
                return _end(0, "an evaluator compiles its one program when it first evaluates.")
            from jaxdist.roles import warm_up

            workdir, cluster = stack.enter_context(warm_up.shortened(_CONFIG.value, workdir, cluster))
        name = cluster.role if cluster.role == "evaluator" else f"{cluster.role}-{cluster.number}"
        _start_logging(workdir, name)
        settings = _CONFIG.value.monitor
        with (
            prometheus.serving(settings, cluster.role, cluster.number) as shown,
            monitor.sampling(workdir, name, settings.interval_seconds, shown.show_sample if shown else None),
        ):
            if cluster.role == "server":
                from jaxdist.roles import server

                code, text = server.serve(
                    _CONFIG.value, workdir, cluster, stop_signal=stop, show=shown.show if shown else None
                )
                return _end(code, text or f"server {cluster.server_index} has served its run to the end.")
            callbacks = [ShownRows(shown.show)] if shown else []
            if cluster.role == "evaluator":
                from jaxdist.roles import evaluator

                stop.end_at_once(Terminated("SIGTERM came to the evaluator, which has nothing to save."))
                done = evaluator.run(_CONFIG.value, workdir, cluster, callbacks)
                return _end(0, f"the evaluator has evaluated {done} versions.")
            from jaxdist.roles import worker  # after the flags: a typing error need not wait for JAX

            with _server_beside(argv) if _WITH_SERVER.value else contextlib.nullcontext():
                summary = worker.run(_CONFIG.value, workdir, cluster, callbacks, stop, begin=begin)
    except (UsageError, PeerError, Unhealthy, NotSaved, Preempted, Terminated, KeyboardInterrupt) as e:
        return _end(*ending(e))
    except Exception as e:
        logging.error("%s", traceback.format_exc())
        words = str(e) or f"(it says nothing; the log has where it was raised, {_place(e)})"
        return _end(1, f"{type(e).__name__}: {words}")
    if _WARM_UP.value:
        return _end(0, warm_up.words())
    if not cluster.is_chief:
        return _end(0, f"worker {cluster.process_id} has done its part of {summary['updates']} updates.")
    print(f"{_found(summary)} after {summary['elapsed_seconds']:.0f} s.", flush=True)
    early = ", stopped early by early_stopping_patience" if summary["stopped_early"] else ""
    place = pathlib.Path(workdir).resolve()
    words = f"{summary['updates']} updates{early}; results are in {place} (summary.json, metrics.jsonl, tensorboard/)."
    return _end(0, words)


def _found(summary: Mapping[str, Any]) -> str:
    """'Validation accuracy 89.72 %', or of another objective its first metric, or the loss."""
    kept = {key: value for key, value in summary.items() if key.startswith("validation_") and value is not None}
    numbers = [key for key, value in kept.items() if isinstance(value, int | float)]
    key = next((key for key in numbers if key != "validation_loss"), "validation_loss")
    shown = f"{100 * kept[key]:.2f} %" if key.endswith("accuracy") else f"{kept.get(key, math.nan):.4g}"
    return f"{key.replace('_', ' ').capitalize()} {shown}"


@contextlib.contextmanager
def _server_beside(argv: Sequence[str]) -> Iterator[None]:
    """The host's parameter server as a child with the same flags. It lives as long as the run, which may be longer than
    this worker's part of it."""
    child = subprocess.Popen([sys.executable, "-m", "jaxdist.main", *argv[1:], "--role=server", "--nowith_server"])
    try:
        yield
    except BaseException:
        child.terminate()  # it ends unless a run goes on without this worker
        raise
    finally:
        try:
            child.wait(_SERVER_SECONDS)
        except subprocess.TimeoutExpired:
            logging.warning("The server (pid %d) goes on without this worker.", child.pid)


def _parse_flags(argv: Sequence[str]) -> str:
    """Reads the flags; returns the run directory."""
    try:
        flags.FLAGS(list(argv))
        if _CONFIG.value is not None:
            list(_CONFIG.value)  # an experiment file that failed to load says so when it is first looked at
    except flags.Error as e:
        _check_overrides(argv)
        raise UsageError(" ".join(str(e).split())) from e
    except (OSError, ImportError, SyntaxError, AttributeError, KeyError, TypeError, ValueError) as e:
        if isinstance(e, AttributeError | KeyError):  # an unknown key; not what an experiment file fails to import
            _check_overrides(argv)
        raise UsageError(f"--config: {type(e).__name__}: {' '.join(str(e).split())}") from e
    _check_overrides(argv)
    if _CONFIG.value is None or _WORKDIR.value is None:
        raise UsageError("Both --config=FILE and --workdir=DIR are needed.")
    return os.path.expanduser(_WORKDIR.value)  # a shell leaves the ~ of --workdir=~/run alone


def _check_overrides(argv: Sequence[str]) -> None:
    """Refuses unknown keys by name, once the experiment file has been read: it may have registered a strategy."""
    for argument in argv[1:]:
        if argument.startswith(("--config.", "-config.")):
            config_lib.check_override(argument.lstrip("-").removeprefix("config.").partition("=")[0])


def _start_logging(workdir: str, name: str) -> None:
    """To standard error, and to a file of this process's own in the run directory."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    logs = pathlib.Path(workdir) / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
        handlers.append(_LogFile(logs / f"{name}.log"))
    except OSError as e:
        raise UsageError(f"--workdir={workdir} cannot be written: {e.strerror or e}.") from e
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=handlers, force=True
    )
    _quieten_others()
    logging.info("jaxdist process %s, pid %d, host %s", name, os.getpid(), socket.gethostname())


class _LogFile(logging.FileHandler):
    """What a full disk does not take is said once, on standard error, and ends nothing."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.failed:
            self.failed = True
            print(f"The log file {self.baseFilename} cannot be written any more.", file=sys.stderr, flush=True)


def _quieten_others() -> None:
    for chatty in ("absl", "orbax", "jax", "etils"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _place(error: BaseException) -> str:
    """Where an error was raised: 'file.py:12'."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{pathlib.Path(last.filename).name}:{last.lineno}"


def _end(code: int, words: str) -> int:
    """Says the last line; returns the exit code."""
    return last_words.say(code, words)


if __name__ == "__main__":
    standard_streams.secure()
    faulthandler.enable()
    code = main(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: threads in C++ may never return, and everything worth keeping is written and closed by now.
    os._exit(code)
