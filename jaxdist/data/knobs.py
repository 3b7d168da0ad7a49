"""The knobs of the data."""

from jaxdist.knobs import Knob, at_least_zero

KNOBS = (
    Knob("data.name", "fashion_mnist", "the data set", choices="jaxdist.data.sources:NAMES", dotted=True),
    Knob("data.data_dir", "", "TFDS folder; '' = $TFDS_DATA_DIR, then ~/tensorflow_datasets", local=True),
    Knob("data.train_examples", 0, "use the first so many; 0 = all", at_least_zero),
    Knob("data.eval_examples", 0, "use the first so many; 0 = all", at_least_zero),
    Knob("data.holdout_examples", 0, "taken off the end of the training set, for decisions", at_least_zero),
    Knob("data.augment", False, "random horizontal flip, pad by 4 and crop"),
    Knob(
        "data.cache",
        "file",
        "file: decoded once, memory-mapped; memory; none: decoded for each batch",
        choices=("file", "memory", "none"),
        local=True,
    ),
    Knob("data.prefetch", 2, "batches prepared ahead; 0 = off", at_least_zero, local=True),
    Knob("data.options", {}, "arguments of 'synthetic' or of a function of your own"),
)
