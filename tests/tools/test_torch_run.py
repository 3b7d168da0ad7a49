"""`tools/torch_run.py`: it trains the model of ours from the same weights in the same order, or refuses."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest
import torch_run
from helpers.processes import ROOT

from jaxdist import config as config_lib
from jaxdist.errors import UsageError


@pytest.fixture
def config(monkeypatch):
    if importlib.util.find_spec("torch") is None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    found = config_lib.default_config()
    found.optim.name, found.model.name = "adadelta", "cnn"
    return found


def test_what_pytorch_cannot_do_as_we_do_is_refused(config, monkeypatch):
    torch_run.check(config, 2)
    for key, value, words in (
        ("model.name", "mine:model", "model.name='mine:model' is not there in PyTorch; one of cnn, resnet, densenet"),
        ("optim.name", "sgd", "optim.name='sgd', but the PyTorch side has 'adadelta' alone"),
        ("global_batch_size", 127, "global_batch_size=127 is not divisible by the 2 processes"),
    ):
        other = config.copy_and_resolve_references()
        other.update_from_flattened_dict({key: value})
        with pytest.raises(UsageError, match=words):
            torch_run.check(other, 2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs the package torch"):
        torch_run.check(config, 2)


def test_unequal_losses_and_another_reference_are_refused(config, tmp_path):
    ours = {"loss": 2.3, "gradient_norm": 1.0, "parameters": 10, "loss_after_1": 2.0}
    assert torch_run._alike(ours, dict(ours)) == ours
    with pytest.raises(UsageError, match=r"models: loss_after_1 is 2\.0 of ours and 2\.00001 of PyTorch"):
        torch_run._alike(ours, ours | {"loss_after_1": 2.00001})
    with pytest.raises(UsageError, match="different models: parameters is 10 of ours and 11 of PyTorch's"):
        torch_run._alike(ours, ours | {"parameters": 11})
    values = torch_run.torch_reference.signature(config) | {"seed": 7}
    (tmp_path / "reference.json").write_text(json.dumps({"config": values} | ours))
    with pytest.raises(UsageError, match="another configuration: seed is 7 there and 0 here"):
        torch_run.reference(tmp_path, config, [])


@pytest.mark.long
def test_two_processes_of_ddp_have_our_losses(tmp_path):
    """Row by row those of one process that takes each batch in two parts: BatchNorm sees them as two replicas do."""
    pytest.importorskip("torch")
    experiment = tmp_path / "small.py"
    experiment.write_text(
        "from experiments.resnet56v2_cifar10 import get_config as larger\n\n\ndef get_config():\n"
        "    config = larger()\n    config.model.depth = 11\n    config.data.name = 'synthetic'\n"
        "    config.data.options = {'shape': (8, 8, 3)}\n    config.num_epochs = 0.25\n"
        "    config.global_batch_size = 32\n    return config\n"
    )
    common = [f"--config={experiment}", "--config.log_every_steps=1", "--config.data.eval_examples=40"]
    common += ["--config.monitor.interval_seconds=0.2"]

    def rows(name: str, *flags: str) -> list[dict]:
        before, after = flags[0].split(), flags[1:]
        command = [sys.executable, "tools/launch.py", *before, "--", *common, f"--workdir={tmp_path / name}", *after]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [row for row in map(json.loads, lines) if row["kind"] == "train"]

    ours = rows("ours", "--num_workers=1", "--config.strategy.accumulate=2")
    theirs = rows("theirs", "--num_workers=2 --program=tools/torch_run.py")
    assert [r["updates"] for r in theirs] == [r["updates"] for r in ours] == [1, 2, 3, 4]
    assert [r["loss"] for r in theirs] == pytest.approx([r["loss"] for r in ours], rel=2e-3)
    summary = json.loads((tmp_path / "theirs" / "summary.json").read_text())
    assert summary["updates"] == 4 and len(summary["peak_memory_bytes"]) == 2
    assert sum(summary["phase_seconds"].values()) == pytest.approx(summary["elapsed_seconds"], rel=0.05)
    assert json.loads((tmp_path / "theirs" / "operators.json").read_text())["rows"]
    assert len(list((tmp_path / "theirs" / "system").iterdir())) == 2
