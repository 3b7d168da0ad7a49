"""The knobs of the processes of a run."""

from jaxdist.comm import ports
from jaxdist.knobs import Knob, above_zero

KNOBS = (
    Knob(
        "cluster.timeout_seconds",
        60.0,
        "A process that is silent or stuck for so long is named, and the run ends.",
        above_zero,
    ),
    Knob(
        "cluster.address",
        "",
        "This host's address, name or interface, at which others reach it; '': the one that leads to process 0.",
        local=True,
    ),
    Knob(
        "cluster.port_range",
        "",
        "FIRST-LAST: everything that listens stays inside, but gloo, which takes a free port; '': free ports.",
        ports.must_be,
        local=True,
    ),
    Knob(
        "cluster.run_id",
        "",
        "The run's name, equal on all its processes; '': they must have the same --workdir instead.",
        local=True,
    ),
    Knob("cluster.connect_timeout_seconds", 300.0, "How long a process waits for the others at the start.", above_zero),
    Knob(
        "cluster.compile_timeout_seconds",
        900.0,
        "How long a process may compile, or do something else without an update.",
        above_zero,
    ),
    Knob("cluster.evaluate_timeout_seconds", 900.0, "How long an evaluation may take.", above_zero),
)
