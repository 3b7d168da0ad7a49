"""Two systems side by side, experiment B: ResNet-56 v2 on CIFAR-10 with Adadelta, a sweep of batch sizes.

    python tools/reproduce.py experiments/system_comparison_b.py --out=DIR --num_workers=8  # the original size
    python tools/reproduce.py experiments/system_comparison_b.py --out=DIR --scale=0.005 --against=torch --minutes=30

As experiment A (`system_comparison_a.py`); the thesis trains 25 epochs with global batches of 64 to 512.
"""

from experiments.resnet56v2_cifar10 import get_config  # noqa: F401 - the experiment of every run

BATCHES = (64, 128, 256, 512)


def comparison(scale, num_workers):
    from experiments.system_comparison_a import sweep

    return sweep(BATCHES, scale, num_workers, examples=50000, evaluated=10000, epochs=25)
