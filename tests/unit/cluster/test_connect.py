"""What must be alike before processes come together; `processes/` has those that do, and those that differ."""

from __future__ import annotations

import importlib.metadata
import platform
import socket

import jax
import pytest
from free_ports import free_port

from jaxdist.cluster import Cluster
from jaxdist.cluster.connect import connect, run_signature, versions
from jaxdist.errors import UsageError

SECONDS = ("timeout_seconds", "connect_timeout_seconds", "compile_timeout_seconds", "evaluate_timeout_seconds")
SETTINGS = dict.fromkeys(SECONDS, 60.0)


def test_the_signature_has_the_values_and_the_versions(monkeypatch):
    found = run_signature({"model.name": "cnn"})
    assert found["model.name"] == "cnn" and found["jax"] == jax.__version__
    assert found["python"] == platform.python_version()
    assert {"jaxdist", "jaxlib", "flax", "optax", "numpy"} <= found.keys()

    def missing(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert versions()["flax"] == "not installed"


def test_one_process_waits_for_nobody_and_several_need_an_address():
    group = connect(Cluster(), run="", signature={}, settings=SETTINGS, collectives=True)
    assert group.is_chief and not group.fate_sharing and group.gather("join", 1) == [1]
    with pytest.raises(UsageError, match="--coordinator_address=HOST:PORT is needed too"):
        connect(Cluster(process_id=1, num_processes=2), run="", signature={}, settings=SETTINGS, collectives=False)


def test_process_0_cannot_serve_at_an_address_in_use():
    address = f"127.0.0.1:{free_port()}"
    with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
        with pytest.raises(UsageError, match=f"Process 0 cannot serve at --coordinator_address={address}"):
            connect(
                Cluster(num_processes=2, coordinator_address=address),
                run="", signature={}, settings=SETTINGS, collectives=False,
            )  # fmt: skip
