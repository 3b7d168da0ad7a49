"""What is refused, in one clear sentence, with exit code 2, before training."""

from __future__ import annotations

import contextlib
import io
import sys
import time

import pytest
from helpers.processes import TINY_CONFIG, Run, finish, free_port, wait_for_update
from helpers.reference import make_task

from jaxdist import cluster, strategies
from jaxdist import config as config_lib
from jaxdist.errors import UsageError


def refused(workdir, n=1, *, seconds=90, **overrides) -> str:
    """Runs the real command; every process must refuse with exit code 2. Returns process 0's sentence."""
    with Run(workdir, n, **overrides) as run:
        ended = run.wait(seconds)
    for e in ended:
        assert e.code == 2, e.output[-2000:]
        assert "Traceback" not in e.output
    assert not list(workdir.glob("metrics.jsonl"))
    return ended[0].error


def test_unknown_key(tmp_path):
    assert "'optim.learning_rte'; nearest: 'optim.learning_rate'" in refused(tmp_path, optim__learning_rte=0.1)


def test_missing_config_file(tmp_path):
    assert "nowhere.py" in refused(tmp_path, config="experiments/nowhere.py")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("optim.name", "adm", "nearest: 'adam'"),
        ("strategy.name", "all_reduce", "nearest: 'allreduce'"),
        ("model.name", "densnet", "nearest: 'densenet'"),
        ("data.name", "fashion", "nearest: 'fashion_mnist'"),
        ("optim.learning_rate", -1.0, "optim.learning_rate=-1.0 must be above 0 and finite"),
        ("global_batch_size", 0, "above 0"),
        ("data.holdout_examples", -5, "at least 0"),
        ("model.dtype", "float16", "one of '', bfloat16"),
        ("strategy.accumulate", 0, "above 0"),
        ("early_stopping_patience", 3, "set data.holdout_examples above 0"),
    ],
)
def test_values_are_refused_with_the_remedy(key, value, words):
    config = config_lib.default_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UsageError) as e:
        config_lib.validate(config)
    assert words in str(e.value)


def test_batch_that_does_not_divide():
    settings = config_lib.default_config().strategy
    with pytest.raises(UsageError, match=r"128 = 5 x 25 \+ 3.*nearest: 125 or 130"):
        strategies.check(settings, make_task("resnet"), global_batch_size=128, num_processes=5, num_devices=5)


def test_parts_that_do_not_divide_or_cannot_be():
    settings = config_lib.default_config().strategy
    settings.accumulate = 4
    with pytest.raises(UsageError, match=r"24 is not divisible by the 16 parts.*accumulate=4 on 4 device.*16 or 32"):
        strategies.check(settings, make_task("resnet"), global_batch_size=24, num_processes=2, num_devices=4)
    settings.spmd = "jit"
    with pytest.raises(UsageError, match="shard_map"):
        strategies.check(settings, make_task("resnet"), global_batch_size=32, num_processes=1, num_devices=4)


def test_spelling_and_strategy_that_cannot_be():
    config = config_lib.default_config()
    config.strategy.spmd, config.strategy.sync_batch_norm = "jit", False
    with pytest.raises(UsageError, match="shard_map"):
        strategies.check(config.strategy, make_task("resnet"), global_batch_size=8, num_processes=1, num_devices=1)
    config.strategy.name = "single"
    with pytest.raises(UsageError, match="use 'allreduce'"):
        strategies.check(config.strategy, make_task("resnet"), global_batch_size=8, num_processes=2, num_devices=2)


def test_more_workers_than_examples(tmp_path):
    assert "more than the 8 training examples" in refused(tmp_path, data__train_examples=8, global_batch_size=12)


def test_indivisible_batch_over_processes(tmp_path):
    assert "global_batch_size=13 is not divisible by the 2 devices" in refused(tmp_path, 2, global_batch_size=13)


