"""A network of two branches tells land cover from two kinds of measurement; two processes take a branch each.

    python tools/prepare_data.py landsat --data_dir=DIR
    export TFDS_DATA_DIR=DIR
    python tools/launch.py --num_workers=2 -- --config=experiments/landcover_multimodal.py --workdir=runs/landcover

Without a file, as large as Houston 2013 (made up): --config.data.name=synthetic_pair
Of two sensors: --config.data.name=so2sat/all --config.data.features="('sentinel1','sentinel2')"
    --config.model.options.stride=2
On one process: --config.strategy.name=single --config.strategy.branch_parallel=False
"""

from ml_collections import ConfigDict

from jaxdist.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.name = "landsat"
    config.model.name = "branches"
    config.model.options = ConfigDict({"features": 128, "stride": 1})
    config.model.dropout = 0.3
    config.objective.metrics = ("accuracy", "average_accuracy", "kappa", "confusion_matrix")
    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3
    config.optim.schedule = "cosine"
    config.global_batch_size = 48
    config.num_epochs = 20.0
    config.eval_every_epochs = 5.0
    config.strategy.name = "pipeline"
    config.strategy.branch_parallel = True
    return config
