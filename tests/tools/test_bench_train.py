"""`tools/bench_train.py`: what it counts and compares, without measuring anything."""

from __future__ import annotations

import numpy as np
import pytest
from bench_train import MODELS, check_alike, cores_of, interval, processes_in, spread
from bench_worker import arguments


def test_each_process_gets_cores_of_its_own():
    assert cores_of([3, 5], 1) == [{3, 5}]
    assert cores_of([3, 5], 3) == [{3}, {5}, {3}]
    assert processes_in(arguments("cnn", 64, 3, "digits", {"name": "fsdp"}, collectives=True)) == 3


def test_sides_that_train_different_models_are_refused():
    side = {"loss": 2.0, "gradient_norm": 1.0, "parameters": 10}
    check_alike(side, side | {"loss": 2.001})
    for other in ({"loss": 2.1}, {"gradient_norm": 0.9}, {"parameters": 11}):
        with pytest.raises(SystemExit, match="different models"):
            check_alike(side, side | other)
    assert spread([3.0, 1.0, 2.00049]) == {"min": 1.0, "median": 2.0, "max": 3.0}


def test_an_interval_holds_the_median_and_narrows_with_the_values():
    values = np.random.default_rng(1).normal(1.2, 0.1, 40)
    low, high = interval(values)
    assert low < np.median(values) < high
    assert high - low < np.subtract(*interval(values[:8])[::-1])
    assert interval([1.5] * 4) == [1.5, 1.5]


@pytest.mark.parametrize("model", MODELS)
def test_the_other_side_has_each_model_with_and_without_dropout(model):
    pytest.importorskip("torch")
    import torch_side

    from jaxdist import models
    from jaxdist.state import flatten

    spec = MODELS[model]
    shapes = flatten({name: pair[0] for name, pair in models.build(**spec, num_outputs=10, options={}).shapes.items()})
    weights = {path: np.zeros(leaf.shape, np.float32) for path, leaf in shapes.items()}
    for dropping in (True, False):
        net = torch_side.model_with(weights, spec["name"], spec["settings"], dropping=dropping)
        rates = [module.dropout for module in net.modules() if hasattr(module, "dropout")]
        assert any(rates) == (dropping and model in ("densenet", "cnn"))
