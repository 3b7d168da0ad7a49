"""`python -m jaxdist.config` lists every key with its default, meaning and choices (`config/__main__.py`)."""

from __future__ import annotations

import runpy
import sys

from jaxdist.config.__main__ import describe
from jaxdist.config.defaults import all_knobs


def test_every_key_has_a_line_with_default_and_meaning():
    lines = describe().splitlines()
    assert len(lines) == len(all_knobs())
    for line, knob in zip(lines, all_knobs().values(), strict=True):
        assert line.startswith(f"{knob.key}={'unset' if knob.unset else repr(knob.default)} ")
        assert knob.meaning and knob.meaning in line


def test_choices_are_those_that_are_accepted():
    (name,) = (line for line in describe().splitlines() if line.startswith("strategy.name="))
    assert name.endswith("[single, allreduce, parameter_server, pipeline, model_parallel, switch]")
    (rule,) = (line for line in describe().splitlines() if line.startswith("optim.name="))
    assert "adam" in rule and rule.endswith(", module:function]")
    (seed,) = (line for line in describe().splitlines() if line.startswith("seed="))
    assert "[" not in seed


def test_the_command_prints_it(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "jaxdist.config.__main__")  # or a warning would say that it is there already
    runpy.run_module("jaxdist.config", run_name="__main__", alter_sys=True)
    assert capsys.readouterr().out == describe() + "\n"
