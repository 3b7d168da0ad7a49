"""The words of operator tables, for this package and for PyTorch alike, and how a run's tables are read.

A run directory has `profile/WINDOW/PROCESS.json`, or `operators.json` where tools/torch_run.py trained: a list of rows,
or {"rows": [...]}, each with `kind`, `calls` and `self_ms`, both a step.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from jaxdist.ops.kinds import REGULARISATION
from jaxdist.profiling.naming import COLLECTIVES
from jaxdist.profiling.table import AWAY
from jaxdist.runtime.profiler import DATA_WAIT

CONVOLUTION_FORWARD = "convolution forward"
CONVOLUTION_INPUT = "convolution input gradient"
CONVOLUTION_KERNEL = "convolution kernel gradient"
MATRIX = "matrix product"
BATCH_NORM = "BatchNorm forward"
BATCH_NORM_BACKWARD = "BatchNorm backward"
RELU = "ReLU"
RELU_BACKWARD = "ReLU backward"
DROPOUT = "dropout"
POOLING = "pooling"
POOLING_BACKWARD = "pooling backward"
LOSS = "loss"
OPTIMIZER = "optimizer update"
COLLECTIVE = "collective"
DATA = "data"
OTHER = "other"

KINDS = (
    CONVOLUTION_FORWARD, CONVOLUTION_INPUT, CONVOLUTION_KERNEL, MATRIX, BATCH_NORM, BATCH_NORM_BACKWARD, RELU,
    RELU_BACKWARD, DROPOUT, POOLING, POOLING_BACKWARD, LOSS, OPTIMIZER, COLLECTIVE, DATA, OTHER,
)  # fmt: skip

# What other systems do not tell apart: our kind -> their word.
COARSER = dict.fromkeys(COLLECTIVES, COLLECTIVE) | {
    DATA_WAIT: DATA,
    f"{DROPOUT} backward": DROPOUT,
    f"{LOSS} backward": LOSS,
    REGULARISATION: OPTIMIZER,
}


def read(folder: pathlib.Path) -> dict[str, float]:
    """{kind: self ms a step}, the mean over the processes that have a table; empty where none has."""
    paths = [folder / "operators.json"] if (folder / "operators.json").exists() else []
    paths = paths or sorted((folder / "profile").glob("*/worker-*.json"))
    tables = [table for path in paths if (table := _rows(json.loads(path.read_text())))]
    found: dict[str, float] = {}
    for row in (row for table in tables for row in table):
        if row["kind"] in AWAY:  # beside the step
            continue
        kind = _as_others_say(row["kind"])
        found[kind] = found.get(kind, 0.0) + row["self_ms"] / len(tables)
    return found


def _as_others_say(kind: str) -> str:
    """A kind of our profiles in the words of all systems; what is fused counts as the first of them."""
    words = [COARSER.get(part, part) for part in kind.split(" + ")]
    return next((word for word in words if word in KINDS), OTHER)


def _rows(content: Any) -> list[dict[str, Any]]:
    rows = content.get("rows", []) if isinstance(content, dict) else content
    return [row for row in rows if isinstance(row, dict) and {"kind", "self_ms"} <= row.keys()]
