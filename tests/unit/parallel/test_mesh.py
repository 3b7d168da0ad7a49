"""Meshes from text, and which part of a batch each process holds."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from jaxdist.parallel import mesh


def test_meshes():
    assert mesh.parse("", 6) == {"data": 6}
    assert mesh.parse("data:2,model:2", 4) == {"data": 2, "model": 2}
    assert list(mesh.parse("model:2 data:3", 6)) == ["model", "data"]
    assert mesh.parse("model:4", 4) == {"data": 1, "model": 4}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data:2,model:2", "2 x 2 = 4 devices, and there are 6"),
        ("data:2,tensor:3", "axis 'tensor'; there are data and model"),
        ("data:2,data:3", "names the axis 'data' twice"),
        ("data=6", "'data=6' in 'data=6' is not NAME:SIZE"),
        ("data:0", "is not NAME:SIZE"),
    ],
)
def test_meshes_that_cannot_be(text, words):
    with pytest.raises(ValueError, match=words):
        mesh.parse(text, 6)


@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), st.data())
def test_every_share_of_the_batch_is_somewhere(data, model, data_first, draw):
    sizes = {"data": data, "model": model} if data_first else {"model": model, "data": data}
    processes = draw.draw(st.sampled_from([n for n in range(1, data * model + 1) if data * model % n == 0]))
    try:
        shares = mesh.shares(processes, sizes)
    except ValueError:  # such as 3 x 2 devices on 3 processes, data last: shares that overlap
        assert processes != data * model  # one device each always has one share
        return
    counts = {count for _, count in shares}
    assert len(counts) == 1 and {index for index, _ in shares} == set(range(counts.pop()))
