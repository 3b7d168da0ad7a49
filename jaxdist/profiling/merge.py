"""One page of what all processes have written."""

from __future__ import annotations

import pathlib


def merge_folder(folder: pathlib.Path) -> None:
    """To be written."""
