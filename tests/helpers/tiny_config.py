"""The run that the multi-process tests train: `tiny_chain` on made-up images, float64."""

from helpers.processes import TINY

from jaxdist.config import default_config


def get_config():
    config = default_config()
    options = {k.removeprefix("data.options."): v for k, v in TINY.items() if k.startswith("data.options.")}
    config.update_from_flattened_dict({k: v for k, v in TINY.items() if ".options." not in k})
    with config.unlocked():
        config.data.options.update(options)
    config.model.param_dtype = "float64"
    return config
