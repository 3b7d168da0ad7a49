"""One device, one process."""

from jaxdist.strategies.knobs import ACCUMULATE
from jaxdist.strategies.spec import StrategySpec

SPEC = StrategySpec(
    name="single",
    knobs=(ACCUMULATE,),
    check="jaxdist.strategies.single.single:check",
    build="jaxdist.strategies.single.single:build",
    needs_collectives=lambda settings, num_processes: False,
    per_worker_data=lambda settings, num_processes, num_devices: num_processes == 1,
)
