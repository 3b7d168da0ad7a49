"""The house of the tests: a file's tests are found by its name, and a test's file by the name of the test.

jaxdist/comm/rpc.py          tests/unit/comm/test_rpc.py
jaxdist/ps/pulls.py          tests/contract/test_pulls.py, whose docstring has `ps/pulls.py`
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


def files_of_tests() -> list[pathlib.Path]:
    return sorted(TESTS.rglob("test_*.py"))


def test_every_unit_test_is_called_after_a_module_of_the_package():
    strays = []
    for path in files_of_tests():
        place = path.relative_to(TESTS)
        if place.parts[0] != "unit" or str(place.relative_to("unit")) in ABOUT_EVERYTHING:
            continue
        module = PACKAGE.joinpath(*place.parts[1:-1], path.stem.removeprefix("test_"))
        if not (module.with_suffix(".py").exists() or module.is_dir()):
            strays.append(f"{place}: there is no jaxdist/{module.relative_to(PACKAGE)}.py")
    assert not strays, "\n" + "\n".join(strays)


def test_every_module_of_the_package_is_found_by_its_name():
    said = "\n".join(ast.get_docstring(ast.parse(path.read_text())) or "" for path in files_of_tests())
    named = set(re.findall(r"(?<![\w/.])(?:jaxdist/)?([\w/]+\.py)\b", said))
    missing = []
    for written in modules():
        *room, name = written.split("/")
        own = TESTS.joinpath("unit", *room, f"test_{name}")
        if not (own.exists() or written in named):
            missing.append(f"{written}: neither {own.relative_to(TESTS)} nor a test whose docstring has `{written}`")
    assert not missing, "\n" + "\n".join(missing)


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
