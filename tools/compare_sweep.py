"""Puts the runs of a sweep side by side, by batch size and system: tables and plots, as Markdown and as one HTML file.

    pip install 'jaxdist[report]'
    python tools/compare_sweep.py DIR --out=DIR [--keep=DIR]
    python tools/compare_sweep.py DIR --page=experiments/results/system_comparison.md --name=a

DIR has the runs of tools/reproduce.py, POINT/SYSTEM/seedN, as batch_96/allreduce_2x1/seed0; seeds share a row: mean
[least, most]. With --page the tables go into that page, between `<!-- sweep NAME -->` and `<!-- end of sweep NAME -->`.
"""

from __future__ import annotations

import argparse
import html
import io
import json
import pathlib
import sys
import textwrap
from collections.abc import Sequence

import operator_kinds
import sweep_tables
from compare_runs import STYLE, differences, markdown
from run_reader import keep_small, path_of
from sweep_tables import Sweep, Table

_NAMES = ("batch", "point", "system", "kind")  # columns of words, not of numbers
_BY_DESIGN = ("global_batch_size is", "strategy.name is", "log_every_steps is")


def sections(sweep: Sweep) -> list[tuple[str, Table]]:
    """(title, table), operators of the smallest and of the largest point last."""
    found = [
        ("Seconds by phase", sweep_tables.phases(sweep)),
        ("Speed, loss and accuracy", sweep_tables.training(sweep)),
        ("Machines", sweep_tables.machines(sweep)),
    ]
    for point in sorted({sweep.points[0], sweep.points[-1]}, key=sweep_tables.number_of):
        if table := sweep_tables.operators(sweep, point):
            found.append((f"Operators of a step, {point.replace('_', ' ')}: self ms", table))
    return found


def notes(sweep: Sweep, notable: Sequence[str]) -> list[str]:
    """What a reader has to know beside the tables."""
    found = [
        "`2x1` is two processes of one core each, `1x2` one process of two cores. Seconds are of worker 0. A phase is "
        "what training waited for; what is hidden went on behind it. 'ms a global batch' is of all workers together.",
    ]
    every = [run for runs in sweep.cells.values() for run in runs]
    if len({"startup" in (run.summary or {}).get("phase_seconds", {}) for run in every}) > 1:
        found.append("Runs without `startup` do not count it in their total; the others do.")
    if peers := [run.summary for run in every if run.summary and "losses_of_torch" in run.summary]:
        ours, theirs = peers[0]["losses_of_ours"], peers[0]["losses_of_torch"]
        keys = [key for key in theirs if key.startswith("loss")]
        words = [f"{key.replace('_after_', ' after update ')} {ours[key]:.5f} and {theirs[key]:.5f}" for key in keys]
        found.append(f"Equal weights and examples, ours and PyTorch {peers[0]['torch_version']}: {', '.join(words)}.")
        layouts = sorted({f"{peer['layout']} ({peer['num_workers']} processes)" for peer in peers})
        found.append(f"PyTorch's memory layout is the quicker of two in each run: {', '.join(layouts)}.")
    found += [f"Differs: {text}." for text in notable if not text.startswith(_BY_DESIGN)]
    grid = ((point, system) for point in sweep.points for system in sweep.systems)
    absent = [f"{p}/{s}" for p, s in grid if (p, s) not in sweep.cells]
    if absent:
        found.append(f"Not in the tables: {', '.join(absent)}.")
    if sweep.unfinished:
        found.append(f"Begun, and not ended: {', '.join(sweep.unfinished)}.")
    return found


def as_markdown(parts: Sequence[tuple[str, Table]], remarks: Sequence[str], level: str = "##") -> str:
    tables = "\n".join(f"{level} {title}\n\n{markdown(table)}" for title, table in parts)
    return tables + "\n" + "\n\n".join(textwrap.fill(remark, 120, break_long_words=False) for remark in remarks)


