"""The run signature: what every process of a run must have alike (configuration, versions, data, model)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """The entries of two run signatures that both have and that differ, as text; '' for none."""
    differing = [k for k in sorted(mine.keys() & theirs.keys()) if mine[k] != theirs[k]]
    return ", ".join(f"{k} ({mine[k]!r} here, {theirs[k]!r} there)" for k in differing)
