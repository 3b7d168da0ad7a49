"""A small transformer continues numbers in English words, letter by letter: tokens, attention, lines of any length.

python -m jaxdist.main --config=experiments/transformer_numbers.py --workdir=runs/numbers
"""

from ml_collections import ConfigDict

from jaxdist.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.name = "number_words"
    config.data.options = ConfigDict({"num_train": 2000, "num_eval": 400})
    config.model.name = "transformer"
    config.model.options = ConfigDict({"layers": 2, "width": 64, "heads": 4})
    config.model.dropout = 0.1
    config.objective.options = ConfigDict({"sequence": True})
    config.optim.name = "adamw"
    config.optim.learning_rate = 3e-3
    config.optim.weight_decay = 0.01
    config.optim.schedule = "warmup_cosine"
    config.optim.warmup_epochs = 0.5
    config.optim.clip_global_norm = 1.0
    config.global_batch_size = 48
    config.num_epochs = 10.0
    return config
