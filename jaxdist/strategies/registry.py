"""The strategies there are: one line each. Knows names, and nothing of what is behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxdist.dotted import function_of
from jaxdist.errors import UsageError, nearest
from jaxdist.knobs import Knob
from jaxdist.strategies import data_parallel, parameter_server, pipeline, sharded, single
from jaxdist.strategies.knobs import MEMORY_LIMIT
from jaxdist.strategies.spec import BuildContext, Resources, Settings, StrategySpec

if TYPE_CHECKING:
    from jaxdist.strategies.base import Strategy
    from jaxdist.task import Task

SPECS: dict[str, StrategySpec] = {}


def register(spec: StrategySpec) -> None:
    """Makes a strategy known, and its knobs keys of every configuration made from now on.

    Raises:
      ValueError: there is another of that name, or another knob of that key.
    """
    if SPECS.get(spec.name, spec) is not spec:
        raise ValueError(f"There is a strategy {spec.name!r} already.")
    known = {knob.key: knob for knob in knobs()}
    for knob in spec.knobs:
        if not knob.key.startswith("strategy."):
            raise ValueError(f"The strategy {spec.name!r} declares {knob.key!r}, which is not of config.strategy.")
        if known.get(knob.key, knob) is not knob:
            raise ValueError(f"The strategy {spec.name!r} declares {knob.key!r}, which another strategy has.")
    SPECS[spec.name] = spec


def knobs() -> list[Knob]:
    """Those of all strategies, each once; `strategy.name` is not among them."""
    shared = (knob for spec in SPECS.values() for knob in spec.knobs)
    return list({knob.key: knob for knob in (*shared, MEMORY_LIMIT)}.values())


register(single.SPEC)
register(data_parallel.SPEC)
register(parameter_server.SPEC)
register(pipeline.SPEC)
register(sharded.SPEC)


def spec_of(name: str) -> StrategySpec:
    """Raises `UsageError` for a name that nobody has registered."""
    if name not in SPECS:
        raise UsageError(f"strategy.name={name!r} is not known{nearest(name, SPECS)}; one of {', '.join(SPECS)}.")
    return SPECS[name]


def check(settings: Settings, task: Task, **resources: Any) -> None:
    """Refuses what cannot work, before anything is built; `resources` as `Resources` takes them.

    Raises:
      UsageError: with the arithmetic and the remedy.
    """
    _function(spec_of(settings["name"]).check)(settings, task, Resources(**resources))


def check_partition(settings: Settings, partition: str, num_processes: int, num_devices: int) -> None:
    """Refuses data that are distributed over workers where several of them work on the same examples.

    Raises:
      UsageError: with the strategies that can.
    """
    if not spec_of(settings["name"]).per_worker_data(settings, num_processes, num_devices):
        able = [name for name, spec in SPECS.items() if spec.per_worker_data(settings, num_processes, num_devices)]
        raise UsageError(
            f"data.partition={partition!r} gives each worker data of its own, and strategy.name={settings['name']!r} "
            f"has none as it is set here: its processes work on the same examples. Use one of {', '.join(able)}."
        )


def build(settings: Settings, task: Task, **context: Any) -> Strategy:
    """The strategy that `config.strategy` describes; `context` as `BuildContext` takes it. Uses JAX's devices."""
    return _function(spec_of(settings["name"]).build)(settings, task, BuildContext(**context))


def observe(settings: Settings, task: Task, **context: Any) -> Any:
    """What an evaluator beside the run sees of it.

    Raises:
      UsageError: the strategy has nothing to observe.
    """
    spec = spec_of(settings["name"])
    if spec.observe is None:
        able = ", ".join(name for name, other in SPECS.items() if other.observe is not None)
        raise UsageError(
            f"--role=evaluator evaluates beside a run of strategy.name={able}; strategy.name={spec.name!r} evaluates "
            "by itself."
        )
    return _function(spec.observe)(task, BuildContext(**context))


def where_it_counts(knob: Knob) -> list[str]:
    """The names of the strategies to which a knob means something."""
    return [spec.name for spec in SPECS.values() if knob in spec.knobs]


def _function(found: Any) -> Any:
    """A function that is given itself, or as 'module:function'."""
    if not isinstance(found, str):
        return found
    return function_of(found, "a strategy's function")
