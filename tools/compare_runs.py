"""Puts runs side by side: a table, and plots against epochs and wall time, as Markdown and as one HTML file.

    pip install 'jaxdist[report]'
    python tools/compare_runs.py DIR [DIR ...] --out=DIR [--accuracy=0.84] [--keep=DIR]
    python tools/compare_runs.py --operators A B    profiles of two runs (`compare_operators.py`)

Runs that differ by their seed alone (DIR/NAME/seedN, or NAME_seedN) share a row: mean [least, most]. A run without
`summary.json` is unfinished and shown as such. Runs of different models or data are refused, unless --anyway.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import math
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import partition_report
from run_metric import Metric, metrics_of
from run_reader import Run, cluster_samples, groups, keep_small, path_of, read_run, staleness_mean
from system_table import system_table

MUST_BE_EQUAL = ("model.", "data.")
MAY_DIFFER = (
    "seed", "strategy.", "cluster.", "monitor.", "checkpoint.", "compilation_cache", "data.data_dir", "data.cache",
    "data.prefetch", "log_every_steps", "eval_every_epochs", "eval_batch_size",
)  # fmt: skip

HOSTS = "What the hosts spent, mean [least, most]"

Value = Callable[[Run], float | None]


def _of_summary(*keys: str) -> Value:
    def value(run: Run) -> float | None:
        assert run.summary is not None
        found: Any = run.summary
        for key in keys:
            found = found.get(key) if found is not None else None
        return found

    return value


def _bytes_sent(run: Run) -> float | None:
    samples = cluster_samples(run)
    return 2.0 * sum(samples["network"]) if samples else None


def _cpu(run: Run) -> float | None:
    samples = cluster_samples(run)
    return sum(samples["cpu"]) / len(samples["cpu"]) if samples else None


def _memory(run: Run) -> float | None:
    return max(cluster_samples(run).get("memory", [0.0])) or None


def columns(metrics: Sequence[Metric], wanted: float) -> list[tuple[str, Value, Callable[[float], str]]]:
    """(title, value of a run, how it is written).

    `wanted`: of the first metric, for the seconds until it was reached.
    """
    first = metrics[0]

    def reached(run: Run) -> float | None:
        return next((row["time"] for row in run.evaluations if first.reaches(row.get(first.name), wanted)), None)

    others = [(f"validation {m.words}", _of_summary(f"validation_{m.name}"), m.text) for m in metrics[1:]]
    return [
        (f"training {first.words}", _of_summary(f"train_{first.name}"), first.text),
        (f"validation {first.words}", _of_summary(f"validation_{first.name}"), first.text),
        *others,
        ("training loss", _of_summary("train_loss"), lambda v: f"{v:.4f}"),
        ("validation loss", _of_summary("validation_loss"), lambda v: f"{v:.4f}"),
        ("elapsed s", _of_summary("elapsed_seconds"), lambda v: f"{v:.0f}"),
        ("of them training", _of_summary("phase_seconds", "train"), lambda v: f"{v:.0f}"),
        (f"s to {first.factor * wanted:g}{first.unit[1:]}", reached, lambda v: f"{v:.0f}"),
        ("images/s", _of_summary("images_per_second"), lambda v: f"{v:.0f}"),
        ("staleness", lambda run: staleness_mean(run.summary or {}), lambda v: f"{v:.2f}"),
        ("network MB", _bytes_sent, lambda v: f"{v / 1e6:.0f}"),
        ("CPU, %", _cpu, lambda v: f"{100 * v:.0f}"),
        ("peak memory GiB", _memory, lambda v: f"{v / 2**30:.2f}"),
    ]


def table(grouped: Mapping[str, Sequence[Run]], reached: float) -> list[list[str]]:
    """Header and rows: a group of runs each, of those that have ended; `reached`: what `columns` wants."""
    wanted = columns(metrics_of([run for runs in grouped.values() for run in runs]), reached)
    rows = [["run", "seeds", *(title for title, _, _ in wanted)]]
    for name, runs in grouped.items():
        ended = [run for run in runs if run.summary is not None]
        unfinished = len(runs) - len(ended)
        seeds = f"{len(ended)}" + (f" ({unfinished} unfinished)" if unfinished else "")
        if not ended:
            rows.append([name, *["unfinished"] * (len(wanted) + 1)])
            continue
        rows.append([name, seeds, *(cell([value(run) for run in ended], form) for _, value, form in wanted)])
    return rows


def cell(values: Sequence[float | None], form: Callable[[float], str]) -> str:
    found = [v for v in values if v is not None]
    if not found:
        return "-"
    text = form(sum(found) / len(found))
    if len(found) > 1:
        text += f" [{form(min(found))}, {form(max(found))}]"
    return text + (f" ({len(found)} of {len(values)})" if len(found) < len(values) else "")


def markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]) + "\n"


def differences(runs: Sequence[Run]) -> tuple[list[str], list[str]]:
    """What differs: (what makes a comparison meaningless, what a reader should know)."""
    fatal: list[str] = []
    notable: list[str] = []
    configured = [run for run in runs if run.config]
    for key in sorted({key for run in configured for key in run.config}):
        by_value: dict[str, list[str]] = {}
        for run in (run for run in configured if key in run.config):  # older runs lack newer keys
            by_value.setdefault(json.dumps(run.config[key]), []).append(run.name)
        bad = key.startswith(MUST_BE_EQUAL) and not key.startswith(MAY_DIFFER)
        if len(by_value) > 1 and (bad or not key.startswith(MAY_DIFFER)):
            text = f"{key} is " + ", ".join(f"{value} in {_some(names)}" for value, names in by_value.items())
            (fatal if bad else notable).append(text)
    return fatal, notable


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} others"


def common_value(grouped: Mapping[str, Sequence[Run]]) -> float:
    """What every run that has ended reached of the first metric: the best half percent of an accuracy."""
    ended = [run for runs in grouped.values() for run in runs if run.evaluations and run.summary is not None]
    metric = metrics_of(ended)[0]
    every = [[r[metric.name] for r in run.evaluations if r.get(metric.name) is not None] for run in ended]
    best = [metric.best(values) for values in every if values]
    if metric.higher_is_better:
        return int(200 * min(best, default=0.0)) / 200
    worst = max(best, default=0.0)
    step = 10.0 ** (math.floor(math.log10(worst)) - 2) if worst > 0 else 1.0  # three digits, rounded up
    return float(f"{math.ceil(worst / step * (1 - 1e-9)) * step:.12g}")


def _html(rows: Sequence[Sequence[str]]) -> str:
    cells = ["".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) for tag, row in
             (("th" if k == 0 else "td", row) for k, row in enumerate(rows))]  # fmt: skip
    body = "".join(f"<tr>{row}</tr>\n" for row in cells)
    return f'<div class="scroll"><table>\n{body}</table></div>\n'


# Of reports that are one HTML file: its tables, beside what each adds.
STYLE = """\
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem; color: #111; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ccc; padding: .3rem .6rem; text-align: right; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
"""


def page(
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    svg: str,
    png: bytes,
    hosts: Sequence[Sequence[str]] = (),
    parts: Sequence[Sequence[str]] = (),
) -> str:
    """The report as one HTML file that needs nothing else.

    `hosts`: what they spent; `parts`: which targets workers had. Tables of their own.
    """
    more = ((HOSTS, hosts), (partition_report.TITLE, parts))
    spent = "".join(f"<h2>{title}</h2>\n{_html(table)}" for title, table in more if table)
    remarks = "".join(f"<p>{html.escape(note)}</p>\n" for note in notes)
    picture = svg[svg.index("<svg") :] if svg else ""
    fallback = f'<p><a download="comparison.png" href="data:image/png;base64,{base64.b64encode(png).decode()}">'
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Comparison of runs</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
{STYLE}th:first-child, td:first-child {{ text-align: left; }}
svg {{ max-width: 100%; height: auto; }}
</style></head><body>
<h1>Comparison of runs</h1>
{_html(rows)}{remarks}{picture}
{fallback + "the picture as PNG</a></p>" if png else ""}
{spent}</body></html>
"""


