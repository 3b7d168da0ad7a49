"""Functions that a configuration names as module:function."""

from __future__ import annotations

import pytest

from jaxdist.dotted import function_of


@pytest.mark.parametrize("name", ["nowhere_at_all:f", "math:nothing", ":f", "math:pi"])
def test_functions_that_are_not_there(name):
    with pytest.raises(ValueError, match=r"^optim\.name='.*' (cannot be imported|is a float)"):
        function_of(name, "optim.name")