def as_html(parts: Sequence[tuple[str, Table]], remarks: Sequence[str], svg: str) -> str:
    """One file that needs nothing else."""
    body = ""
    for title, table in parts:
        rows = ""
        for k, row in enumerate(table):
            tag = "td" if k else "th"
            left = [' class="name"' if title in _NAMES else "" for title in table[0]]
            cells = (f"<{tag}{how}>{html.escape(text)}</{tag}>" for text, how in zip(row, left, strict=True))
            rows += f"<tr>{''.join(cells)}</tr>\n"
        body += f"<h2>{html.escape(title)}</h2>\n<div class=scroll><table>\n{rows}</table></div>\n"
    body += "".join(f"<p>{html.escape(remark.replace('`', ''))}</p>\n" for remark in remarks)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sweep</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
{STYLE}.name {{ text-align: left; }}
svg {{ max-width: 100%; height: auto; }}
</style></head><body>
<h1>Sweep</h1>
{body}{svg[svg.index("<svg") :] if svg else ""}
</body></html>
"""


def page_with(text: str, name: str, tables: str) -> str:
    """A page with the tables between its markers.

    Raises:
      ValueError: it does not have one pair of them.
    """
    begin, end = f"<!-- sweep {name} -->", f"<!-- end of sweep {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"it must have {begin} and {end} once")
    return f"{text.partition(begin)[0]}{begin}\n\n{tables.strip()}\n\n{end}{text.partition(end)[2]}"


def keep(sweep: Sweep, folder: pathlib.Path) -> None:
    """Copies what is needed to draw the report again."""
    for run in sweep.runs:
        kept = folder / run.name
        keep_small(run, kept)
        if found := operator_kinds.read(run.folder):
            rows = [{"kind": kind, "self_ms": round(ms, 4)} for kind, ms in found.items()]
            (kept / "operators.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=path_of)
    parser.add_argument("--out", type=path_of, help="where the report goes; default: DIR")
    parser.add_argument("--keep", type=path_of, help="write each run's small result files here")
    parser.add_argument("--page", type=path_of, help="write the tables into this page")
    parser.add_argument("--name", default="", help="of the page's markers; default: the name of DIR")
    parser.add_argument("--anyway", action="store_true", help="compare runs of different models or data")
    options = parser.parse_args(argv)
    sweep = sweep_tables.read_sweep(options.sweep)
    if not sweep.cells:
        print(f"{options.sweep} has no run POINT/SYSTEM/seedN that has ended.", file=sys.stderr)
        return 2
    fatal, notable = differences(sweep.runs)
    if fatal and not options.anyway:
        words = "These runs are of different models or data"
        print(f"{words}: {'; '.join(fatal)}. (--anyway compares them.)", file=sys.stderr)
        return 2
    parts, remarks = sections(sweep), notes(sweep, [*fatal, *notable])
    out = options.out or options.sweep
    out.mkdir(parents=True, exist_ok=True)
    if options.keep:
        keep(sweep, options.keep)
    svg, code = "", 0
    try:
        svg = _pictures(sweep, out)
    except ImportError as e:
        print(f"No plots: they need the extra 'report' ({e}).", file=sys.stderr)
        code = 1
    text = as_markdown(parts, remarks)
    (out / "sweep.md").write_text(text + "\n" + ("\n![Plots](sweep.png)\n" if svg else ""))
    (out / "sweep.html").write_text(as_html(parts, remarks, svg))
    if options.page:
        name = options.name or options.sweep.resolve().name
        try:
            changed = page_with(options.page.read_text(), name, as_markdown(parts, remarks, "###"))
        except (OSError, ValueError) as e:
            print(f"{options.page}: {e}", file=sys.stderr)
            return 2
        options.page.write_text(changed)
    print(text)
    return code


def _pictures(sweep: Sweep, out: pathlib.Path) -> str:
    """The figure as SVG; writes it beside the PNG."""
    from sweep_plots import draw

    figure, vector = draw(sweep), io.StringIO()
    figure.savefig(vector, format="svg")
    figure.savefig(out / "sweep.png", dpi=110)
    (out / "sweep.svg").write_text(vector.getvalue())
    return vector.getvalue()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
