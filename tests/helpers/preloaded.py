"""Processes that have imported what every jaxdist process imports.

A fresh interpreter spends a second or two of a core on imports before jaxdist's first line runs, and the tests start
hundreds. Here one process, the standard library's fork server, imports once and is forked for each command:

    pytest ──first start──> fork server: imports jax, flax, orbax, grpc and jaxdist's rooms; traces a model
                                 ├── fork: the command's variables and arguments, then jaxdist/main.py as __main__
                                 └── fork: ...

What runs after the fork is what `python -m jaxdist.main` runs: the same file under the same name, in a process with an
id, signals and an exit status of its own. `test_main.py` of the processes starts the interpreter itself, as do all
tests of `tools/launch.py`.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from unittest import mock

_ROOMS = (
    *(f"jaxdist.roles.{role}" for role in ("worker", "server", "evaluator")),
    *(f"jaxdist.strategies.{one}.setup" for one in ("data_parallel", "sharded", "pipeline", "parameter_server")),
    *("jaxdist.runtime.monitor", "jaxdist.runtime.allocator", "ml_collections.config_flags", "tensorboardX"),
    *("multiprocessing.synchronize", "jaxlib.mlir.dialects.mhlo"),
    "helpers.traced",
)


class Preloaded:
    """`python -m MODULE ARGUMENTS`, forked; what of `subprocess.Popen` the tests use.

    Args:
      env: all variables of the process. Of those that JAX reads when it is imported, JAX_NUM_CPU_DEVICES and
        JAX_DISABLE_MOST_OPTIMIZATIONS count. (XLA reads its own with the first program.)
    """

    def __init__(self, module: str, arguments: Sequence[str], *, cwd: pathlib.Path, env: Mapping[str, str]) -> None:
        self.args = [module, *arguments]
        handle, path = tempfile.mkstemp(prefix="jaxdist-output-")
        os.close(handle)
        self._path, self._output = pathlib.Path(path), ""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(_ROOMS))
        self._process = context.Process(target=_main, args=(self.args, str(cwd), dict(env), path), daemon=True)
        with mock.patch.dict(os.environ, PYTHONPATH=env["PYTHONPATH"]):  # for the fork server, if it is the first
            self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0, self._path.read_bytes())
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Blocks until the process has ended; (what it has printed, None), however often it is asked."""
        self.wait(timeout)
        if self._path.exists():
            self._output = self._path.read_text(errors="replace")
            self._path.unlink()
        return self._output, None

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def _main(arguments: Sequence[str], cwd: str, environ: Mapping[str, str], output: str) -> None:
    """In the forked process; does not return."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what it starts in the background
    gc.freeze()  # what was imported is never garbage: looking through it again and again would copy its pages
    written = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(written, number)
        setattr(sys, stream, open(number, "w", buffering=1, closefd=False))  # noqa: SIM115 - for the process's life
    try:
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environ)
        sys.path[:] = [cwd, *environ["PYTHONPATH"].split(os.pathsep), *sys.path]
        import jax

        jax.config.update("jax_num_cpu_devices", int(environ.get("JAX_NUM_CPU_DEVICES", 1)))
        quickly = environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "0") == "1"
        jax.config.update("jax_disable_most_optimizations", quickly)
        sys.argv = [*arguments]
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)  # jaxdist.main ends the process itself
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
