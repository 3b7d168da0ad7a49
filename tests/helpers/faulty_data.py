"""Data sets that nobody can be trained on: `data.name=helpers.faulty_data:KIND`; arguments as of `synthetic`."""

from __future__ import annotations

import ctypes
import dataclasses
import logging
import os
import time
from typing import Any

import numpy as np

from jaxdist import data
from jaxdist.errors import UsageError


def _good(**options: Any) -> data.Dataset:
    return data.load("synthetic", seed=0, options=options)


def _with_labels(made: data.Dataset, labels: np.ndarray) -> data.Dataset:
    return dataclasses.replace(made, train=data.Split(made.train.inputs["image"], labels))


def labels_from_one(**options: Any) -> data.Dataset:
    made = _good(**options)
    return _with_labels(made, made.train.target + 1)


def one_hot_labels(**options: Any) -> data.Dataset:
    made = _good(**options)
    return _with_labels(made, np.eye(made.num_classes)[made.train.target])


def infinite_evaluation_pixel(**options: Any) -> data.Dataset:
    made = _good(**options)
    images = made.evaluation.inputs["image"].astype(np.float32)
    images[7, 2, 3, 0] = np.inf
    return dataclasses.replace(made, evaluation=data.Split(images, made.evaluation.target))


def ignored_labels(**options: Any) -> data.Dataset:
    made = _good(**options)
    return _with_labels(made, np.where(np.arange(len(made.train)) == 5, -100, made.train.target))


def that_takes_for_ever(**options: Any) -> data.Dataset:
    logging.info("Reading for ever.")
    while True:
        time.sleep(60.0)


def stuck_inside_c(**options: Any) -> data.Dataset:
    """Where no signal handler written in Python runs: a lock that is taken twice."""
    logging.info("Reading for ever.")
    lock = ctypes.create_string_buffer(256)
    library = ctypes.CDLL(None)
    for _ in range(2):
        library.pthread_mutex_lock(lock)
    raise AssertionError


def on_some_hosts(**options: Any) -> data.Dataset:
    """Read from the folder that JAXDIST_TEST_IMAGES names, if that is on this host."""
    folder = os.environ.get("JAXDIST_TEST_IMAGES", "nowhere")
    if not os.path.isdir(folder):
        raise UsageError(f"data: the folder {folder} is not on this host.")
    return _good(**options)
