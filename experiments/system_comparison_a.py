"""Two systems side by side, experiment A: a CNN on MNIST with Adadelta, a sweep of batch sizes.

    python tools/reproduce.py experiments/system_comparison_a.py --out=DIR --num_workers=8  # the original size
    python tools/reproduce.py experiments/system_comparison_a.py --out=DIR --scale=0.01 --against=torch --minutes=30

The thesis (3 machines of 4 cores; 30 epochs; TensorFlow against Spark with Horovod) compares reading, preprocessing,
training and evaluation, then operators, for global batches of 96 to 1,536 and for two layouts of its cores: 8x1 (eight
processes of one core) and 4x2.
"""

import math

from experiments.cnn_mnist import get_config  # noqa: F401 - the experiment of every run

BATCHES = (96, 192, 384, 768, 1536)


def comparison(scale, num_workers):
    return sweep(BATCHES, scale, num_workers, examples=60000, evaluated=10000, epochs=30)


def sweep(batches, scale, num_workers, *, examples, evaluated, epochs):
    """Every batch size with every system: a strategy, or a peer, in one layout of cores.

    Below a scale of 1 a run trains on that part of the images: of the epochs its square root is left, but two at least,
    and of the examples the rest, but enough for four updates an epoch of the largest batch, so that there are steps to
    time and epochs to compare. All batch sizes train on the same examples.
    """
    common = {"num_epochs": epochs, "eval_every_epochs": 1, "checkpoint.every_epochs": 0}
    if scale < 1:
        kept = max(2, round(epochs * math.sqrt(scale)))
        largest = max(batches)
        fewer = round(examples * scale * epochs / kept / largest) * largest
        examples = min(max(fewer, 4 * largest), examples)
        common |= {"num_epochs": kept, "data.train_examples": examples}
        common |= {"data.eval_examples": max(1000, round(evaluated * scale))}
    runs = {}
    for batch in batches:
        every = max(1, min(50, examples // batch // 4))
        one = common | {"global_batch_size": batch, "log_every_steps": every}
        updates = common["num_epochs"] * examples // batch
        # Operators of some steps of ours, in the middle, when all processes have long compiled; PyTorch's are its own.
        first = max(updates // 2, 2)
        window = {"profile.updates": f"({first},{max(min(first + 8, updates - 1), first + 1)})"}
        for name, layout in layouts(num_workers).items():
            placed = one | layout
            served = {"num_servers": 1, "strategy.name": "parameter_server"}
            runs[f"batch_{batch}/allreduce_{name}"] = placed | {"strategy.name": "allreduce"} | window
            runs[f"batch_{batch}/parameter_server_{name}"] = placed | served | window
            runs[f"batch_{batch}/torch_{name}"] = placed | {"against": "torch"}
    return runs


def layouts(cores):
    """The cores as processes of one each and, where they are even, of two each."""
    found = {f"{cores}x1": {"num_workers": cores, "cpus_per_worker": 1}}
    if cores % 2 == 0:
        found[f"{cores // 2}x2"] = {"num_workers": cores // 2, "cpus_per_worker": 2}
    return found
