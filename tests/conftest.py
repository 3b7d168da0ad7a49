"""Eight fake CPU devices, and a compilation cache shared by the tests and their subprocesses."""

import contextlib
import os
import pathlib
import tempfile

from helpers import compiled

compiled.choose()
CACHE = os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(tempfile.gettempdir()) / f"jaxdist-tests-{os.getuid()}")
)

# Built once, also for processes that a test gives a home of their own.
os.environ.setdefault("JAXDIST_NATIVE_DIR", str(pathlib.Path("~/.cache/jaxdist/native").expanduser()))

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

# Machines are slow now and then; tests have time-outs.
_SLOW = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("jaxdist", deadline=None, suppress_health_check=_SLOW)
hypothesis.settings.load_profile("jaxdist")
jax.config.update("jax_num_cpu_devices", 8)


def pytest_sessionstart(session):
    """Builds the native kernels once, before the processes of the tests begin: where and as a user's run does."""
    from jaxdist.cxx_library import CannotBuild
    from jaxdist.ops.native.compiler import build

    if not hasattr(session.config, "workerinput"):  # xdist's own processes come later
        with contextlib.suppress(CannotBuild):
            build()


@pytest.fixture(autouse=True, scope="session")
def _compilation_cache():
    from jaxdist.runtime import compilation

    compilation.enable_cache(CACHE)


@pytest.fixture(autouse=True)
def _operations_by_xla():
    """Whatever back end a test has chosen for its operations."""
    yield
    from jaxdist.ops import backend

    backend.use(backend.XLA)


@pytest.fixture
def x64():
    """float64 for one test, on every thread."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
