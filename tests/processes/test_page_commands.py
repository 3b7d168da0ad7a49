"""Every command of every page, in a short form: a tiny model, few updates, forked processes.

The launcher's processes are those that it would start (`launch.start`); `tools/test_launch.py` runs the launcher.
"""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys

import launch
import pytest
from free_ports import free_port
from helpers import pages
from helpers.processes import ROOT, start

import jaxdist
from jaxdist import config as config_lib
from jaxdist.parallel import partition_rules

# Run by `.ci/run`, which takes them from the README.
BY_CI = ("pip install", "python -m pytest", ".ci/run")

SHORT = {
    "model.name": "helpers.tiny_chain:build",
    "data.name": "digits",
    "data.train_examples": 120,
    "data.eval_examples": 24,
    "data.holdout_examples": 0,
    "global_batch_size": 16,
    "max_updates": 4,
    "strategy.memory_limit": 0.0,
    "monitor.interval_seconds": 0.5,
}
OWN = {"max_updates": 4}  # of an experiment file with a model of its own
PATH = ":".join(str(ROOT / part) for part in ("", "tests", "tools"))


def short(words: list[str], runs) -> list[str]:
    """The arguments of a command, cut short where it trains, with all that it writes below `runs`."""
    words = [
        re.sub(r"(^|=)(runs/|/tmp/|report$)", lambda m: f"{m[1]}{runs}/{m[2].strip('/')}/", word) for word in words
    ]
    if not any(word.startswith("--config=") for word in words):
        return words
    shorter = OWN if any("tests/helpers/own" in word for word in words) else SHORT
    named = any(word.startswith("--config.model.name") for word in words)  # a page about models
    return [
        *words,
        *(f"--config.{key}={value}" for key, value in shorter.items() if not (named and key == "model.name")),
    ]


def run(command: str, runs, monkeypatch) -> None:
    """Runs one command in its short form; raises `AssertionError` with its output if it fails."""
    words = shlex.split(command)
    env = {"PYTHONPATH": PATH}
    while re.match(r"[A-Z_]+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        env |= {name: value} if name != "PYTHONPATH" else {}
    if words[:2] == ["taskset", "-c"]:
        words = words[3:]
    assert words[0] == "python", command
    program, arguments = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
    arguments = short(arguments, runs)
    if program == "tools/launch.py":
        monkeypatch.setattr(launch, "Child", lambda name, command, cpus, environ: start(command, env))
        children = list(launch.start(*launch.parse(arguments)))
    elif "--process_id=I" in arguments:
        address = f"--coordinator_address=127.0.0.1:{free_port()}"
        each = [a for a in arguments if not a.startswith(("--process_id", "--coordinator_address"))]
        own = [[*each, address, f"--process_id={i}"] for i in range(2)]
        children = [start([sys.executable, "-m", program, *one], env) for one in own]
    else:
        module = program.removeprefix("tools/").removesuffix(".py")
        children = [start([sys.executable, "-m", module, *arguments], env)]
    try:
        for child in children:
            output, _ = child.communicate(timeout=240)
            assert child.returncode == 0, f"{command}\n{output[-3000:]}"
    finally:
        for child in children:
            child.kill()


def parts(command: str) -> list[str]:
    """The commands that it consists of: joined by `&&`; one for each host where the page has one for host I."""
    found = [part for part in command.split(" && ") if not part.startswith((*BY_CI, "export "))]
    return [part.replace("prepare_data.py", "prepare_data.py --help") for part in found]  # what else needs TensorFlow


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in pages.pages() if pages.commands(page)])
def test_the_commands_of_a_page(page, tmp_path, monkeypatch):
    for command in pages.commands(page):
        for part in parts(command):
            run(part, tmp_path, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize(
    ("page", "number"),
    [
        (page, number)
        for page in pages.pages()
        for number, block in enumerate(b for b in pages.blocks(page) if b.language == "python")
        if page != "README.md"
    ],
)
def test_the_python_of_a_page(page, number, tmp_path, monkeypatch):
    """What it defines is trained with for two updates; what it trains is cut short."""
    block = [block for block in pages.blocks(page) if block.language == "python"][number]
    name = f"block_{abs(hash((page, number)))}"
    (tmp_path / f"{name}.py").write_text(block.text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    trained = jaxdist.train_and_evaluate
    ended = []

    def briefly(config, workdir, **more):
        config.update_from_flattened_dict(SHORT)
        ended.append(trained(config, str(tmp_path / workdir), **more))
        return ended[-1]

    monkeypatch.setattr(jaxdist, "train_and_evaluate", briefly)
    found = importlib.import_module(name)
    if "train_and_evaluate" in block.text:
        assert [summary["updates"] for summary in ended] == [4]
        return
    if hasattr(found, "get_config"):
        config_lib.validate(_without_own_modules(found.get_config()))
        return
    config = config_lib.default_config()
    config.update_from_flattened_dict(SHORT | {"strategy.name": "single"})
    if hasattr(found, "build"):
        config.model.name = f"{name}:build"
    if hasattr(found, "load"):
        config.data.name, config.model.name = f"{name}:load", "helpers.own.two_blocks:build"
    if hasattr(found, "clipped"):
        config.optim.name, config.optim.schedule = f"{name}:clipped", f"{name}:linear"
    if hasattr(found, "partition_rules"):
        assert partition_rules.parse("; ".join(found.partition_rules()))
    assert trained(config, str(tmp_path / "run"))["updates"] == 4


def _without_own_modules(config):
    """A page's experiment may name a module of the page's reader."""
    if ":" in config.model.name:
        config.model.name, config.model.options = "densenet", {}
    return config


@pytest.mark.long
def test_the_readmes_own_model_in_its_folder(tmp_path):
    """As the README says: two files in an empty folder, and the command there."""
    package, experiment = (block.text for block in pages.blocks("README.md") if block.language == "python")
    (tmp_path / "spectra.py").write_text(package)
    (tmp_path / "experiment.py").write_text(experiment)
    (command,) = re.findall(r"`(python -m jaxdist\.main --config=experiment\.py [^`]*)`", pages.text_of("README.md"))
    words = [sys.executable, *shlex.split(command)[1:]]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0 and "Validation mean absolute error 0.0" in ended.stdout, ended.stderr[-2000:]
