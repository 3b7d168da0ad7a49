"""What is no callback is refused; what callbacks are told is tested in `processes/test_callbacks.py`."""

from __future__ import annotations

import pytest

import jaxdist
from jaxdist.config import default_config


def test_what_is_no_callback_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(TypeError, match=r"callbacks\[1\] is a function, not a jaxdist\.Callback"):
        jaxdist.train_and_evaluate(default_config(), str(tmp_path), callbacks=[jaxdist.Callback(), lambda run: None])
    assert not list(tmp_path.iterdir())
