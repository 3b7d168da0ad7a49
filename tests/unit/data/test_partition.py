"""Who has which examples: each is somebody's, by the arguments alone; and each worker goes through its own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdist import data
from jaxdist.data.partition import EXAMPLES, parse
from jaxdist.errors import UsageError

CLASSES = 6
LABELS = np.random.default_rng(0).integers(CLASSES, size=240).astype(np.int32)
NUMBERS = np.random.default_rng(1).uniform(0, 1, 240).astype(np.float32)
TEXTS = ("iid", "dirichlet(alpha=0.3)", "shards(k=2)", "classes(k=3)", "continuous(strictness=0.7)")


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("text", TEXTS)
def test_every_example_is_one_worker_s(text, workers):
    text = text.replace("k=3", "k=6") if workers == 1 else text
    found = data.partition(text, LABELS, workers, seed=3, num_classes=CLASSES)
    assert len(found.parts) == workers
    assert sorted(np.concatenate(found.parts)) == list(range(240))
    again = data.partition(text, LABELS, workers, seed=3, num_classes=CLASSES)
    assert found.digest == again.digest
    if workers > 1:
        assert found.digest != data.partition(text, LABELS, workers, seed=4, num_classes=CLASSES).digest


def test_what_the_names_mean():
    def of(text, target=LABELS, workers=4):
        return data.partition(text, target, workers, seed=0, num_classes=CLASSES if target is LABELS else 0)

    assert [len(part) for part in of("sizes(1,2,5)", workers=3).parts] == [30, 60, 150]
    assert [len(part) for part in of("iid").parts] == [60] * 4
    own = [set(LABELS[part].tolist()) for part in of("classes(k=2)").parts]
    assert all(len(mine) == 2 for mine in own) and set.union(*own) == set(range(CLASSES))
    assert max(len(set(LABELS[part].tolist())) for part in of("shards(k=1)").parts) <= 3
    spread = {a: np.std(of(f"dirichlet(alpha={a})").targets(LABELS, CLASSES)["targets_per_worker"]) for a in (0.1, 100)}
    assert spread[0.1] > 2 * spread[100]
    strict = of("continuous(1)", NUMBERS).parts
    assert all(NUMBERS[a].max() <= NUMBERS[b].min() for a, b in itertools.pairwise(strict))
    means = [NUMBERS[part].mean() for part in of("continuous(strictness=0.0)", NUMBERS).parts]
    assert np.ptp(means) < 0.15 and np.ptp([NUMBERS[part].mean() for part in strict]) > 0.6


def test_a_table_of_targets():
    found = data.partition("iid", LABELS, 2, 0, CLASSES).targets(LABELS, CLASSES)
    assert np.sum(found["targets_per_worker"], axis=0).tolist() == np.bincount(LABELS).tolist()
    numbers = data.partition("continuous(1)", NUMBERS, 2, 0).targets(NUMBERS, 0)
    assert np.sum(numbers["targets_per_worker"]) == 240 and len(numbers["target_edges"]) == 11
    assert "targets_per_worker" not in data.partition("iid", np.zeros((8, 3)), 2, 0).targets(np.zeros((8, 3)), 0)


@given(
    st.sampled_from(["iid", "sizes(1,2,4)", "continuous(1)"]), st.integers(1, 5), st.integers(1, 40), st.integers(0, 9)
)
@settings(max_examples=40)
def test_a_worker_s_positions_are_rows_of_its_part_and_an_epoch_has_them_all(text, share, count, seed):
    workers = 3
    target = NUMBERS[: 3 * workers + count]
    found = data.partition(text, target, workers, seed)
    stream = data.PartitionedStream(found, share, seed)
    batches = -(-stream.examples_per_epoch // (share * workers))
    every = np.arange(2 * batches * share * workers)
    rows = stream.rows(every)
    owners = every // share % workers
    for worker, part in enumerate(found.parts):
        mine = rows[owners == worker]
        assert set(mine) <= set(part.tolist())
        assert set(mine[: batches * share].tolist()) == set(part.tolist())  # of an epoch, each at least once
        assert len(set(mine[: len(part)].tolist())) == len(part)  # and before one comes again, all have come
    shuffled = np.random.default_rng(seed).permutation(every)
    np.testing.assert_array_equal(stream.rows(shuffled), rows[shuffled])
    if len(set(map(len, found.parts))) == 1:
        assert stream.examples_per_epoch == len(target)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dirichlet(alpha=0)", "alpha=0 must be above 0"),
        ("dirichlet(alpha=-1)", "alpha=-1 must be above 0"),
        ("dirichlet(alpha=0.5,min_size=100)", r"a worker has still fewer than 100 of 240 examples \(the last draw: "),
        ("classes(k=1)", "4 of the 6 classes, and the others' examples would be nobody's: k=2 or more"),
        ("classes(k=9)", "k=9 must be 1 to the number of classes, 6"),
        ("sizes(1,2)", "2 numbers for 4 workers"),
        ("sizes(1,2,3,0)", "each number must be above 0"),
        ("sizes(1,1,1,100000)", "gives the 4 workers .*0.* examples, and none may have none"),
        ("continuous(strictness=2)", "strictness=2 must be 0 to 1"),
        ("shards(k=0)", "k=0 must be 1 or more"),
        ("dirichlet(beta=1)", "dirichlet has no 'beta'; it has alpha, min_size"),
        ("dirichlet(alpha=much)", "cannot be read"),
        ("dirichlett", "nearest: 'dirichlet'"),
        ("iid)", "is not known"),
    ],
)
def test_what_cannot_be(text, words):
    with pytest.raises(UsageError, match=words):
        data.partition(text, LABELS, 4, 0, CLASSES)


def test_targets_that_do_not_fit():
    with pytest.raises(UsageError, match=r"it distributes classes, and the targets are numbers; use continuous"):
        data.partition("dirichlet", NUMBERS, 2, 0)
    with pytest.raises(UsageError, match=r"the targets are \[240, 2\], and it needs one number an example"):
        data.partition("continuous", np.zeros((240, 2)), 2, 0)
    with pytest.raises(UsageError, match="gives the 4 workers 1, 1, 1, 0 examples"):
        data.partition("iid", NUMBERS[:3], 4, 0)


def test_every_example_of_a_text_is_read():
    assert [parse(text)[0] for text in EXAMPLES] == ["iid", "dirichlet", "shards", "classes", "sizes", "continuous"]
    assert parse(" shards( 3 ) ") == ("shards", {"k": 3})
