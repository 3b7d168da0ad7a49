"""Every knob that there is, collected from the rooms that declare them, as one locked configuration. Imports no jax.

`python -m jaxdist.config` prints them all, with defaults and meanings.
"""

from __future__ import annotations

import copy
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

import jaxdist.checkpoint.knobs
import jaxdist.cluster.knobs
import jaxdist.config.run
import jaxdist.data.knobs
import jaxdist.models.knobs
import jaxdist.optim.knobs
import jaxdist.profiling.knobs
import jaxdist.runtime.knobs
import jaxdist.task.knobs
from jaxdist.config import phases
from jaxdist.errors import UsageError, nearest
from jaxdist.knobs import Knob, Values
from jaxdist.strategies import registry

STRATEGY_NAME = Knob(
    "strategy.name", "allreduce", "The way in which training is distributed.", choices="jaxdist.config.phases:names"
)


def all_knobs() -> dict[str, Knob]:
    """{key: knob}, those of strategies that were registered by now included."""
    every = [
        *jaxdist.config.run.KNOBS,
        *jaxdist.data.knobs.KNOBS,
        *jaxdist.models.knobs.KNOBS,
        *jaxdist.task.knobs.KNOBS,
        *jaxdist.optim.knobs.KNOBS,
        STRATEGY_NAME,
        *registry.knobs(),
        *phases.KNOBS,
        *jaxdist.checkpoint.knobs.KNOBS,
        *jaxdist.cluster.knobs.KNOBS,
        *jaxdist.runtime.knobs.KNOBS,
        *jaxdist.profiling.knobs.KNOBS,
    ]
    found = {knob.key: knob for knob in every}
    for knob in every:
        if found[knob.key] is not knob:
            raise ValueError(f"{knob.key!r} is declared twice.")
    return found


def default_config() -> ConfigDict:
    """The defaults, to be overridden by an experiment file and then by `--config.KEY=VALUE`. Locked."""
    config = ConfigDict()
    for knob in all_knobs().values():
        group, _, name = knob.key.rpartition(".")
        if group and group not in config:
            config[group] = ConfigDict()
        within = config[group] if group else config
        within[name] = placeholder(knob.unset) if knob.unset else copy.copy(knob.default)
    return config.lock()


def flatten(config: Any, prefix: str = "") -> Values:
    """{'optim.learning_rate': 0.1, ...}; `options` dictionaries are kept whole."""
    found: Values = {}
    for key in config:
        value = config[key]
        if isinstance(value, ConfigDict) and key != "options":
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value.to_dict() if isinstance(value, ConfigDict) else value
    return found


def check_override(key: str) -> None:
    """Refuses `--config.KEY=...` with an unknown key, naming the nearest.

    Raises:
      UsageError: no such key.
    """
    known = all_knobs()
    if key not in known and ".options." not in key:
        raise UsageError(f"There is no configuration key {key!r}{nearest(key, known)}.")


def comparable(config: ConfigDict) -> Values:
    """The values that must be equal on all processes."""
    known = all_knobs()
    return {key: value for key, value in flatten(config).items() if key not in known or not known[key].local}
