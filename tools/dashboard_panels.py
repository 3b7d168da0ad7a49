"""What the page of dashboard.py draws: its panels, and the rows' and samples' keys in them."""

from __future__ import annotations

from typing import Any


def _line(stream: str, key: str, scale: float = 1.0, look: str = "solid", label: str = "") -> dict[str, Any]:
    return {"stream": stream, "key": key, "scale": scale, "look": look, "label": label}


def _measure(label: str, *lines: dict[str, Any], log: bool = False) -> dict[str, Any]:
    return {"label": label, "lines": lines, "log": log}


def _both(key: str, scale: float = 1.0) -> tuple[dict[str, Any], ...]:
    return _line("eval", key, scale, "marked", "validation"), _line("train", key, scale, "thin", "training")


def _host(label: str, key: str, scale: float = 1.0) -> dict[str, Any]:
    return _measure(label, _line("system", key, scale))


# What the page draws, in its order; of the measures of a panel one is shown at a time, at first the first.
# `from_zero`: the axis begins there. Keys that a run does not have are left out, and so is an `optional` panel.
PANELS: tuple[dict[str, Any], ...] = (
    {"title": "accuracy", "unit": "%", "from_zero": False, "measures": [
        _measure("validation and training", *_both("accuracy", 100.0)),
        _measure("validation", _line("eval", "accuracy", 100.0, "marked")),
        _measure("training", _line("train", "accuracy", 100.0)),
        _measure("holdout", _line("eval", "holdout_accuracy", 100.0, "marked")),
    ]},
    {"title": "errors", "unit": "", "from_zero": True, "optional": True, "measures": [
        _measure("mean absolute error", *_both("mean_absolute_error")),
        _measure("root mean squared error", *_both("root_mean_squared_error")),
        _measure("sigma NMAD", _line("eval", "sigma_nmad", 1.0, "marked")),
        _measure("kappa", _line("eval", "kappa", 1.0, "marked")),
        _measure("average accuracy", _line("eval", "average_accuracy", 1.0, "marked")),
    ]},
    {"title": "loss", "unit": "", "from_zero": False, "measures": [
        _measure("validation and training", *_both("loss")),
        _measure("validation and training, log", *_both("loss"), log=True),
        _measure("validation", _line("eval", "loss", 1.0, "marked")),
        _measure("training", _line("train", "loss")),
        _measure("holdout", _line("eval", "holdout_loss", 1.0, "marked")),
    ]},
    {"title": "throughput", "unit": "images/s", "from_zero": True, "measures": [
        _measure("images/s", _line("train", "images_per_second")),
        _measure("ms a step", _line("train", "step_ms")) | {"unit": "ms"},
        _measure("wait for data, ms a step", _line("train", "data_wait_ms")) | {"unit": "ms"},
        _measure("learning rate", _line("train", "learning_rate")) | {"unit": ""},
    ]},
    {"title": "staleness", "unit": "updates", "from_zero": True, "measures": [
        _measure("mean and highest", _line("train", "staleness_mean", 1.0, "solid", "mean"),
                 _line("train", "staleness_max", 1.0, "thin", "highest")),
        _measure("clock lead", _line("train", "clock_lead_max")) | {"unit": "steps"},
    ]},
    {"title": "CPU", "unit": "cores busy, all hosts", "from_zero": True, "measures": [
        _measure("busy, user, system, iowait", _line("system", "host_cpu", 1.0, "solid", "busy"),
                 _line("system", "host_cpu_user", 1.0, "dashed", "user"),
                 _line("system", "host_cpu_system", 1.0, "dotted", "system"),
                 _line("system", "host_cpu_iowait", 1.0, "thin", "iowait")),
        _host("busy", "host_cpu"), _host("user", "host_cpu_user"), _host("system", "host_cpu_system"),
        _host("nice", "host_cpu_nice"), _host("iowait", "host_cpu_iowait"), _host("steal", "host_cpu_steal"),
        _measure("the run's processes", _line("system", "cpu", 1.0, "solid", "all"),
                 _line("system", "cpu_user", 1.0, "dashed", "user"),
                 _line("system", "cpu_system", 1.0, "dotted", "system")) | {"unit": "cores busy"},
    ]},
    {"title": "memory", "unit": "GiB", "from_zero": True, "measures": [
        _host("the run's processes", "memory_bytes", 2.0**-30),
        _host("hosts: used", "host_memory_bytes", 2.0**-30),
        _host("hosts: available", "host_memory_available_bytes", 2.0**-30),
        _host("hosts: cached", "host_memory_cached_bytes", 2.0**-30),
        _host("hosts: buffers", "host_memory_buffers_bytes", 2.0**-30),
        _host("hosts: swap", "host_swap_bytes", 2.0**-30),
    ]},
    {"title": "network", "unit": "MB/s, all hosts", "from_zero": True, "measures": [
        _host("sent, loopback too", "network", 1e-6),
        _host("sent to other hosts", "host_sent_per_second", 1e-6),
        _host("received from other hosts", "host_received_per_second", 1e-6),
        _host("loopback", "loopback_per_second", 1e-6),
    ]},
    {"title": "disk", "unit": "MB/s, all hosts", "from_zero": True, "optional": True, "measures": [
        _measure("read and written", _line("system", "disk_read_per_second", 1e-6, "solid", "read"),
                 _line("system", "disk_written_per_second", 1e-6, "dashed", "written")),
    ]},
)  # fmt: skip


def _keys_of(stream: str) -> list[str]:
    every = (line for panel in PANELS for measure in panel["measures"] for line in measure["lines"])
    return sorted({line["key"] for line in every if line["stream"] == stream})


TRAIN_KEYS, EVAL_KEYS = _keys_of("train"), _keys_of("eval")
