"""The house of the tests: a file's tests are found by its name, and a test's file by the name of the test.

jaxdist/comm/rpc.py          tests/unit/comm/test_rpc.py
jaxdist/config/__main__.py   tests/unit/config/test_main.py
jaxdist/ps/pulls.py          tests/contract/test_histories.py, whose docstring has `ps/pulls.py`
"""

from __future__ import annotations

import ast
import pathlib
import re

TESTS = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = TESTS.parent / "jaxdist"
FOLDERS = {"unit", "transparency", "contract", "processes", "hosts", "tools", "helpers"}
ABOUT_EVERYTHING = {"test_floors.py", "test_names.py"}
ELSEWHERE = {
    "knobs.py": "of a room: declarations, checked by `unit/config/`",
    "__init__.py": "what a room exports, or its lazy imports",
    "parameter_server_pb2.py": "generated",
}


def modules() -> list[str]:
    """'ps/pulls.py' for every module that defines a function or a class."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        written = str(path.relative_to(PACKAGE))
        if path.name in ELSEWHERE and "/" in written:
            continue
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in ast.walk(tree)):
            found.append(written)
    return [written for written in found if written != "__init__.py"]


def called_after(written: str) -> str:
    """'unit/ps/test_pulls.py' for 'ps/pulls.py'."""
    folder, _, name = written.rpartition("/")
    return str(pathlib.PurePath("unit", folder, f"test_{name.removesuffix('.py').strip('_')}.py"))


def files_of_tests() -> list[pathlib.Path]:
    return sorted(TESTS.rglob("test_*.py"))


def test_every_unit_test_is_called_after_a_module_of_the_package():
    called = {called_after(str(path.relative_to(PACKAGE))) for path in PACKAGE.rglob("*.py")} | {
        f"unit/{name}" for name in ABOUT_EVERYTHING
    }
    found = {str(path.relative_to(TESTS)) for path in files_of_tests() if path.relative_to(TESTS).parts[0] == "unit"}
    strays = [f"{place}: the package has no module that it is called after" for place in sorted(found - called)]
    assert not strays, "\n" + "\n".join(strays)


def test_every_module_of_the_package_is_found_by_its_name():
    others = [path for path in files_of_tests() if path.name not in ABOUT_EVERYTHING]
    said = "\n".join(ast.get_docstring(ast.parse(path.read_text())) or "" for path in others)
    named = set(re.findall(r"(?<![\w/.])(?:jaxdist/)?([\w/]+\.py)\b", said))
    missing = []
    for written in modules():
        own = called_after(written)
        if not ((TESTS / own).exists() or written in named):
            missing.append(f"{written}: neither {own} nor a test whose docstring has `{written}`")
    assert not missing, "\n" + "\n".join(missing)


def test_no_file_of_tests_is_empty():
    trees = {path: ast.parse(path.read_text()) for path in files_of_tests()}
    empty = [
        str(path.relative_to(TESTS))
        for path, tree in trees.items()
        if not any(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in tree.body)
    ]
    assert not empty, f"{empty} have no tests: a merge may have emptied them"


def test_what_a_docstring_names_is_there():
    """A module, or a test as written from `tests/` or from beside it; '*.py' of users and of tools are no modules."""
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    wrong = []
    for path in files_of_tests():
        for name in re.findall(r"(?<![\w/.])([\w/]+/\w+\.py)\b", ast.get_docstring(ast.parse(path.read_text())) or ""):
            places = [TESTS.parent / name, TESTS / name, TESTS / "unit" / name, path.parent / name]
            places += [PACKAGE / name] if name.split("/")[0] in rooms else []
            if path.name != "test_names.py" and not any(place.exists() for place in places):
                wrong.append(f"{path.relative_to(TESTS)}: {name}")
    assert not wrong, wrong


def test_the_tests_have_the_folders_of_the_house():
    found = {path.name for path in TESTS.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))}
    assert found <= FOLDERS, found - FOLDERS
    assert [path.name for path in TESTS.glob("*.py")] == ["conftest.py"]
    for folder in FOLDERS - {"helpers"}:
        strays = [path.name for path in (TESTS / folder).rglob("*.py") if not path.name.startswith("test_")]
        assert not strays, f"{folder} has {strays}: what tests share stands in helpers"
