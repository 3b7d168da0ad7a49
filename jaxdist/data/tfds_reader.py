"""Prepared TFDS directories read without TensorFlow, decoded once and kept.

<data_dir>/<name>/<version>/  dataset_info.json, features.json, *.array_record-00000-of-00001
                              jaxdist-cache/train-images.npy ...   (data.cache = 'file')
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import logging
import os
import pathlib
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxdist.data.dataset import Dataset, Split
from jaxdist.data.decoding import DecoderLost, Decoders
from jaxdist.data.tfds_source import TRAIN, Chosen, split_names
from jaxdist.errors import UsageError

TFDS_NAMES = ("fashion_mnist", "cifar10", "mnist")
_CHUNK = 1024  # examples decoded at a time, of a whole split


def read_tfds(
    name: str,
    data_dir: pathlib.Path,
    cache: str,
    workers: int = 0,
    decoding: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    chosen: Chosen | None = None,
) -> Dataset:
    """Reads the newest prepared version of a TFDS data set, 'NAME' or 'NAME/CONFIG'.

    Args:
      workers: processes that decode, here and, with cache 'none', as long as the data set is open.
      decoding: opened around what decodes the whole of a split.
      chosen: the features that are trained on; default the image and its label.

    Raises:
      UsageError: the directory is missing, half prepared or damaged.
    """
    chosen = chosen or Chosen()
    folder = whole_version(name, data_dir)
    with contextlib.ExitStack() as stack:
        pool = Decoders(str(folder), chosen, workers)
        stack.callback(pool.close)

        naming_the_damaged = functools.partial(_naming_the_damaged, folder, _remedy(name, data_dir))

        def decode(split: str) -> Split:
            with decoding(), naming_the_damaged(split):
                return Split(*_decode(split, pool, workers))

        num_classes = pool.splits[TRAIN].num_classes
        if cache == "none":
            splits = {split: _undecoded(split, pool, naming_the_damaged) for split in pool.splits}
            train, evaluation = splits.values()
            return Dataset(name, train, evaluation, num_classes, close=stack.pop_all().close)
        if cache == "file":
            splits = _cached(folder, pool.splits, decode, chosen)
        else:
            splits = {split: decode(split) for split in pool.splits}
        train, evaluation = splits.values()
        return Dataset(name, train, evaluation, num_classes)


def whole_version(name: str, data_dir: pathlib.Path) -> pathlib.Path:
    """The folder of the newest prepared version.

    Raises:
      UsageError: it is missing or half prepared.
    """
    folder = _find_version(name, data_dir)
    _check_complete(name, folder, data_dir)
    return folder


def prepared_names(data_dir: pathlib.Path) -> list[str]:
    """Of the data sets that lie in a folder."""
    return sorted(p.name for p in data_dir.glob("*") if p.is_dir() and not p.name.startswith("."))


def _remedy(name: str, data_dir: pathlib.Path) -> str:
    return (
        f"Prepare it with `python tools/prepare_data.py {name} --data_dir={data_dir}` (needs the extra 'prepare'; "
        f"without a network add --manual_dir=FOLDER with the original files), or copy a prepared folder there."
    )


def _find_version(name: str, data_dir: pathlib.Path) -> pathlib.Path:
    folder = data_dir / name
    versions = [p for p in folder.glob("*.*.*") if p.is_dir() and p.name.replace(".", "").isdigit()]
    if not versions:
        started = [p.name for p in folder.glob("*incomplete*")]
        state = f"only half prepared ({started[0]})" if started else "not there"
        raise UsageError(f"The data set {name!r} is {state} under {folder}. {_remedy(name, data_dir)}")
    return max(versions, key=lambda p: tuple(map(int, p.name.split("."))))


def _check_complete(name: str, folder: pathlib.Path, data_dir: pathlib.Path) -> None:
    missing = [f for f in ("dataset_info.json", "features.json") if not (folder / f).is_file()]
    if not missing:
        info = json.loads((folder / "dataset_info.json").read_text())
        if info.get("fileFormat", "tfrecord") != "array_record":
            raise UsageError(
                f"The data set {name!r} under {folder} is in the format {info.get('fileFormat', 'tfrecord')!r}, which "
                f"only TensorFlow reads; jaxdist reads array_record. {_remedy(name, data_dir)}"
            )
        wanted = split_names(str(folder), [split["name"] for split in info["splits"]])
        for split in info["splits"]:
            shards = len(split["shardLengths"]) if split["name"] in wanted else 0
            for k in range(shards):
                file = f"{name.split('/')[0]}-{split['name']}.array_record-{k:05d}-of-{shards:05d}"
                if not (folder / file).is_file():
                    missing.append(file)
    if missing:
        raise UsageError(
            f"The data set {name!r} under {folder} is only half prepared: {', '.join(missing)} missing. "
            f"{_remedy(name, data_dir)}"
        )


def _damaged(folder: pathlib.Path, remedy: str, split: str, error: Exception) -> UsageError:
    files = ", ".join(sorted(p.name for p in folder.glob(f"*-{split}.array_record-*")))
    return UsageError(
        f"The record file {folder / files} is damaged: {' '.join(str(error).split())[:200]}. "
        f"Delete the folder and prepare the data set again. {remedy}"
    )


def _decode(split: str, pool: Decoders, workers: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """({input: array [n, ...]}, targets [n, ...]) of a whole split."""
    source = pool.splits[split]
    first, answer = source.first
    inputs = {name: np.empty((len(source), *one.shape), one.dtype) for name, one in first.items()}
    targets = np.empty((len(source), *answer.shape), answer.dtype)

    def put(rows: np.ndarray) -> None:
        decoded, targets[rows] = pool.decode(split, rows)
        for name, array in decoded.items():
            inputs[name][rows] = array

    with ThreadPoolExecutor(max(workers, 1), "decode") as threads:
        every = np.arange(len(source))
        parts = [threads.submit(put, every[start : start + _CHUNK]) for start in range(0, len(every), _CHUNK)]
        try:
            for part in parts:
                part.result()
        finally:
            threads.shutdown(cancel_futures=True)
    return inputs, targets


def _undecoded(
    split: str, pool: Decoders, naming_the_damaged: Callable[[str], contextlib.AbstractContextManager[None]]
) -> Split:
    def read_many(rows: np.ndarray) -> dict[str, np.ndarray]:
        with naming_the_damaged(split):
            return pool.decode(split, rows)[0]

    with naming_the_damaged(split):
        targets = pool.splits[split].targets()
    return Split(None, targets, read_many=read_many)


@contextlib.contextmanager
def _naming_the_damaged(folder: pathlib.Path, remedy: str, split: str) -> Iterator[None]:
    try:
        yield
    except (DecoderLost, MemoryError, UsageError):  # the files are not to blame
        raise
    except Exception as e:  # array_record, Pillow and TFDS each raise their own kinds
        raise _damaged(folder, remedy, split, e) from e


def _cached(
    folder: pathlib.Path, names: Iterable[str], decode: Callable[[str], Split], chosen: Chosen
) -> dict[str, Split]:
    """Splits mapped from the cache, which is written first where it is missing, out of date or damaged."""
    place = _cache_folder(folder)
    if place is None:
        logging.warning("No folder to cache %s in can be written; decoding into memory in every run.", folder)
        return {split: decode(split) for split in names}
    splits = {}
    for split in names:
        files = sorted(folder.glob(f"*-{split}.array_record-*"))
        stamp = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]
        cache = _Cache(place, split, chosen, stamp)
        with exclusive(place / f"{split}.lock"):  # several processes start at once: one decodes, the others wait
            found = cache.load()
            if found is None:
                logging.info("Decoding the examples of %s once, into %s.", split, place)
                cache.save(decode(split))
                found = cache.load()
        if found is None:
            raise UsageError(f"The cache in {place} cannot be read back; delete it, or set data.cache='memory'.")
        splits[split] = found
    return splits


def _cache_folder(folder: pathlib.Path) -> pathlib.Path | None:
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    tag = f"{folder.parent.name}-{folder.name}-{zlib.crc32(str(folder.resolve()).encode()):08x}"
    for place in (folder / "jaxdist-cache", home / "jaxdist" / "data" / tag):
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                return place
        except OSError:
            continue
    return None


def _crc(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data)


class _Cache:
    """The files of one split's chosen features, and what they were decoded from (`stamp`)."""

    def __init__(self, place: pathlib.Path, split: str, chosen: Chosen, stamp: list[Any]) -> None:
        self._inputs = {name: _kind("images", name, "image") for name in chosen.inputs}
        self._target = _kind("labels", chosen.answer, "label")
        plain = chosen == Chosen()
        tag = "" if plain else f"-{zlib.crc32(json.dumps(chosen).encode()):08x}"  # any choice beside any other
        self._place, self._split, self._meta, self._stamp = place, split, f"{split}{tag}.json", stamp

    def _path(self, kind: str) -> pathlib.Path:
        return self._place / f"{self._split}-{kind}.npy"

    def load(self) -> Split | None:
        """None where it is missing, out of date or damaged."""
        try:
            meta = json.loads((self._place / self._meta).read_text())
            inputs = {name: np.load(self._path(kind), mmap_mode="r") for name, kind in self._inputs.items()}
            target = np.load(self._path(self._target))
        except (OSError, ValueError):
            return None
        if meta["source"] != self._stamp or meta["crc32"] != [*map(_crc, inputs.values()), _crc(target)]:
            return None
        return Split(inputs, target)

    def save(self, split: Split) -> None:
        kinds = {kind: split.inputs[name] for name, kind in self._inputs.items()} | {self._target: split.target}
        for kind, array in kinds.items():
            with open(self._path(kind).with_suffix(".tmp"), "wb") as f:
                np.save(f, array)
            os.replace(f.name, self._path(kind))
        part = self._place / f"{self._meta}.tmp"
        part.write_text(json.dumps({"source": self._stamp, "crc32": [_crc(array) for array in kinds.values()]}))
        os.replace(part, self._place / self._meta)


def _kind(usual: str, name: str, usual_name: str) -> str:
    """Of a file: 'images' and 'labels' as ever, others by the feature's name."""
    return usual if name == usual_name else f"feature-{name.replace('/', '.')}"


@contextlib.contextmanager
def exclusive(path: pathlib.Path) -> Iterator[None]:
    """Holds the file lock `path`; blocks until other processes on this machine have left it."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
