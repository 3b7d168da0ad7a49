"""The native kernels under AddressSanitizer and UndefinedBehaviorSanitizer: `sanitized.cc`, a program of its own."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest

from jaxdist.ops.native.compiler import FLAGS, SOURCE, UNITS

_SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{SOURCE}"]


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
