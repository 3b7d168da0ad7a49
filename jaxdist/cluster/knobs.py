"""The knobs of the processes of a run."""

from jaxdist.knobs import Knob, above_zero

KNOBS = (
    Knob("cluster.timeout_seconds", 60.0, "a silent or stuck process is given up after this, and named", above_zero),
    Knob("cluster.connect_timeout_seconds", 300.0, "waiting for the others at the start", above_zero),
    Knob("cluster.compile_timeout_seconds", 900.0, "limit of phases in which no update is made", above_zero),
    Knob("cluster.evaluate_timeout_seconds", 900.0, "limit of an evaluation", above_zero),
)
