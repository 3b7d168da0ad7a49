"""Named tensors in flat vectors: packed and unpacked, cut among servers, compared.

What a server makes of its part is held by `contract/`.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdist.parallel.flat_layout import Layout, pack, unpack

NAMES = st.tuples(st.sampled_from("abcd"), st.sampled_from(["kernel", "bias", "scale"])).map("/".join)
SHAPES = st.dictionaries(NAMES, st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1)


def arrays(shapes):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@given(SHAPES, SHAPES, st.integers(1, 5))
def test_servers_hold_equal_shares_and_everything_once(params, stats, count):
    named = arrays(params)
    layout = Layout.of(named, arrays(stats))
    vector = pack(layout.params, named)
    assert vector.size == layout.num_params == sum(a.size for a in named.values())
    for name, array in unpack(layout.params, vector).items():
        np.testing.assert_array_equal(array, named[name])
    shards = [layout.shard(i, count) for i in range(count)]
    held = [vector[shard.params] for shard in shards]
    np.testing.assert_array_equal(np.concatenate(held), vector)
    assert max(part.size for part in held) - min(part.size for part in held) <= 1
    assert sum(shard.num_stats for shard in shards) == layout.num_stats
    assert sum(shard.num_bytes for shard in shards) == 4 * (layout.num_params + layout.num_stats)
    assert all(sum(shard.groups.values()) == shard.num_params for shard in shards)
    groups = {kind: [] for kind in ("kernel", "bias", "scale")}
    for shard, part in zip(shards, held, strict=True):
        for kind, values in shard.split(part).items():
            groups[kind].append(values)
    for kind, found in groups.items():
        wanted = [named[name].reshape(-1) for name in sorted(named) if name.endswith(kind)]
        np.testing.assert_array_equal(np.concatenate([*found, []]), np.concatenate([*wanted, []]))


def test_a_tensor_larger_than_a_share_is_split():
    layout = Layout.of({"big/kernel": np.zeros(1000), "small/bias": np.zeros(2)}, {})
    assert [layout.shard(i, 3).num_params for i in range(3)] == [334, 334, 334]


def test_layouts_that_differ_say_where():
    one = Layout.of(arrays({"a/kernel": (2, 3), "a/bias": (3,)}), arrays({"a/mean": (3,)}))
    for params, stats, words in (
        (
            {"a/kernel": (3, 2), "a/bias": (3,)},
            {"a/mean": (3,)},
            r"'a/kernel' float32\[2, 3\], the caller 'a/kernel'",
        ),
        ({"a/kernel": (2, 3)}, {"a/mean": (3,)}, r"has 'a/bias' float32\[3\], the caller does not"),
        ({"a/kernel": (2, 3), "a/bias": (3,)}, {"a/mean": (3,), "b": ()}, "has no 'b', the caller 'b'"),
    ):
        found = one.difference(Layout.of(arrays(params), arrays(stats)))
        with pytest.raises(AssertionError, match=words):
            assert not found, found
    assert one.difference(one) == ""


def test_what_does_not_fit_is_refused():
    named = arrays({"a": (2,), "b": (3,)})
    layout = Layout.of(named, {})
    with pytest.raises(ValueError, match=r"'a' has shape \(1,\) instead of \(2,\)"):
        pack(layout.params, named | {"a": np.zeros(1)})
    with pytest.raises(KeyError):
        pack(layout.params, {"a": named["a"]})
    with pytest.raises(ValueError, match="must share one dtype, not float32, float64"):
        Layout.of(named | {"c": np.zeros(2)}, {})
    assert list(itertools.chain(*(t.shape for t in layout.params))) == [2, 3]
