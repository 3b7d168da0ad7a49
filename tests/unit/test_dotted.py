"""Functions by name: found, refused with the key that names them, and given what they ask for."""

from __future__ import annotations

import os.path

import pytest

from jaxdist.dotted import asked_for, function_of


def test_functions_are_found_and_what_is_none_is_refused():
    assert function_of("os.path:join", "model.name") is os.path.join
    for name in ("os.path:jion", "no.such.module:f", ":join", "os.path"):
        with pytest.raises(ValueError, match=rf"model\.name='{name}' cannot be imported"):
            function_of(name, "model.name")
    with pytest.raises(ValueError, match=r"data\.name='os:sep' is a str, not a function"):
        function_of("os:sep", "data.name")


def test_a_function_gets_the_settings_that_it_has_parameters_for():
    def build(num_classes, *, depth=10, width=4): ...

    assert asked_for(build, {"depth": 40, "dropout": 0.1, "width": 2}) == {"depth": 40, "width": 2}


@pytest.mark.parametrize("name", ["nowhere_at_all:f", "math:nothing", ":f", "math:pi"])
def test_functions_that_are_not_there(name):
    with pytest.raises(ValueError, match=r"^optim\.name='.*' (cannot be imported|is a float)"):
        function_of(name, "optim.name")
