"""Shows runs while they go on: progress, rates, each process's state, CPU and memory, the last events.

    pip install 'jaxdist[monitor]'
    python tools/watch.py DIR [DIR ...] [--interval=1] [--once]

DIR is a run directory, and may be on another host's disk that is mounted here. Ends with 0 when all runs are over, or
at Ctrl-C; without a terminal, or with --once, it prints one view. A run that was killed is shown as such where this
host can tell; a process of another host that writes nothing any more is `silent`, and
`unknown` where it has no samples (`monitor.interval_seconds=0`).
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from run_follower import FollowedRun, Process, Row
from run_reader import path_of

_COLOURS = {"finished": "green", "running": "cyan", "done": "green", "starting": "cyan", "stopped": "yellow",
            "unknown": "yellow"}  # fmt: skip
_EVENTS = 5


def view(runs: Sequence[FollowedRun], now: float, height: int = 0) -> Any:
    """All runs, one panel each, as Rich draws them; `height`: lines that there are for them, 0: any number."""
    from rich.console import Group

    return Group(*(panel(run, now, height // len(runs) if height else 0) for run in runs))


def panel(run: FollowedRun, now: float, height: int = 0) -> Any:
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    state = run.state(now)
    ended = [f"{p.name}: {p.ended[1]}" for p in run.processes.values() if p.ended and p.ended[0] != "done"]
    parts: list[Any] = [_progress(run, state), *(Text(line) for line in _numbers(run))]
    most = len(run.processes) if not height else max(height - len(parts) - _EVENTS - 7, 3)
    parts += [Text(), _processes(run, now, most), *(Text(words, style="red") for words in ended[:2])]
    events = list(run.events)[-_EVENTS:]
    if events:
        parts += [Text(), *(Text(_event(row), no_wrap=True, overflow="ellipsis") for row in events)]
    return Panel(
        Group(*parts), title=Text(str(run.folder)), title_align="left", border_style=_COLOURS.get(state, "red")
    )


def _progress(run: FollowedRun, state: str) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    seen, total = run.examples()
    rate = run.train.get("images_per_second", 0)
    left = f"{_clock((total - seen) / rate)} left" if rate and total > seen and state == "running" else ""
    share = f"{100 * seen / total:.0f} %" if total else "- %"
    grid = Table.grid(expand=True, padding=(0, 1))
    for ratio in (None, 1, None, None):
        grid.add_column(ratio=ratio, no_wrap=True)
    bar = ProgressBar(total=max(total, 1), completed=min(seen, total))
    grid.add_row(Text(state, style=f"bold {_COLOURS.get(state, 'red')}"), bar, share, left)
    return grid


def _numbers(run: FollowedRun) -> list[str]:
    """Lines of numbers, each of what there is."""
    train, found = run.train, run.evaluation
    newest = max((train, found, *list(run.events)[-1:]), key=lambda row: row.get("time", -1.0))
    names = [str(run.config.get(key, "")) for key in ("model.name", "data.name")]
    what = _joined(" on ".join(names) if all(names) else "", run.phase)
    place = _joined(
        f"epoch {newest['epoch']:.2f} of {run.config['num_epochs']:g}" if newest and run.config else "",
        _some(newest, "updates", "update {}"),
        f"{_clock(newest['time'])} since the start" if newest else "",
    )
    rates = _joined(
        _some(train | (run.summary or {}), "images_per_second", "{:.0f} images/s"),
        _some(train, "step_ms", "step {:.1f} ms"),
        _some(train, "data_wait_ms", "data wait {:.2f} ms"),
        _some(train, "staleness_mean", "staleness {:.1f}"),
        _some(train, "staleness_max", "at most {}"),
        _some(train, "bubble", "bubble {:.2f}"),
    )
    quality = [
        _joined(
            _some(row, "loss", kind + " loss {:.4f}"),
            f"accuracy {100 * row['accuracy']:.1f} %" if row.get("accuracy") is not None else _error(row),
            f"at update {row['updates']}" if row else "",
        )
        for kind, row in (("train", train), ("validation", found))
    ]
    return [line for line in (what, place, rates, *quality) if line]


def _error(row: dict[str, Any]) -> str:
    """Of a row without an accuracy, what else it has."""
    return _some(row, "mean_absolute_error", "mean absolute error {:.4g}")


def _processes(run: FollowedRun, now: float, most: int) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(expand=True, box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("process", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for title in ("CPU", "system", "memory", "host CPU", "wait", "out"):
        table.add_column(title, justify="right", no_wrap=True)
    shown = sorted(run.processes.values(), key=_place)
    if len(shown) > most:  # those that need a look first
        shown.sort(key=lambda process: process.state(now) in ("running", "done"))
    for process in shown[:most]:
        state, sample = process.state(now), process.sample or {}
        percent = _percent(sample, "host_cpu")
        network = [sample[key] for key in ("host_sent_per_second", "loopback_per_second") if key in sample]
        table.add_row(
            process.name,
            Text(state, style=_COLOURS.get(state, "red")),
            _some(sample, "cpu", "{:.2f}"),
            _some(sample, "cpu_system", "{:.2f}"),
            f"{sample['memory_bytes'] / 2**20:.0f} MiB" if "memory_bytes" in sample else "",
            percent,
            _percent(sample, "host_cpu_iowait"),
            f"{sum(network) / 1e6:.1f} MB/s" if network else "",
        )
    if len(shown) > most:
        table.add_row(f"and {len(shown) - most} more")
    return table


def _place(process: Process) -> tuple[str, int]:
    """worker-2 before worker-10."""
    kind, _, number = process.name.partition("-")
    return kind, int(number) if number.isdigit() else 0


def _percent(sample: Row, key: str) -> str:
    return f"{100 * sample[key] / sample['host_cores']:.0f} %" if key in sample else ""


def _event(row: Row) -> str:
    """'0:01:12  saved (update 40)', with what else its row has to say."""
    known = ("kind", "time", "event", "updates", "examples_seen", "epoch")
    more = [
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if key not in known
    ]
    return f"{_clock(row['time'])}  {row['event']} (update {row['updates']}){': ' if more else ''}{', '.join(more)}"


def _some(row: Row, key: str, form: str) -> str:
    return form.format(row[key]) if row.get(key) is not None else ""


def _joined(*words: str) -> str:
    return " · ".join(word for word in words if word)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=path_of, metavar="DIR")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two looks; at least 0.1")
    parser.add_argument("--once", action="store_true", help="print one view, also while the runs go on")
    options = parser.parse_args(argv)
    try:
        runs = [FollowedRun(folder) for folder in options.runs]
    except ValueError as e:
        print(f"watch: {e} Start the run first, and give its --workdir.", file=sys.stderr)
        return 2
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError as e:
        print(f"watch needs the extra 'monitor': pip install 'jaxdist[monitor]' ({e}).", file=sys.stderr)
        return 1
    console = Console()

    def look() -> bool:
        """Reads what is new; whether all runs are over."""
        for run in runs:
            run.look()
        return all(run.is_over(time.time()) for run in runs)

    over = look()
    if over or options.once or not console.is_terminal:
        console.print(view(runs, time.time()))
        return 0
    with contextlib.suppress(KeyboardInterrupt):
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(view(runs, time.time(), 0 if over else console.height), refresh=True)
                if over:
                    break
                time.sleep(max(options.interval, 0.1))
                over = look()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
