"""A 1-D CNN estimates redshifts from spectra that are simulated from galaxy templates.

    python tools/prepare_data.py redshift --data_dir=DIR
    TFDS_DATA_DIR=DIR python -m jaxdist.main --config=experiments/redshift_cnn.py --workdir=runs/redshift

Without the templates: --config.data.options.templates=analytic (made-up spectra, for trials). Classes in place of
numbers: --config.data.options.bins=60 --config.objective.name=classification --config.objective.loss= (and metrics).
"""

from ml_collections import ConfigDict

from jaxdist.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.name = "redshift"
    config.data.options = ConfigDict({"num_train": 12_000, "num_eval": 2000, "templates": "fsps", "bins": 0})
    config.model.name = "cnn1d"
    config.model.options = ConfigDict({"width": 16})
    config.model.dropout = 0.1
    config.objective.name = "regression"
    config.objective.loss = "huber"
    config.objective.metrics = (
        "mean_absolute_error", "sigma_nmad", "redshift_bias", "outliers_0.01", "outliers_0.0033",
    )  # fmt: skip
    config.objective.options = ConfigDict({"delta": 0.02})
    config.optim.name = "adam"
    config.optim.learning_rate = 2e-3
    config.optim.schedule = "warmup_cosine"
    config.optim.warmup_epochs = 0.5
    config.optim.clip_global_norm = 1.0
    config.global_batch_size = 48
    config.num_epochs = 20.0
    config.eval_every_epochs = 2.0
    return config
