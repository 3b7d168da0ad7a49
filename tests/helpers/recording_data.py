"""A data source that writes down which training examples each process takes for its steps."""

from __future__ import annotations

import collections
import os
import pathlib
import threading

from jaxdist import data


def build(*, folder: str, num_train: int = 240, num_eval: int = 50) -> data.Dataset:
    """The synthetic data; rows that are read by a prefetching thread go to `folder`, a file a process."""
    made = data.load("synthetic", seed=3, options={"num_train": num_train, "num_eval": num_eval, "shape": (8, 8, 1)})
    images = made.train.images
    assert images is not None
    path = pathlib.Path(folder) / f"rows-{os.getpid()}"

    def read(row: int):
        if threading.current_thread() is not threading.main_thread():
            with open(path, "a") as f:
                f.write(f"{row}\n")
        return images[row]

    return data.Dataset("recorded", data.Split(None, made.train.labels, read), made.evaluation, 10)


def taken(folder: str | pathlib.Path) -> collections.Counter[int]:
    """How often each row was taken, by all processes."""
    paths = pathlib.Path(folder).glob("rows-*")
    return collections.Counter(int(line) for path in paths for line in path.read_text().splitlines())
