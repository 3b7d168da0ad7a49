"""What values a configuration may have, whatever the cluster and the data."""

from __future__ import annotations

from ml_collections import ConfigDict

import jaxdist.config.run
import jaxdist.models.knobs
from jaxdist.config import phases
from jaxdist.config.defaults import all_knobs, check_override, flatten
from jaxdist.errors import UsageError
from jaxdist.knobs import Knob, Values
from jaxdist.strategies import registry


def validate(config: ConfigDict) -> None:
    """Refuses values that cannot mean anything.

    Raises:
      UsageError: which key, its value and what is allowed.
    """
    values, known = flatten(config), all_knobs()
    for key in values:
        check_override(key)
    missing = [key for key in known if key not in values]
    if missing:
        raise UsageError(f"The configuration lacks {missing[0]!r}: start from jaxdist.config.default_config().")
    for knob in known.values():
        knob.check(values[knob.key])
    jaxdist.models.knobs.check(values)
    jaxdist.config.run.check(values)
    for spec in registry.SPECS.values():
        if spec.validate is not None:
            spec.validate(values)
    name = values["strategy.name"]
    for knob in known.values():
        if knob.only_where_it_counts and values[knob.key] != knob.default:
            _check_counts(knob, values, name)
    if phases.is_scheduled(config.strategy):
        _validate_phases(config)


def _check_counts(knob: Knob, values: Values, name: str) -> None:
    """Refuses a knob that would silently do nothing."""
    where = phases.where_it_counts(knob)
    if name not in where:
        raise UsageError(
            f"{knob.key}={values[knob.key]!r} means nothing to strategy.name={name!r}: use strategy.name={where[0]!r}."
        )


def _validate_phases(config: ConfigDict) -> None:
    """Refuses a schedule that cannot be read, and phases with values that cannot mean anything."""
    for phase in phases.schedule_of(config.strategy).phases:
        alone = config.copy_and_resolve_references()
        try:
            alone.strategy.update(phases.unscheduled() | phase.options | {"name": phase.name})
            validate(alone)
        except (UsageError, TypeError, ValueError) as e:
            raise UsageError(f"strategy.schedule: the phase {str(phase)!r}: {' '.join(str(e).split())}") from None
