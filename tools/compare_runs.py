"""Puts run directories side by side: a Markdown table, and accuracy and loss against epochs and wall time.

    pip install 'jaxdist[report]'
    python tools/compare_runs.py DIR [DIR ...] --out=DIR

A run without `summary.json` is unfinished and shown as such.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

COLUMNS = (
    ("strategy", "strategy", "{}"),
    ("num_workers", "workers", "{}"),
    ("num_epochs", "epochs", "{:g}"),
    ("train_accuracy", "training accuracy", "{:.2%}"),
    ("validation_accuracy", "validation accuracy", "{:.2%}"),
    ("validation_loss", "validation loss", "{:.4f}"),
    ("elapsed_seconds", "elapsed s", "{:.0f}"),
    ("images_per_second", "images/s", "{:.0f}"),
)
# Okabe and Ito's palette, distinguishable by colour-blind readers; line styles for print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")


def read_run(folder: pathlib.Path) -> dict[str, Any]:
    """Name, summary (None while unfinished) and evaluation rows of a run; of repeated rows the last counts."""
    summary = folder / "summary.json"
    metrics = folder / "metrics.jsonl"
    rows: dict[int, dict[str, Any]] = {}
    for line in metrics.read_text().splitlines() if metrics.exists() else ():
        row = json.loads(line)
        if row["kind"] == "eval":
            rows[row["updates"]] = row
    return {
        "name": folder.name,
        "summary": json.loads(summary.read_text()) if summary.exists() else None,
        "rows": [rows[k] for k in sorted(rows)],
    }


def table(runs: Sequence[dict[str, Any]]) -> str:
    lines = ["| run | " + " | ".join(title for _, title, _ in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for run in runs:
        found = run["summary"]
        cells = [form.format(found[key]) for key, _, form in COLUMNS] if found else ["unfinished"] * len(COLUMNS)
        lines.append(f"| {run['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(runs: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex="col", sharey="row", layout="constrained")
    for i, run in enumerate(runs):
        look = {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": STYLES[i % len(STYLES)],
            "marker": "o",
            "markersize": 3,
        }
        for row, (key, factor) in enumerate((("accuracy", 100.0), ("loss", 1.0))):
            values = [factor * r[key] for r in run["rows"]]
            axes[row, 0].plot([r["epoch"] for r in run["rows"]], values, label=run["name"], **look)
            axes[row, 1].plot([r["time"] / 60 for r in run["rows"]], values, label=run["name"], **look)
    for row, title in enumerate(("validation accuracy, %", "validation loss")):
        axes[row, 0].set_ylabel(title)
    for column, title in enumerate(("epochs", "minutes")):
        axes[1, column].set_xlabel(title)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."))
    options = parser.parse_args(argv)
    missing = [str(folder) for folder in options.runs if not folder.is_dir()]
    if missing:
        print(f"Not a run directory: {', '.join(missing)}.", file=sys.stderr)
        return 2
    runs = [read_run(folder) for folder in options.runs]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "comparison.md").write_text(table(runs))
    print(table(runs), end="")
    try:
        plot(runs, options.out / "comparison.png")
    except ImportError as e:
        print(f"No plots: they need the extra 'report' ({e}).", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
