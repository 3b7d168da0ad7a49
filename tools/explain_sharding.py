"""What a configuration of strategy.name=model_parallel (or allreduce) divides, and what a step of it sends.

    python tools/explain_sharding.py --config=experiments/resnet_model_parallel.py --devices=2 [--config.KEY=VALUE ...]
        [--out=FILE.png]

Nothing is trained: the step is compiled for as many devices of this process as the run is to have in all, and its
collectives are read from the program. Times are latency * collectives + bytes / bandwidth, with nothing overlapped.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "experiment file", lock_config=True)
_DEVICES = flags.DEFINE_integer("devices", 2, "devices of all processes of the run", lower_bound=1)
_OUT = flags.DEFINE_string("out", "", "a picture of the parameters' bytes on one device; needs the extra 'report'")
# (name, seconds for one collective to begin, bytes a second)
NETWORKS = (("1 Gbit/s, 0.2 ms", 2e-4, 1e9 / 8), ("10 Gbit/s, 0.05 ms", 5e-5, 1e10 / 8))


def table(arrays: Mapping[str, Any]) -> list[tuple[str, str, str, int, int]]:
    """(path, shape, partition, bytes in all, bytes on one device) of each parameter."""
    from jaxdist.state import flatten

    found = []
    for path, array in flatten(arrays).items():
        spec = ", ".join(str(axis or "-") for axis in array.sharding.spec) or "whole"
        shape = "x".join(map(str, array.shape))
        found.append((path, shape, spec, array.nbytes, array.addressable_shards[0].data.nbytes))
    return found


def explain(config: Any, devices: int) -> tuple[list[tuple[str, str, str, int, int]], dict[str, Any]]:
    """(rows of `table`; totals: optimizer bytes on one device, collectives, scratch bytes)."""
    from jaxdist import cluster, strategies
    from jaxdist.cluster import ProcessGroup
    from jaxdist.config import validate
    from jaxdist.runtime import compilation
    from jaxdist.state import Position
    from jaxdist.strategies.data_parallel.allreduce import AllReduce
    from jaxdist.train import setup

    validate(config)
    compilation.set_up(config.compilation_cache, config.model.param_dtype)
    examples = setup.load_examples(config)
    task = setup.make_task(config, examples)
    size = config.global_batch_size
    settings = config.strategy.copy_and_resolve_references()
    settings.memory_limit = 0.0  # of a process; here one has the devices of all
    strategies.check(settings, task, global_batch_size=size, num_processes=1, num_devices=devices)
    group = ProcessGroup.alone(cluster.Cluster(), config.cluster)
    strategy = strategies.build(
        settings, task, global_batch_size=size, process_id=0, num_processes=1, group=group, timeouts=config.cluster
    )
    if not isinstance(strategy, AllReduce):
        raise SystemExit(f"strategy.name={settings.name!r} has no mesh: this tool is for model_parallel and allreduce.")
    state = strategy.import_state(task.init())
    positions = next(iter(strategy.positions(Position(0), size)))
    batch = strategy.place(examples.loader.train_batch(examples.train, examples.stream, positions))
    program = strategy.prepare(state, batch)
    slots = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state.arrays["opt_state"]))
    scratch = getattr(program.memory_analysis(), "temp_size_in_bytes", 0)  # None where XLA does not say
    totals = {"optimizer": slots, "collectives": strategy.collectives(), "scratch": scratch}
    order = {name: number for number, name in enumerate(task.model.names)}
    return sorted(table(state.arrays["params"]), key=lambda row: order[row[0].split("/")[0]]), totals


def show(rows: list[tuple[str, str, str, int, int]], totals: Mapping[str, Any], devices: int) -> str:
    """The tables, as Markdown."""
    lines = ["| parameter | shape | partition | KB | KB on a device |", "|---|---|---|---|---|"]
    lines += [f"| {p} | {shape} | {spec} | {w / 1e3:.1f} | {own / 1e3:.1f} |" for p, shape, spec, w, own in rows]
    whole, own = sum(row[3] for row in rows), sum(row[4] for row in rows)
    lines.append(f"| all | | | {whole / 1e3:.1f} | {own / 1e3:.1f} ({own / whole:.1%}) |")
    lines += [
        "",
        f"On each of {devices} device(s): parameters {own / 1e6:.3f} MB, optimizer {totals['optimizer'] / 1e6:.3f}",
    ]
    lines[-1] += f" MB, about {totals['scratch'] / 1e6:.1f} MB of scratch space for activations and gradients."
    lines += ["", "| one step | count | MB (results) | MB sent by a device |", "|---|---|---|---|"]
    for kind, total in totals["collectives"].items():
        sent = total["bytes_sent"] / 1e6
        lines.append(f"| {kind} | {total['count']} | {total['bytes'] / 1e6:.3f} | {sent:.3f} |")
    count = sum(total["count"] for total in totals["collectives"].values())
    sent = sum(total["bytes_sent"] for total in totals["collectives"].values())
    lines.append("")
    for name, latency, bandwidth in NETWORKS:
        lines.append(f"Over {name}: about {1e3 * (count * latency + sent / bandwidth):.1f} ms a step.")
    return "\n".join(lines)


def draw(rows: list[tuple[str, str, str, int, int]], devices: int, out: pathlib.Path) -> None:
    """Each block's parameters on one device, divided and whole, beside what all devices hold together."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    blocks = list(dict.fromkeys(row[0].split("/")[0] for row in rows))
    divided, whole, undivided = ([0.0] * len(blocks) for _ in range(3))
    for path, _, spec, everywhere, own in rows:
        at = blocks.index(path.split("/")[0])
        (whole if spec == "whole" else divided)[at] += own / 1e3
        undivided[at] += everywhere / 1e3
    figure, axis = plt.subplots(figsize=(8, 1.2 + 0.22 * len(blocks)), layout="constrained")
    places = range(len(blocks))
    axis.barh(places, undivided, height=0.8, color="none", edgecolor="black", linewidth=0.6, label="undivided")
    axis.barh(places, divided, height=0.8, color="#56B4E9", label="divided: on one device")
    axis.barh(places, whole, left=divided, height=0.8, color="#E69F00", hatch="//", label="whole on every device")
    axis.set_yticks(places, blocks, fontsize=7)
    axis.invert_yaxis()
    axis.set_xlabel(f"KB of parameters ({devices} devices)")
    axis.legend(fontsize=7)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.savefig(out, dpi=150)


def main(_: list[str]) -> None:
    from jaxdist.errors import UsageError

    jax.config.update("jax_num_cpu_devices", _DEVICES.value)
    try:
        rows, totals = explain(_CONFIG.value, _DEVICES.value)
    except UsageError as e:
        print(f"jaxdist: error: {e}", file=sys.stderr)
        sys.exit(2)
    print(show(rows, totals, _DEVICES.value))
    if _OUT.value:
        draw(rows, _DEVICES.value, pathlib.Path(_OUT.value))
        print(f"\n{_OUT.value}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
