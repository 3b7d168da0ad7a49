"""Values that cannot mean anything are refused, with the remedy."""

from __future__ import annotations

import pytest

from jaxdist import config as config_lib
from jaxdist.errors import UsageError


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"optim.name": "adm"}, "nearest: 'adam'"),
        ({"strategy.name": "all_reduce"}, "nearest: 'allreduce'"),
        ({"model.name": "densnet"}, "nearest: 'densenet'"),
        ({"objective.name": "classify"}, "nearest: 'classification'"),
        ({"optim.learning_rate": -1.0}, "optim.learning_rate=-1.0 must be above 0 and finite"),
        ({"global_batch_size": 0}, "above 0"),
        ({"data.holdout_examples": -5}, "at least 0"),
        ({"model.dtype": "float16"}, "one of '', bfloat16"),
        ({"strategy.accumulate": 0}, "above 0"),
        ({"early_stopping_patience": 3}, "set data.holdout_examples above 0"),
        ({"strategy.name": "pipeline", "strategy.num_microbatches": 0}, "num_microbatches=0 must be above 0"),
        ({"strategy.name": "model_parallel", "strategy.shard_threshold": -1}, "shard_threshold=-1 must be at least 0"),
        ({"strategy.shard_params": "fsdp"}, "means nothing to strategy.name='allreduce'"),
    ],
)
def test_values_are_refused_with_the_remedy(values, words):
    config = config_lib.default_config()
    config.update_from_flattened_dict(values)
    with pytest.raises(UsageError) as e:
        config_lib.validate(config)
    assert words in str(e.value)
