"""What a strategy tells of itself before any of its code is loaded: its name, its knobs, what it needs. No jax here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxdist.comm.security import OPEN, Security
from jaxdist.knobs import Knob, Values
from jaxdist.profiling.windows import Window

if TYPE_CHECKING:
    from jaxdist.strategies.base import Strategy
    from jaxdist.strategies.process_group import ProcessGroup
    from jaxdist.task import Task

Settings = Mapping[str, Any]  # `config.strategy`, with the options of the phase


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """What there is to train on; `num_devices` counts those of all processes."""

    global_batch_size: int
    num_processes: int
    num_devices: int
    num_servers: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildContext:
    """Where a strategy is built.

    Attributes:
      group: the processes of the run as a whole.
      server_addresses: of the parameter servers, in order; `security`: what they ask for.
      signature: what all processes must have alike, for strategies whose processes do not meet before.
      timeouts: `config.cluster`.
      phase: which phase of the run this is the strategy of.
      reservation: what the run has reserved the servers by.
      momentum_ramp: (examples_seen, examples) over which the momentum grows to its value; None: it has it at once.
      data_parts: over how many workers the data are distributed; 0: all train on one stream.
      profile: what of the run is profiled, for what profiles besides this process.
    """

    global_batch_size: int
    group: ProcessGroup | None = None
    process_id: int = 0
    num_processes: int = 1
    server_addresses: Sequence[str] = ()
    security: Security = OPEN
    signature: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    timeouts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    phase: int = 0
    reservation: str = ""
    momentum_ramp: tuple[int, int] | None = None
    data_parts: int = 0
    profile: Sequence[Window] = ()

    @property
    def is_chief(self) -> bool:
        return self.process_id == 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class StrategySpec:
    """A strategy as the registry knows it.

    Functions are given themselves or as 'module:function', which is imported when it is called: so a strategy's knobs
    are known to whoever writes a configuration, and its code is loaded where it runs.

    Attributes:
      name: `strategy.name`.
      knobs: the options that mean something to it, those that it shares with others included.
      check: (settings, task, resources): refuses what cannot work, before anything is built, by `UsageError` with the
        arithmetic and the remedy.
      build: (settings, task, context) -> the strategy. Uses JAX's devices; is not collective.
      validate: (values): refuses values of its knobs that do not go together, whatever the cluster and the data.
      needs_collectives: (settings, number of processes) -> whether it runs over JAX's collectives.
      fate_sharing: a lost process ends the run; else it is the strategy's own affair.
      asynchronous: (settings) -> whether each push is an update of its own.
      per_worker_data: (settings, number of processes, of devices of all of them) -> whether each process alone brings
        its share of each update's examples, so that the data may be distributed over them.
      observe: (task, context) -> what an evaluator beside the run sees of it; None where there is nothing to see.
    """

    name: str
    knobs: tuple[Knob, ...] = ()
    check: Callable[[Settings, Task, Resources], None] | str
    build: Callable[[Settings, Task, BuildContext], Strategy] | str
    validate: Callable[[Values], None] | None = None
    needs_collectives: Callable[[Settings, int], bool] = lambda settings, num_processes: num_processes > 1
    fate_sharing: bool = True
    asynchronous: Callable[[Settings], bool] = lambda settings: False
    per_worker_data: Callable[[Settings, int, int], bool] = lambda settings, num_processes, num_devices: True
    observe: Callable[[Task, BuildContext], Any] | str | None = None
