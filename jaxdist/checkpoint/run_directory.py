"""The run directory: one run, described by itself."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from jaxdist.errors import UsageError

# A run may go on with another strategy, another number of processes and another budget; not with these changed.
_IDENTITY = (
    "model.",
    "data.name",
    "data.train_examples",
    "data.holdout_examples",
    "data.options",
    "data.features",
    "data.target",
    "data.partition",
    "objective.name",
    "optim.name",
    "seed",
)


@contextlib.contextmanager
def hold_run_directory(workdir: str, values: dict[str, Any]) -> Iterator[None]:
    """Prepares the directory and keeps other runs out of it while open; only the chief calls it.

    Args:
      values: the configuration, flat; it becomes `config.json`.

    Raises:
      UsageError: it cannot be written, is in use, or holds a run of another model or data set.
    """
    try:
        pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
        lock = open(pathlib.Path(workdir) / ".lock", "w")  # noqa: SIM115 - held until the end of the run
    except OSError as e:
        raise UsageError(f"--workdir={workdir} cannot be written: {e.strerror or e}.") from e
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"--workdir={workdir} is in use by a run that is still going: stop it first.") from None
        except OSError as e:
            logging.warning("This file system has no locks (%s): make sure that no other run uses %s.", e, workdir)
        _prepare(workdir, values)
        yield


def _prepare(workdir: str, values: dict[str, Any]) -> None:
    folder = pathlib.Path(workdir)
    new = json.loads(json.dumps(values, default=str))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = _written_beside(folder / "config.json", new)
        old = _read(folder / "config.json")
        if (folder / "checkpoints").is_dir():
            _check_same_run(folder, old, new)
        os.replace(part, folder / "config.json")
    except OSError as e:
        raise UsageError(f"--workdir={workdir} cannot be written: {e.strerror or e}.") from e


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as e:
        raise UsageError(f"{path} cannot be read ({e}): it is not a run of jaxdist, choose another --workdir.") from e


def _check_same_run(folder: pathlib.Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    differing = [
        f"{key} is {old[key]!r} there and {new.get(key)!r} here"
        for key in sorted(old)
        if key.startswith(_IDENTITY) and old[key] != new.get(key)
    ]
    if differing:
        raise UsageError(f"--workdir={folder} holds another run: {'; '.join(differing)}. Choose another --workdir.")


def check_same_run(workdir: str, values: dict[str, Any]) -> None:
    """Refuses a directory that holds another run; writes nothing. `values`: as of `hold_run_directory`.

    Raises:
      UsageError: what differs.
    """
    folder = pathlib.Path(workdir)
    _check_same_run(folder, _read(folder / "config.json"), json.loads(json.dumps(values, default=str)))


def check_data(workdir: str, found: Mapping[str, str]) -> None:
    """Refuses to take up a run with other training data; only the chief calls it, with the directory held.

    Args:
      found: digests: of 'train', 'evaluation' and, where there are such, 'holdout' and 'partition' (who has what). They
        become `data.json`.

    Raises:
      UsageError: the training examples are not those that the run began with.
    """
    check_same_data(workdir, found)
    path = pathlib.Path(workdir) / "data.json"
    os.replace(_written_beside(path, dict(found)), path)


def check_same_data(workdir: str, found: Mapping[str, str]) -> None:
    """The same, and writes nothing."""
    path = pathlib.Path(workdir) / "data.json"
    before = _read(path) if (path.parent / "checkpoints").is_dir() else {}
    for name in sorted(before.keys() & found.keys()):
        if before[name] == found[name]:
            continue
        digests = f"({before[name]} then, {found[name]} now)"
        words = f"The {name} examples are not those with which the run in {workdir} began {digests}"
        if name == "partition":
            raise UsageError(
                f"The workers of the run in {workdir} began with other parts of the data {digests}: data.partition "
                "goes on with as many workers and the same global_batch_size alone. Choose those, or another --workdir."
            )
        if name == "train":
            raise UsageError(f"{words}: bring those back, or choose another --workdir.")
        logging.warning("%s: evaluations before and after are not comparable.", words)


def _written_beside(path: pathlib.Path, value: dict[str, Any]) -> pathlib.Path:
    """The file that is to take the place of `path`, written whole."""
    part = path.with_name(f"{path.name}.tmp")
    part.write_text(json.dumps(value, indent=2) + "\n")
    return part
