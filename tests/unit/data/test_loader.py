"""Batches: normalised, and in evaluation every example once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdist import data


def loader(dataset, **kw):
    arguments = {"means": data.mean_of(dataset.train), "scales": data.scales_of(dataset), "seed": 0}
    return data.Loader(**(arguments | kw))


@given(total=st.integers(1, 40), batch=st.integers(1, 5), parts=st.integers(1, 4))
@settings(max_examples=40)
def test_evaluation_counts_every_example_once(total, batch, parts):
    dataset = data.load("synthetic", options={"num_train": 8, "num_eval": total, "shape": (2, 2, 1)})
    make = loader(dataset)
    lots = [list(make.eval_batches(dataset.evaluation, batch * parts, part, parts)) for part in range(parts)]
    assert len({len(lot) for lot in lots}) == 1
    assert sum(float(b["mask"].sum()) for lot in lots for b in lot) == total
    assert {b["inputs"]["image"].shape[0] for lot in lots for b in lot} == {batch}


def test_batches_are_normalised():
    dataset = data.load("digits")
    assert (len(dataset.train), len(dataset.evaluation), dataset.example_shapes) == (1437, 360, {"image": (8, 8, 1)})
    stream = data.ExampleStream(len(dataset.train), 0)
    batch = loader(dataset).train_batch(dataset.train, stream, range(0, 1437))
    assert np.abs(batch["inputs"]["image"].mean(axis=0)).max() < 1e-5
    assert batch["inputs"]["image"].max() <= 1.0
    assert batch["position"].tolist() == list(range(1437))
