"""The knobs of the process itself."""

from jaxdist.knobs import Knob, at_least_zero
from jaxdist.runtime.prometheus import PORTS


def _leaves_ports(port: int) -> str:
    return "" if 0 <= port <= 65535 - PORTS else f"0, or a port up to {65535 - PORTS}: processes have ports above it"


KNOBS = (
    Knob(
        "compilation_cache",
        "",
        "Folder of compiled programs. '': $JAX_COMPILATION_CACHE_DIR, or ~/.cache/jaxdist/compilation. 'off': none.",
        local=True,
    ),
    Knob(
        "ops.backend",
        "auto",
        "xla, or native: C++ kernels for float32 on CPUs. auto: native where they can be built.",
        choices=("auto", "xla", "native"),
        local=True,
    ),
    Knob(
        "monitor.interval_seconds",
        2.0,
        "Seconds between two samples in system/ of CPU and memory (the host's, and this process's own without those "
        "that decode for it, data.workers), network and disk. 0: off.",
        at_least_zero,
        local=True,
    ),
    Knob(
        "monitor.prometheus_port",
        0,
        "Metrics for Prometheus: worker I at this port + I, server J at + 1000 + J, an evaluator at + 999. 0: off.",
        _leaves_ports,
        local=True,
    ),
    Knob(
        "monitor.prometheus_address",
        "127.0.0.1",
        "Where they are served, to anybody who asks: this host's address; 0.0.0.0 for all of them.",
        local=True,
    ),
)
