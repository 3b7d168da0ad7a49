"""Compiling the library (`ops/native/build.py` as a command), and loading it (`ops/native/library.py`). Both by
`cxx_library.py`.

Also the kernels under AddressSanitizer and UndefinedBehaviorSanitizer: `sanitized.cc` is a program of its own.
"""

from __future__ import annotations

import logging
import pathlib
import shutil
import subprocess
import sys

import pytest

from jaxdist.cxx_library import COMPILERS, FLAGS, CannotBuild, folder
from jaxdist.ops.native import compiler, library
from jaxdist.ops.native.compiler import SOURCE, UNITS, build, library_path

_SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{SOURCE}"]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDIST_NATIVE_DIR", str(tmp_path / "native"))
    library_path.cache_clear()
    library.load.cache_clear()
    yield
    library_path.cache_clear()
    library.load.cache_clear()


@pytest.fixture
def one_small_unit(tmp_path, monkeypatch):
    """Instead of the kernels, which take seconds."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "small.cc").write_text('extern "C" int jaxdist_instructions() { return 0; }\n')
    monkeypatch.setattr(compiler, "SOURCE", source)
    monkeypatch.setattr(compiler, "UNITS", (("small.cc", ()),))
    if not any(map(shutil.which, COMPILERS)):
        pytest.skip("no C++ compiler is there")
    return source / "small.cc"


def test_it_is_built_once_and_again_for_other_sources(one_small_unit, caplog):
    with caplog.at_level(logging.INFO):
        first = build()
        assert build() == first and caplog.text.count(": built in") == 1
    assert sorted(p.suffix for p in first.parent.iterdir()) == [".lock", ".so"]
    one_small_unit.write_text(one_small_unit.read_text() + "// more\n")
    library_path.cache_clear()
    (first.parent / f"{library_path().stem}-killed").mkdir()  # what a build that was killed has left
    assert build() != first and first.exists()
    assert sorted(p.suffix for p in first.parent.iterdir()) == [".lock", ".lock", ".so", ".so"]


def test_a_compilers_first_error_is_said_and_nothing_is_left(one_small_unit):
    one_small_unit.write_text("int first = 1;\nint second = missing;\n")
    with pytest.raises(CannotBuild, match=r"did not compile the native kernels: .*small\.cc:2:\d+: error: .*missing"):
        build()
    assert [p.suffix for p in folder().iterdir()] == [".lock"]


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler.platform, "machine", lambda: "aarch64")
    with pytest.raises(CannotBuild, match="kernels for Linux on x86-64, and this is linux on aarch64"):
        build()
    monkeypatch.undo()
    monkeypatch.setenv("JAXDIST_NATIVE_DIR", str(tmp_path / "native"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    library_path.cache_clear()
    with pytest.raises(CannotBuild, match=r"no C\+\+ compiler is there \(c\+\+, g\+\+, clang\+\+"):
        build()


def test_the_compiler_that_is_asked_for_is_taken_with_its_flags_or_missed(one_small_unit, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    with pytest.raises(CannotBuild, match=r"\$CXX is 'no-such-compiler -m64', and no-such-compiler is not there"):
        build()
    monkeypatch.setenv("CXX", "c++ -DASKED")
    one_small_unit.write_text("#ifndef ASKED\n#error flags are missing\n#endif\n" + one_small_unit.read_text())
    library_path.cache_clear()
    assert build().exists()


def test_a_folder_that_cannot_be_written_is_named(one_small_unit, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXDIST_NATIVE_DIR", str(tmp_path / "file" / "native"))
    library_path.cache_clear()
    with pytest.raises(CannotBuild, match=r"file/native cannot be written .*\$JAXDIST_NATIVE_DIR names another"):
        build()


def test_a_processor_without_the_instructions_and_a_spoilt_library_are_said(one_small_unit):
    with pytest.raises(library.NotThere, match="this processor has no AVX2 and FMA"):
        library.load()
    one_small_unit.write_text(one_small_unit.read_text() + "// more\n")
    library_path.cache_clear()
    path = library_path()
    path.write_text("no library")
    with pytest.raises(library.NotThere, match=r"cannot be loaded .*; remove it, and it is built again"):
        library.load()


def test_the_command_says_where_it_is_or_why_not(tmp_path):
    root = pathlib.Path(compiler.__file__).parents[3]
    environ = {"PATH": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "jaxdist.ops.native.build"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert ended.stderr.startswith("The native kernels cannot be built: no C++ compiler is there")


@pytest.mark.long
def test_no_kernel_reads_or_writes_beyond_an_array(tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler is there")
    flags = [flag for flag in FLAGS if flag != "-O3"] + _SANITIZERS
    units = [(SOURCE / name, own) for name, own in UNITS if own]  # without those for XLA
    units.append((pathlib.Path(__file__).with_name("sanitized.cc"), ()))
    objects = [str(tmp_path / f"{number}.o") for number in range(len(units))]
    building = [
        subprocess.Popen([compiler, *flags, *own, "-c", str(source), "-o", to], stderr=subprocess.PIPE, text=True)
        for (source, own), to in zip(units, objects, strict=True)
    ]
    for one in building:
        _, said = one.communicate(timeout=240)
        if one.returncode and "unrecognized argument" in said:
            pytest.skip("this compiler has no sanitizers")
        assert one.returncode == 0, said[-3000:]
    linked = [compiler, *_SANITIZERS, *objects, "-o", str(tmp_path / "sanitized")]
    subprocess.run(linked, check=True, timeout=120)
    ended = subprocess.run([str(tmp_path / "sanitized")], capture_output=True, text=True, timeout=200)
    if ended.stdout == "no AVX2\n":
        pytest.skip("this processor has no AVX2")
    assert (ended.returncode, ended.stdout) == (0, "150 shapes\n"), ended.stdout + ended.stderr[-5000:]
