"""The numbers of this process for Prometheus, at http://ADDRESS:PORT/metrics while it runs.

    rows, when they are recorded ---> show(...) ---> the newest number of each name ---> a scrape reads it
    samples, when they are taken

Nothing is computed for a scrape, and a scrape delays nobody but the thread that answers it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from jaxdist.errors import UsageError

_ABOVE_PORT = {"worker": 0, "evaluator": 999, "server": 1000}
PORTS = 2000  # above the port of the knob, for up to 999 workers and 1,000 servers of one host
_COUNTED = {"bytes_sent": "sent_bytes", "bytes_received": "received_bytes", "updates_skipped": "updates_skipped"}


class Numbers:
    """The newest numbers, and sums of what rows count. Thread-safe; what is no number is passed over.

    Args:
      process: 'worker-0', 'server-1', ...: the label of every number.
    """

    def __init__(self, process: str) -> None:
        self._process = process
        self._lock = threading.Lock()
        self._newest: dict[str, float] = {}
        self._sums: dict[str, float] = {}

    def show(self, numbers: Mapping[str, Any], prefix: str = "jaxdist_") -> None:
        """Milliseconds become seconds; of what a row counts since the one before, the sum is shown."""
        with self._lock:
            for key, value in numbers.items():
                if isinstance(value, bool) or not isinstance(value, int | float):
                    continue
                if key in _COUNTED:
                    name = prefix + _COUNTED[key]
                    self._sums[name] = self._sums.get(name, 0.0) + value
                elif key.endswith("_ms"):
                    self._newest[f"{prefix}{key.removesuffix('_ms')}_seconds"] = value / 1000
                else:
                    self._newest[prefix + key] = value

    def show_sample(self, sample: Mapping[str, Any]) -> None:
        """A line of `system/`; of its network, what all interfaces have together."""
        self.show({k: v for k, v in sample.items() if k not in ("unix_time", "seconds", "pid")}, "jaxdist_system_")

    def collect(self) -> Iterator[Any]:
        """What prometheus_client asks of a collector."""
        from prometheus_client import core

        with self._lock:
            kinds = ((core.GaugeMetricFamily, dict(self._newest)), (core.CounterMetricFamily, dict(self._sums)))
        for family, numbers in kinds:
            for name, value in numbers.items():
                metric = family(name, name.removeprefix("jaxdist_").replace("_", " "), labels=["process"])
                metric.add_metric([self._process], value)
                yield metric

    def describe(self) -> list[Any]:
        """Nothing is known before the first row."""
        return []


@contextlib.contextmanager
def serving(settings: Any, role: str, number: int) -> Iterator[Numbers | None]:
    """Serves the numbers while open, with those of the operating system about this process (Linux).

    Args:
      settings: `config.monitor`. Where its prometheus_port is 0, nothing is served, and this gives None.
      role, number: of the process. Those of one host have a port each: worker I at the port + I, the evaluator and
        server J far above.

    Raises:
      UsageError: the port is in use or forbidden, the address is not this host's, or the package is missing.
    """
    if not settings.prometheus_port:
        yield None
        return
    process = role if role == "evaluator" else f"{role}-{number}"
    address, port = settings.prometheus_address, settings.prometheus_port + _ABOVE_PORT[role] + number
    key = "monitor.prometheus_port"
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
    except ImportError as e:
        raise UsageError(f"{key} needs the extra 'monitor': pip install 'jaxdist[monitor]' ({e}).") from e
    numbers = Numbers(process)
    registry = CollectorRegistry()
    registry.register(numbers)  # type: ignore[arg-type]
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as e:
        raise UsageError(
            f"{key}={settings.prometheus_port}: {process} cannot serve its metrics at {address}:{port} "
            f"({e.strerror or e}); choose another {key} or monitor.prometheus_address."
        ) from e
    logging.info("Metrics of %s for Prometheus are at http://%s:%d/metrics.", process, address, port)
    try:
        yield numbers
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=2.0)
