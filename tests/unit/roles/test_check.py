"""`--check`: each part by itself, said in a line; the first that is bad is the last line's; nothing is left on disk."""

from __future__ import annotations

import logging
import socket

import pytest
from helpers.processes import finish
from helpers.tiny_config import get_config

from jaxdist.cluster import Cluster
from jaxdist.comm.security import Security
from jaxdist.errors import UsageError
from jaxdist.roles import check


def config_with(**values):
    config = get_config()
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in values.items()})
    return config


def said(caplog) -> dict[str, str]:
    return dict(record.getMessage().split(": ", 1) for record in caplog.records if ": " in record.getMessage())


def test_all_is_good_and_nothing_is_written(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        words = check.run(config_with(global_batch_size=16), str(tmp_path / "run"), Cluster())
    assert words.startswith("data, model, disk, cluster: good (") and words.endswith("nothing was started.")
    lines = said(caplog)
    assert lines["data"].startswith(
        "good: synthetic: 240 train, 50 evaluation examples of image 8x8x1 uint8, 10 classes, 0.0 MB"
    )
    assert "updates by allreduce on 1 x 8 devices" in lines["model"]
    assert "a new run" in lines["disk"] and "one process" in lines["cluster"]
    assert not list(tmp_path.iterdir())


def test_every_part_is_looked_at_and_the_first_bad_one_is_said_last(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cluster = Cluster(num_processes=2, coordinator_address="no.invalid:1", security=Security("secret"))
    with pytest.raises(UsageError, match=r"^disk: .*cannot be written"):
        check.run(config_with(global_batch_size=16), str(tmp_path / "file" / "run"), cluster)
    lines = said(caplog)
    assert lines["disk"].startswith("bad:") and "does not know no.invalid" in lines["cluster"]
    with pytest.raises(UsageError, match=r"^model: .*global_batch_size=13 is not divisible"):
        check.run(config_with(global_batch_size=13), str(tmp_path), Cluster())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = config_with(data__name="helpers.faulty_data:infinite_evaluation_pixel", monitor__prometheus_port=port)
        with caplog.at_level(logging.INFO), pytest.raises(UsageError, match=r"^data: .*have inf at"):
            check.run(config, str(tmp_path), Cluster())
    assert f"cannot serve its metrics at 127.0.0.1:{port}" in said(caplog)["metrics"]


def test_servers_and_workers_that_are_not_the_chief(tmp_path):
    server = Cluster(role="server", server_addresses=("127.0.0.1:0",))
    words = check.run(config_with(strategy__name="parameter_server"), str(tmp_path), server)
    assert words.startswith("optimizer, cluster: good")
    with pytest.raises(UsageError, match="JAXDIST_TOKEN"):
        away = Cluster(role="server", server_addresses=("192.0.2.1:1",))
        check.run(config_with(strategy__name="parameter_server"), str(tmp_path), away)
    worker = Cluster(process_id=1, num_processes=2, coordinator_address="127.0.0.1:1")
    words = check.run(config_with(global_batch_size=16), str(tmp_path), worker)
    assert words.startswith("data, model, cluster: good")


def test_a_run_that_is_there(tmp_path, caplog):
    finish(tmp_path, 1, max_updates=2, global_batch_size=8)
    with caplog.at_level(logging.INFO):
        check.run(config_with(global_batch_size=8), str(tmp_path), Cluster())
    assert "the run goes on from update 2" in said(caplog)["disk"]
    with pytest.raises(UsageError, match="seed is 0 there and 1 here"):
        check.run(config_with(global_batch_size=8, seed=1), str(tmp_path), Cluster())
    (tmp_path / "checkpoints" / "2" / "progress.json").write_text("{}")
    with caplog.at_level(logging.INFO):
        check.run(config_with(global_batch_size=8), str(tmp_path), Cluster())
    assert "no checkpoint is whole" in said(caplog)["disk"]
