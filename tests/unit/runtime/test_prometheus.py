"""Metrics for Prometheus: what a scrape reads, at which port, and what is refused."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import types

import pytest
from free_ports import free_port
from helpers.metrics import scraped

from jaxdist.errors import UsageError
from jaxdist.runtime import prometheus


def settings(port: int, address: str = "127.0.0.1") -> types.SimpleNamespace:
    return types.SimpleNamespace(prometheus_port=port, prometheus_address=address)


def test_a_scrape_reads_the_newest_numbers_while_open(caplog):
    port = free_port()
    with caplog.at_level(logging.INFO), prometheus.serving(settings(port), "worker", 0) as numbers:
        assert f"http://127.0.0.1:{port}/metrics" in caplog.text
        numbers.show({"train_loss": 2.0, "bytes_sent": 100, "strategy": "allreduce", "stage_ms": [1, 2], "on": True})
        numbers.show({"train_loss": 0.5, "bytes_sent": 20, "step_ms": 250.0, "updates": 7})
        numbers.show_sample({"pid": 5, "cpu": 1.5, "host": "a", "interfaces": {"lo": {}}, "memory_bytes": 64})
        found = scraped(port)
    own = {name: value for name, value in found.items() if name.startswith("jaxdist")}
    labels = {"process": "worker-0"}
    assert own == {
        "jaxdist_train_loss": ("gauge", 0.5, labels),
        "jaxdist_step_seconds": ("gauge", 0.25, labels),
        "jaxdist_updates": ("gauge", 7.0, labels),
        "jaxdist_sent_bytes_total": ("counter", 120.0, labels),
        "jaxdist_system_cpu": ("gauge", 1.5, labels),
        "jaxdist_system_memory_bytes": ("gauge", 64.0, labels),
    }
    if sys.platform == "linux":
        assert found["process_resident_memory_bytes"][1] > 1e7
    with socket.socket() as s:  # it is free again
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", port))


def test_processes_of_one_host_have_a_port_each():
    with contextlib.ExitStack() as open_ports:
        for attempt in range(10):
            base = free_port()
            with contextlib.ExitStack() as these:
                try:
                    these.enter_context(prometheus.serving(settings(base), "worker", 3))
                    server = these.enter_context(prometheus.serving(settings(base), "server", 0))
                    these.enter_context(prometheus.serving(settings(base), "evaluator", 0))
                except UsageError:  # somebody else's port is among the three
                    if attempt == 9:
                        raise
                    continue
                open_ports.enter_context(these.pop_all())
                break
        server.show({"updates": 3})
        assert scraped(base + 1000)["jaxdist_updates"] == ("gauge", 3.0, {"process": "server-0"})
        assert scraped(base + 3) and scraped(base + 999)


def test_off_and_what_is_refused(monkeypatch):
    with prometheus.serving(settings(0), "worker", 0) as nothing:
        assert nothing is None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = rf"monitor.prometheus_port={port}: worker-0 cannot serve its metrics at 127.0.0.1:{port} \(.* in use\)"
        with pytest.raises(UsageError, match=words), prometheus.serving(settings(port), "worker", 0):
            pass
    elsewhere = settings(free_port(), "192.0.2.1")  # an address for documentation
    with pytest.raises(UsageError, match=r"cannot serve its metrics at 192\.0\.2\.1"):
        with prometheus.serving(elsewhere, "worker", 0):
            pass
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UsageError, match=r"needs the extra 'monitor': pip install 'jaxdist\[monitor\]'"):
        with prometheus.serving(settings(free_port()), "worker", 0):
            pass
