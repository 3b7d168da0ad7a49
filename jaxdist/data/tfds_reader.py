"""Prepared TFDS directories read without TensorFlow, decoded once and kept.

<data_dir>/<name>/<version>/  dataset_info.json, features.json, *.array_record-00000-of-00001
                              jaxdist-cache/train-images.npy ...   (data.cache = 'file')
"""

from __future__ import annotations

import contextlib
import fcntl
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
from jaxdist.errors import UsageError

TFDS_NAMES = ("fashion_mnist", "cifar10", "mnist")
_CHUNK = 1024  # examples decoded at a time, of a whole split


def read_tfds(
    name: str,
    data_dir: pathlib.Path,
    cache: str,
    workers: int = 0,
    decoding: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> Dataset:
    """Reads the newest prepared version of a TFDS image classification data set.

    Args:
      workers: processes that decode, here and, with cache 'none', as long as the data set is open.
      decoding: opened around what decodes the whole of a split.

    Raises:
      UsageError: the directory is missing, half prepared or damaged.
    """
    folder = _find_version(name, data_dir)
    _check_complete(name, folder)
    with contextlib.ExitStack() as stack:
        pool = Decoders(str(folder), workers)
        stack.callback(pool.close)

        def decode(split: str) -> Split:
            with decoding():
                return Split(*_decode(folder, split, pool, workers))

        num_classes = pool.splits["train"].num_classes
        if cache == "none":
            splits = {split: _undecoded(folder, split, pool) for split in pool.splits}
            return Dataset(name, splits["train"], splits["test"], num_classes, close=stack.pop_all().close)
        if cache == "file":
            splits = _cached(folder, pool.splits, decode)
        else:
            splits = {split: decode(split) for split in pool.splits}
        return Dataset(name, splits["train"], splits["test"], num_classes)


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


def _check_complete(name: str, folder: pathlib.Path) -> None:
    missing = [f for f in ("dataset_info.json", "features.json") if not (folder / f).is_file()]
    if not missing:
        info = json.loads((folder / "dataset_info.json").read_text())
        if info.get("fileFormat", "tfrecord") != "array_record":
            raise UsageError(
                f"The data set {name!r} under {folder} is in the format {info.get('fileFormat', 'tfrecord')!r}, which "
                f"only TensorFlow reads; jaxdist reads array_record. {_remedy(name, folder.parent.parent)}"
            )
        for split in info["splits"]:
            shards = len(split["shardLengths"])
            for k in range(shards):
                file = f"{name}-{split['name']}.array_record-{k:05d}-of-{shards:05d}"
                if not (folder / file).is_file():
                    missing.append(file)
    if missing:
        raise UsageError(
            f"The data set {name!r} under {folder} is only half prepared: {', '.join(missing)} missing. "
            f"{_remedy(name, folder.parent.parent)}"
        )


def _damaged(folder: pathlib.Path, split: str, error: Exception) -> UsageError:
    files = ", ".join(sorted(p.name for p in folder.glob(f"*-{split}.array_record-*")))
    return UsageError(
        f"The record file {folder / files} is damaged: {' '.join(str(error).split())[:200]}. "
        f"Delete the folder and prepare the data set again. {_remedy(folder.parent.name, folder.parent.parent)}"
    )


def _decode(folder: pathlib.Path, split: str, pool: Decoders, workers: int) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [n, h, w, c], labels int32 [n]) of a whole split."""
    source = pool.splits[split]
    with _naming_the_damaged(folder, split):
        images = np.empty((len(source), *source.shape), np.uint8)
        labels = np.empty(len(source), np.int32)

        def put(rows: np.ndarray) -> None:
            images[rows], labels[rows] = pool.decode(split, rows)

        with ThreadPoolExecutor(max(workers, 1), "decode") as threads:
            every = np.arange(len(source))
            parts = [threads.submit(put, every[start : start + _CHUNK]) for start in range(0, len(every), _CHUNK)]
            try:
                for part in parts:
                    part.result()
            finally:
                threads.shutdown(cancel_futures=True)
    return images, labels


def _undecoded(folder: pathlib.Path, split: str, pool: Decoders) -> Split:
    def read_many(rows: np.ndarray) -> np.ndarray:
        with _naming_the_damaged(folder, split):
            return pool.decode(split, rows)[0]

    with _naming_the_damaged(folder, split):
        labels = pool.splits[split].labels()
    return Split(None, labels, read_many=read_many)


@contextlib.contextmanager
def _naming_the_damaged(folder: pathlib.Path, split: str) -> Iterator[None]:
    try:
        yield
    except (DecoderLost, MemoryError):  # the files are not to blame
        raise
    except Exception as e:  # array_record, Pillow and TFDS each raise their own kinds
        raise _damaged(folder, split, e) from e


def _cached(folder: pathlib.Path, names: Iterable[str], decode: Callable[[str], Split]) -> dict[str, Split]:
    """Splits mapped from the cache, which is written first where it is missing, out of date or damaged."""
    place = _cache_folder(folder)
    if place is None:
        logging.warning("No folder to cache %s in can be written; decoding into memory in every run.", folder)
        return {split: decode(split) for split in names}
    splits = {}
    for split in names:
        files = sorted(folder.glob(f"*-{split}.array_record-*"))
        stamp = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]
        with exclusive(place / f"{split}.lock"):  # several processes start at once: one decodes, the others wait
            found = _load_cached(place, split, stamp)
            if found is None:
                logging.info("Decoding the examples of %s once, into %s.", split, place)
                decoded = decode(split)
                assert decoded.images is not None
                _save_cached(place, split, stamp, decoded.images, decoded.labels)
                found = _load_cached(place, split, stamp)
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
    return zlib.crc32(array.data)


def _load_cached(place: pathlib.Path, split: str, stamp: list[Any]) -> Split | None:
    try:
        meta = json.loads((place / f"{split}.json").read_text())
        images = np.load(place / f"{split}-images.npy", mmap_mode="r")
        labels = np.load(place / f"{split}-labels.npy")
    except (OSError, ValueError):
        return None
    if meta["source"] != stamp or meta["crc32"] != [_crc(images), _crc(labels)]:
        return None
    return Split(images, labels)


def _save_cached(place: pathlib.Path, split: str, stamp: list[Any], images: np.ndarray, labels: np.ndarray) -> None:
    for kind, array in (("images", images), ("labels", labels)):
        with open(place / f"{split}-{kind}.tmp", "wb") as f:
            np.save(f, array)
        os.replace(f.name, place / f"{split}-{kind}.npy")
    meta = place / f"{split}.json.tmp"
    meta.write_text(json.dumps({"source": stamp, "crc32": [_crc(images), _crc(labels)]}))
    os.replace(meta, place / f"{split}.json")


@contextlib.contextmanager
def exclusive(path: pathlib.Path) -> Iterator[None]:
    """Holds the file lock `path`; blocks until other processes on this machine have left it."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
