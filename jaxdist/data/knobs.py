"""The knobs of the data."""

from jaxdist.knobs import Knob, at_least_zero


def _readable(text: str) -> str:
    """Raises `UsageError` for a partition that is none."""
    if text:
        from jaxdist.data.partition import parse  # NumPy is not loaded for a table of the knobs

        parse(text)
    return ""


KNOBS = (
    Knob(
        "data.name",
        "fashion_mnist",
        "The data set: fashion_mnist, cifar10, mnist, digits, synthetic, number_words, more of TFDS, or your own.",
    ),
    Knob("data.features", (), "The inputs, of a TFDS set with several features. (): its image."),
    Knob("data.target", "", "The target, of a TFDS set with several features. '': its label."),
    Knob(
        "data.data_dir",
        "",
        "Folder of TensorFlow Datasets. '': $TFDS_DATA_DIR, then ~/tensorflow_datasets.",
        local=True,
    ),
    Knob("data.train_examples", 0, "Uses the first so many training examples. 0: all.", at_least_zero),
    Knob("data.eval_examples", 0, "Uses the first so many evaluation examples. 0: all.", at_least_zero),
    Knob(
        "data.holdout_examples",
        0,
        "Takes so many examples off the end of the training set, for early stopping and other decisions.",
        at_least_zero,
    ),
    Knob(
        "data.partition",
        "",
        "Each worker trains on a part of its own, as in 'iid', 'dirichlet(alpha=0.5)', 'shards(k=2)'. '': one stream.",
        _readable,
    ),
    Knob(
        "data.augment",
        False,
        "Flips training images at random, pads and crops them; or does what the data set says.",
    ),
    Knob(
        "data.cache",
        "file",
        "file: decode once into a memory-mapped file. memory: decode at each start. none: decode for each batch.",
        choices=("file", "memory", "none"),
        local=True,
    ),
    Knob("data.prefetch", 2, "Batches that a thread prepares ahead. 0: none.", at_least_zero, local=True),
    Knob(
        "data.workers",
        0,
        "Batches prepared at the same time, by so many threads, and processes that decode. 0: one thread decodes too.",
        at_least_zero,
        local=True,
    ),
    Knob("data.options", {}, "Arguments of 'synthetic' or of your own function."),
)
