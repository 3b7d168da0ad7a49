"""A data source that writes down which training examples each process takes for its steps, and can hold them up."""

from __future__ import annotations

import collections
import os
import pathlib
import threading

from helpers.waiting import wait_until

from jaxdist import data


def build(*, folder: str, num_train: int = 240, num_eval: int = 50, most: int = 0) -> data.Dataset:
    """The data of `tiny_config`; rows that are read by a prefetching thread go to `folder`, a file a process.

    Args:
      most: rows that a process may take for its steps before `let_go`; 0: any number.
    """
    made = data.load("synthetic", seed=0, options={"num_train": num_train, "num_eval": num_eval, "shape": (8, 8, 1)})
    images = made.train.inputs["image"]
    assert images is not None
    path = pathlib.Path(folder) / f"rows-{os.getpid()}"
    count = 0

    def read(row: int):
        nonlocal count
        if threading.current_thread() is not threading.main_thread():
            count += 1
            if most and count > most:
                wait_until(_go(folder).exists, f"{_go(folder)}", 90)
            with open(path, "a") as f:
                f.write(f"{row}\n")
        return images[row]

    return data.Dataset("recorded", data.Split(None, made.train.target, read), made.evaluation, 10)


def taken(folder: str | pathlib.Path) -> collections.Counter[int]:
    """How often each row was taken, by all processes."""
    paths = pathlib.Path(folder).glob("rows-*")
    return collections.Counter(int(line) for path in paths for line in path.read_text().splitlines())


def wait_until_it_trains(folder: str | pathlib.Path, pid: int) -> None:
    """Blocks until that process has taken rows for a step."""
    wait_until((pathlib.Path(folder) / f"rows-{pid}").exists, f"row of process {pid}", 90)


def let_go(folder: str | pathlib.Path) -> None:
    """Processes may take any number of rows from now on."""
    _go(folder).touch()


def _go(folder: str | pathlib.Path) -> pathlib.Path:
    return pathlib.Path(folder) / "go"
