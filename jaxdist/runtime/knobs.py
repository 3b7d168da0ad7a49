"""The knobs of the process itself."""

from jaxdist.knobs import Knob, at_least_zero

KNOBS = (
    Knob(
        "compilation_cache",
        "",
        "Folder of compiled programs. '': $JAX_COMPILATION_CACHE_DIR, or ~/.cache/jaxdist/compilation. 'off': none.",
        local=True,
    ),
    Knob(
        "monitor.interval_seconds",
        2.0,
        "Seconds between two samples of CPU, memory and network in system/. 0: off.",
        at_least_zero,
        local=True,
    ),
)
