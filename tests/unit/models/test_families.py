"""Families by name, one's own included: which there are, and examples that they cannot take."""

from __future__ import annotations

import pytest
from helpers.families import build

from jaxdist import models


@pytest.mark.parametrize(("name", "shape"), [("densenet", (784,)), ("cnn", (28, 28)), ("cnn", (4, 4, 1))])
def test_examples_that_are_no_images_or_too_small_are_refused(name, shape):
    with pytest.raises(ValueError, match=r"a convolution takes images|too small"):
        build(name, shape).shapes  # noqa: B018


def test_a_family_gets_what_it_asks_for_of_the_settings_and_a_model_of_ones_own_its_options():
    own = models.build(
        "helpers.tiny_chain:build",
        inputs=(8, 8, 1), num_outputs=7, settings={"depth": 40}, options={"features": 6},
    )  # fmt: skip
    assert own.names == ("stem", "middle", "last", "head")
    assert own.activation_shapes["last"] == (4, 4, 6) and own.activation_shapes["head"] == (7,)
    family = build("cnn", (28, 28, 1), depth=40, growth_rate=12)
    assert family.names == build("cnn", (28, 28, 1)).names
    with pytest.raises(ValueError, match=r"model\.name='cnn' does not accept these options"):
        models.build("cnn", inputs=(28, 28, 1), num_outputs=7, settings={}, options={"colour": 3})