def main(argv: Sequence[str]) -> int:
    if "--operators" in argv:
        import compare_operators

        return compare_operators.main(argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=path_of)
    parser.add_argument("--out", type=path_of, default=pathlib.Path("."))
    parser.add_argument(
        "--accuracy",
        type=float,
        default=0.0,
        help="of the column 's to'; 0: what all have reached",
    )
    parser.add_argument("--keep", type=path_of, help="write each run's small result files here, GROUP/seedN")
    parser.add_argument("--anyway", action="store_true", help="compare runs of different models or data")
    options = parser.parse_args(argv)
    missing = [str(folder) for folder in options.runs if not folder.is_dir()]
    if missing:
        print(f"Not a run directory: {', '.join(missing)}.", file=sys.stderr)
        return 2
    runs = [read_run(folder) for folder in options.runs]
    fatal, notable = differences(runs)
    if fatal and not options.anyway:
        print(
            f"These runs are of different models or data: {'; '.join(fatal)}. (--anyway compares them.)",
            file=sys.stderr,
        )
        return 2
    grouped = groups(runs)
    accuracy = options.accuracy or common_value(grouped)
    rows, hosts, parts = table(grouped, accuracy), system_table(grouped), partition_report.table(grouped)
    notes = ["Means over seeds [least, most]. Network: bytes that left the hosts, and those of their loopback.",
             *(f"Differs: {text}." for text in [*fatal, *notable])]  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    if options.keep:
        for run in runs:
            keep_small(run, options.keep / run.group / f"seed{run.config.get('seed', 0)}")
    svg, png, code = "", b"", 0
    try:
        svg, png = _pictures(grouped)
        (options.out / "comparison.png").write_bytes(png)
        if parts:
            partition_report.draw(grouped).savefig(options.out / "partition.png", dpi=110)
    except ImportError as e:
        print(f"No plots: they need the extra 'report' ({e}).", file=sys.stderr)
        code = 1
    text = markdown(rows) + "\n" + "\n\n".join(notes) + "\n"
    spent = f"\n{HOSTS}:\n\n{markdown(hosts)}" if hosts else ""
    if parts:
        spent += f"\n{partition_report.TITLE}:\n\n{markdown(parts)}" + ("\n![Bars](partition.png)\n" if png else "")
    (options.out / "comparison.md").write_text(text + ("\n![Plots](comparison.png)\n" if png else "") + spent)
    (options.out / "comparison.html").write_text(page(rows, notes, svg, png, hosts, parts))
    print(text + spent, end="")
    return code


def _pictures(grouped: Mapping[str, Sequence[Run]]) -> tuple[str, bytes]:
    from run_plots import draw

    figure = draw(grouped)
    vector, raster = io.StringIO(), io.BytesIO()
    figure.savefig(vector, format="svg")
    figure.savefig(raster, format="png", dpi=110)
    return vector.getvalue(), raster.getvalue()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
