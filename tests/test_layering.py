"""The import fences: who may import whom, and which library is behind which module."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "jaxdist"

# Top-level module or package of jaxdist -> those it may import.
MAY_IMPORT = {
    "__init__": {"train"},
    "main": {"allocator", "cluster", "config", "errors", "evaluator", "monitor", "serving", "train"},
    "serving": {"cluster", "compilation", "config", "errors", "faults", "optim", "ps"},
    "evaluator": {"cluster", "compilation", "config", "errors", "evaluation", "experiment", "strategies"},
    "train": {
        "checkpoint", "cluster", "compilation", "config", "data", "errors", "evaluation", "experiment", "faults",
        "meeting", "metrics", "peers", "position", "restoring", "run_directory", "run_log", "strategies", "task",
    },
    "meeting": {"cluster", "peers", "restoring", "task"},
    "evaluation": {"data", "experiment", "metrics", "strategies"},
    "models": {"ops"},
    "restoring": {"checkpoint", "errors", "peers", "task"},
    "experiment": {"data", "errors", "models", "optim", "task"},
    "run_log": {"metrics"},
    "run_directory": {"config", "errors"},
    "strategies": {"errors", "parallel", "position", "ps", "schedule", "security", "task", "transport"},
    "task": {"models", "optim", "position"},
    "checkpoint": {"errors", "position", "task"},
    "cluster": {"errors", "peers", "security"},
    "security": {"errors"},
    "peers": {"errors", "transport"},
    "ps": {"errors", "position", "security", "transport"},
    "data": {"errors"},
    "config": {"errors", "schedule"},
    "schedule": {"errors"},
    "faults": {"errors"},
}  # fmt: skip
FENCES = {
    "flax": {"models"},
    "orbax": {"checkpoint"},
    "grpc": {"transport", "ps"},
    "ml_collections": {
        "config",
        "main",
        "train",
        "evaluation",
        "evaluator",
        "experiment",
        "run_directory",
        "serving",
    },
    "optax": {"optim", "task"},
    "psutil": {"monitor"},
    "tensorflow": set(),
    "tensorflow_datasets": {"data"},
    "sklearn": {"data"},
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_layers():
    for path, layer in modules():
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "jaxdist" and len(parts) > 1 and parts[1] != layer:
                assert parts[1] in MAY_IMPORT.get(layer, set()), f"{path.name} imports {name}"


@pytest.mark.parametrize("library", FENCES)
def test_fences(library):
    for path, layer in modules():
        if any(name.split(".")[0] == library for name in imported(path)):
            assert layer in FENCES[library], f"{path.name} imports {library}"


def test_jax_distributed_is_used_by_cluster_alone():
    for path, layer in modules():
        if "jax.distributed." in path.read_text():
            assert layer == "cluster", path


def test_the_loop_names_no_strategy():
    text = (PACKAGE / "train.py").read_text()
    for name in ("allreduce", "parameter_server", "pipeline", "model_parallel", "'single'", '"single"'):
        assert name not in text


def test_configs_import_no_jax():
    code = (
        "import sys, importlib.util, pathlib\n"
        "for p in sorted(pathlib.Path('experiments').glob('*.py')):\n"
        "    spec = importlib.util.spec_from_file_location(p.stem, p)\n"
        "    module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); module.get_config()\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=True, timeout=60)
