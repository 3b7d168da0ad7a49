"""The knobs of the process itself."""

from jaxdist.knobs import Knob, at_least_zero

KNOBS = (
    Knob(
        "compilation_cache",
        "",
        "folder; '' = $JAX_COMPILATION_CACHE_DIR or ~/.cache/jaxdist; 'off'",
        local=True,
    ),
    Knob(
        "monitor.interval_seconds",
        2.0,
        "between samples of CPU, memory and network in system/; 0 = off",
        at_least_zero,
        local=True,
    ),
)