def test_missing_data(tmp_path):
    message = refused(tmp_path, data__name="mnist", data__data_dir=str(tmp_path / "empty"))
    assert "prepare_data.py mnist" in message


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"num_processes": 2, "process_id": 5, "coordinator_address": "h:1"}, "ids are 0 to 1"),
        ({"num_processes": 2, "process_id": -1, "coordinator_address": "h:1"}, "ids are 0 to 1"),
        ({"num_processes": 2, "coordinator_address": "h:1"}, "--process_id"),
        ({"num_processes": 2, "process_id": 1}, "--coordinator_address"),
        ({"num_processes": 2, "process_id": 1, "coordinator_address": "h"}, "HOST:PORT"),
        ({"num_processes": 0}, "at least 1"),
    ],
)
def test_cluster_flags(flags, words):
    with pytest.raises(UsageError) as e:
        cluster.detect(environ={}, **flags)
    assert words in str(e.value)


def test_unreachable_coordinator(tmp_path):
    begin = time.monotonic()
    address = f"127.0.0.1:{free_port()}"
    with Run(tmp_path, 0, address=address) as run:
        from helpers.processes import start

        command = [
            sys.executable,
            "-m",
            "jaxdist.main",
            f"--config={TINY_CONFIG}",
            f"--workdir={tmp_path}",
        ]
        command += ["--num_processes=2", "--process_id=1", f"--coordinator_address={address}"]
        run.processes.append(start([*command, "--config.cluster.connect_timeout_seconds=3"], {}))
        ended = run.wait(40)[0]
    assert ended.code == 2 and address in ended.error, ended.output
    assert time.monotonic() - begin < 30


def test_a_process_that_does_not_come(tmp_path):
    with Run(tmp_path, 1, address=f"127.0.0.1:{free_port()}", cluster__connect_timeout_seconds=3.0) as run:
        ended = run.wait(40)[0]
    assert ended.code == 2 and "process 1 of 2 did not come" in ended.error, ended.output


def test_a_process_id_used_twice(tmp_path):
    from helpers.processes import start

    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "jaxdist.main", f"--config={TINY_CONFIG}", f"--workdir={tmp_path}"]
    command += ["--num_processes=3", f"--coordinator_address={address}"]
    with Run(tmp_path, 0) as run:
        run.processes += [start([*command, f"--process_id={i}"], {}) for i in (0, 1, 1)]
        ended = run.wait(60)
    assert [e.code for e in ended] == [2, 2, 2], [e.output[-500:] for e in ended]
    assert all("two processes were started with --process_id=1" in e.error for e in ended)


def test_processes_that_differ(tmp_path):
    from helpers.processes import start

    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "jaxdist.main", f"--config={TINY_CONFIG}", f"--workdir={tmp_path}"]
    command += ["--num_processes=2", f"--coordinator_address={address}"]
    with Run(tmp_path, 0) as run:
        for i in (0, 1):
            run.processes.append(start([*command, f"--process_id={i}", f"--config.seed={i}"], {}))
        ended = run.wait(60)
    assert [e.code for e in ended] == [2, 2]
    assert "seed is 0 on process 0 but 1 on process 1" in ended[0].error


def test_differing_versions_are_named():
    from jaxdist.cluster.rendezvous import differences

    signatures = [{"jaxlib": "0.10.2"}, {"jaxlib": "0.10.1"}, {"jaxlib": "0.10.2"}]
    assert differences(signatures) == ['jaxlib is "0.10.2" on processes 0, 2 but "0.10.1" on process 1']


def test_a_workdir_of_another_model(tmp_path):
    finish(tmp_path, 1, max_updates=2)
    (tmp_path / "metrics.jsonl").unlink()
    message = refused(tmp_path, max_updates=2, model__growth_rate=5)
    assert "model.growth_rate is 4 there and 5 here" in message


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with Run(tmp_path / "file" / "run", 1) as run:
        ended = run.wait(60)[0]
    assert ended.code == 2 and "cannot be written" in ended.error


def test_a_workdir_in_use(tmp_path):
    with Run(tmp_path, 1, num_epochs=500.0):
        wait_for_update(tmp_path, 3)
        with Run(tmp_path, 1, num_epochs=500.0) as second:
            ended = second.wait(60)[0]
    assert ended.code == 2 and "in use by a run that is still going" in ended.error, ended.output


def test_main_without_flags():
    from jaxdist.main import main

    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main(["jaxdist"]) == 2
    assert "--config=FILE" in said.getvalue()
