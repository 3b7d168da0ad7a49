"""One configuration with every knob that a room declares, locked; what processes must have alike of it."""

from __future__ import annotations

import importlib
import pathlib

import pytest
from ml_collections import ConfigDict

from jaxdist import config, strategies
from jaxdist.config import defaults
from jaxdist.errors import UsageError
from jaxdist.knobs import Knob

DECLARED = pathlib.Path(defaults.__file__).parents[1].glob("*/knobs.py")


def test_every_knob_is_a_key_and_every_key_a_knob():
    found, known = config.flatten(config.default_config()), defaults.all_knobs()
    assert found.keys() == known.keys()
    for key, knob in known.items():
        expected = knob.default.to_dict() if isinstance(knob.default, ConfigDict) else knob.default
        assert found[key] == (None if knob.unset else expected), key
    rooms = {path.parent.name: importlib.import_module(f"jaxdist.{path.parent.name}.knobs") for path in DECLARED}
    assert {"data", "optim", "strategies"} <= rooms.keys()
    for room, module in rooms.items():
        declared = getattr(module, "KNOBS", [knob for knob in vars(module).values() if isinstance(knob, Knob)])
        assert declared and all(known[knob.key] is knob for knob in declared), room


def test_it_is_locked_and_no_two_share_a_value():
    one, other = config.default_config(), config.default_config()
    for written in (one, one.optim, one.strategy):
        with pytest.raises(AttributeError, match="locked"):
            written.nothing_of_the_kind = 1
    one.optim.learning_rate = 7.0
    with one.unlocked():
        one.model.options.width = 3
    assert other.optim.learning_rate != 7.0 and "width" not in other.model.options
    assert "width" not in config.default_config().model.options


def test_options_are_kept_whole():
    written = config.default_config()
    with written.unlocked():
        written.data.options = ConfigDict({"num_train": 8, "shape": (8, 8, 1)})
    assert config.flatten(written)["data.options"] == {"num_train": 8, "shape": (8, 8, 1)}


def test_an_unknown_override_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"no configuration key 'optim.learning_rte'; nearest: 'optim.learning_rate'"):
        config.check_override("optim.learning_rte")
    for key in ("optim.learning_rate", "model.options.width", "seed"):
        config.check_override(key)


def test_processes_may_differ_in_what_does_not_change_the_numbers():
    written = config.default_config()
    left_out = config.flatten(written).keys() - config.comparable(written).keys()
    assert left_out == {key for key, knob in defaults.all_knobs().items() if knob.local}
    assert "data.data_dir" in left_out and not {"seed", "optim.momentum"} & left_out


def test_a_strategy_that_is_registered_has_its_knobs_there():
    spec = strategies.StrategySpec(
        name="mine", knobs=(Knob("strategy.every", 2, "steps of one update"),), check="a:b", build="a:b"
    )
    strategies.register(spec)
    try:
        assert config.default_config().strategy.every == 2
        written = config.default_config()
        written.strategy.name = "mine"
        config.validate(written)
    finally:
        del strategies.SPECS["mine"]
    assert "every" not in config.default_config().strategy


def test_a_key_is_declared_once(monkeypatch):
    twice = (*defaults.jaxdist.optim.knobs.KNOBS, Knob("seed", 1, "another's"))
    monkeypatch.setattr(defaults.jaxdist.optim.knobs, "KNOBS", twice)
    with pytest.raises(ValueError, match="'seed' is declared twice"):
        defaults.all_knobs()
