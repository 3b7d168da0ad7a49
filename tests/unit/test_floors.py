"""The import fences: who may import whom, which library is behind which room, and what no room may know."""

from __future__ import annotations

import ast
import functools
import pathlib
import re
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "jaxdist"

# Rooms from the bottom to the top: a room imports from rooms of lower floors alone.
FLOORS = (
    {"errors", "dotted", "cxx_library"},
    {"knobs"},
    {"state", "ops", "runtime", "data"},
    {"comm", "parallel", "models"},
    {"optim", "cluster"},
    {"ps", "task"},
    {"checkpoint", "cost", "profiling"},
    {"strategies"},
    {"config"},
    {"train"},
    {"roles"},
    {"__init__", "main"},
)
FENCES = {
    "flax": {"models"},
    "orbax": {"checkpoint"},
    "grpc": {"comm", "ps"},
    "google": {"ps"},  # protobuf
    "ml_collections": {"config", "roles", "main", "train/setup", "train/loop", "train/evaluate"},
    "optax": {"optim", "task"},
    "psutil": {"runtime"},
    "prometheus_client": {"runtime"},
    "tensorflow": set(),
    "tensorflow_datasets": {"data"},
    "sklearn": {"data"},
}


@functools.cache
def parsed(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text())


def modules():
    """(path, room, room/file) of every module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield path, parts[0], "/".join(parts[:2])


@functools.cache
def imported(path: pathlib.Path) -> set[str]:
    """What is imported when the module runs: imports for type checkers alone are not."""
    tree = parsed(path)
    unused = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in unused:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_room_has_a_floor_and_no_arrow_goes_up():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    wrong = []
    for path, room, _ in modules():
        assert room in floor, f"{path.name}: give the room {room!r} a floor"
        for name in imported(path):
            parts = name.split(".")
            other = parts[1] if parts[0] == "jaxdist" and len(parts) > 1 else room
            if other != room and floor.get(other, -1) >= floor[room]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong, wrong


@pytest.mark.parametrize("library", FENCES)
def test_fences(library):
    for path, room, file in modules():
        if any(name.split(".")[0] == library for name in imported(path)):
            assert FENCES[library] & {room, file}, f"{path.relative_to(PACKAGE)} imports {library}"


def test_jax_distributed_is_used_by_cluster_alone():
    for path, room, _ in modules():
        if "jax.distributed." in path.read_text():
            assert room == "cluster", path


def test_the_name_of_a_strategy_is_compared_in_its_own_folder_alone():
    """Neither by == nor by `in`, nor as the key of a table: what a strategy is or needs, its spec says."""
    from jaxdist.config.phases import NAME
    from jaxdist.strategies import SPECS

    home = {name: spec.check.split(":")[0].rpartition(".")[0].replace(".", "/") for name, spec in SPECS.items()}
    for path, _, _ in modules():
        for node in ast.walk(parsed(path)):
            values = []
            if isinstance(node, ast.Compare):
                for side in (node.left, *node.comparators):
                    values += side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else [side]
                assert all(getattr(value, "value", "") != NAME for value in values), f"{path}:{node.lineno}"
            elif isinstance(node, ast.Dict):
                values = [key for key in node.keys if key is not None]
            elif isinstance(node, ast.match_case):
                values = [inner.value for inner in ast.walk(node.pattern) if isinstance(inner, ast.MatchValue)]
            for value in values:
                if isinstance(value, ast.Constant) and value.value in home:
                    own = str(path.relative_to(PACKAGE.parent))
                    assert own.startswith(home[value.value]), f"{own}:{node.lineno} knows {value.value!r}"


def test_the_loop_names_no_strategy():
    from jaxdist.config.phases import names

    for path in (PACKAGE / "train").glob("*.py"):
        for name in names():  # 'switch' included
            assert not re.search(rf"['\"]{name}['\"]", path.read_text()), (path.name, name)


def test_choices_are_listed_once():
    """A knob's choices stand where it is declared, or in the table that it refers to, and nowhere else."""
    from jaxdist.config.defaults import all_knobs

    tables: dict[frozenset, list[str]] = {}
    for path, _, _ in modules():
        for node in ast.walk(parsed(path)):
            elements = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else ()
            elements = node.keys if isinstance(node, ast.Dict) else elements
            words = [e.value for e in elements if isinstance(e, ast.Constant) and isinstance(e.value, str)]
            if len(words) > 1 and len(words) == len(elements):
                tables.setdefault(frozenset(words), []).append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    for knob in all_knobs().values():
        where = tables.get(frozenset(knob.known_choices()), [])
        assert len(where) <= 1, (knob.key, where)


def test_configs_import_no_jax():
    code = (
        "import sys, importlib.util, pathlib\n"
        "for p in sorted(pathlib.Path('experiments').glob('*.py')):\n"
        "    spec = importlib.util.spec_from_file_location(p.stem, p)\n"
        "    module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); module.get_config()\n"
        "assert not {'jax', 'flax', 'optax'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=True, timeout=60)


def test_sharding_needs_no_grpc():
    """fsdp lays out flat vectors as the parameter server does, and has nothing to do with its messages."""
    code = "import sys, jaxdist.parallel.flat_shards; assert not {'grpc', 'google.protobuf'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=True, timeout=60)


# Files of more than 350 lines hold one idea all the same; BUILD_NOTES.md says which.
LONG_FILES = {"ps/parameter_server_pb2.py", "train/loop.py", "train/phases.py"}


def test_files_are_small():
    for path, _, _ in modules():
        lines = len(path.read_text().splitlines())
        assert lines <= 350 or str(path.relative_to(PACKAGE)) in LONG_FILES, f"{path.name} has {lines} lines"
