"""JAX's profiler, opened and closed, and names for what a process does besides running programs.

The Python tracer is off: with it a step took 259 -> 347 ms. A `span` costs a look at one variable while no trace runs.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import jax

# What a span may be called: what training waits for or does, besides the programs of the model.
DATA_WAIT = "data wait"
SERVER_WAIT = "server wait"
PIPELINE_WAIT = "pipeline idle"
DEVICE_WAIT = "device wait"
STEP = "Python of a step"
DISPATCH = "dispatch"
PUSH = "push"
PUSH_PULL = "push and pull"  # a push's last part, the update that it waits for, and the answer's first part
PULL = "pull"
SERVER_UPDATE = "server-side update"
SERVER_PUSH = "server takes a push"
SERVER_PULL = "server answers a pull"
SEND = "send"
PREPROCESS = "preprocess"
LOGGING = "logging"
EVALUATION = "evaluation"
CHECKPOINT = "checkpoint"

# What the training loop calls its activities -> the spans that they are.
ACTIVITIES = {"evaluate": EVALUATION, "checkpoint": CHECKPOINT}

F = TypeVar("F", bound=Callable[..., Any])
_NOTHING = contextlib.nullcontext()
_tracing = threading.Event()


def span(name: str | None) -> contextlib.AbstractContextManager[Any]:
    """Names what this thread does meanwhile, in the trace that runs; nothing where none does, or without a name."""
    return jax.profiler.TraceAnnotation(name) if name is not None and _tracing.is_set() else _NOTHING


def named(name: str) -> Callable[[F], F]:
    """Each call of a function is such a span."""

    def wrap(function: F) -> F:
        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with span(name):
                return function(*args, **kwargs)

        return cast(F, inside)

    return wrap


def is_tracing() -> bool:
    return _tracing.is_set()


class Trace:
    """One trace of this process; only one can run at a time.

    Raises:
      RuntimeError: another one runs in this process.
      OSError: no folder can be made.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="jaxdist-trace-", ignore_cleanup_errors=True)
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        options.host_tracer_level = 1
        try:
            jax.profiler.start_trace(self._folder.name, profiler_options=options)
        except BaseException:
            self._folder.cleanup()
            raise
        _tracing.set()

    def stop(self) -> None:
        """Ends it; what it has written is there. Blocks while the profiler writes. Idempotent."""
        if _tracing.is_set():
            _tracing.clear()
            jax.profiler.stop_trace()

    def path(self) -> pathlib.Path:
        """Of what was written.

        Raises:
          OSError: the profiler has written nothing, as it does above a million events or 2 GB.
        """
        found = sorted(pathlib.Path(self._folder.name).rglob("*.xplane.pb"))
        if not found or not os.path.getsize(found[0]):
            raise OSError("the profiler has written no trace: it holds a million events at most")
        return found[0]

    def close(self) -> None:
        """Ends it, and forgets it."""
        self.stop()
        self._folder.cleanup()


@contextlib.contextmanager
def tracing() -> Iterator[Trace]:
    """A trace that is ended and forgotten when this is left."""
    trace = Trace()
    try:
        yield trace
    finally:
        trace.close()


def programs() -> list[Any]:
    """The optimised programs that this process holds, with the names of their operations (HLO modules).

    Held by reference: their text is made when it is asked for.
    """
    found = []
    for device in jax.local_devices()[:1]:
        for executable in device.client.live_executables():
            found += executable.hlo_modules()
    return found
