"""The generated stubs are those of `ps/parameter_server.proto`."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

from jaxdist.ps import parameter_server_pb2 as pb


def test_stubs_match_the_proto(tmp_path):
    root = pathlib.Path(__file__).resolve().parents[3]
    for kind in ("python", "pyi"):
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root}", f"--{kind}_out={tmp_path}"]
        subprocess.run([*command, str(root / "jaxdist/ps/parameter_server.proto")], check=True, timeout=60)
    text = (tmp_path / "jaxdist/ps/parameter_server_pb2.py").read_text()
    made = ast.literal_eval(text.split("AddSerializedFile(")[1].split(")\n\n")[0])
    assert made == pb.DESCRIPTOR.serialized_pb, "run python -m grpc_tools.protoc as BUILD_NOTES.md says"
    types = "jaxdist/ps/parameter_server_pb2.pyi"
    assert (tmp_path / types).read_text() == (root / types).read_text()
