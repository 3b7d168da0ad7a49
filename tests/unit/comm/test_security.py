"""The token and the TLS files, from variables; `contract/` has the connections that they make."""

from __future__ import annotations

import pytest

from jaxdist.comm.security import OPEN, Security
from jaxdist.errors import UsageError


def test_variables_name_the_token_and_the_files(tmp_path):
    assert Security.from_environ({}, "worker") == OPEN
    assert Security.from_environ({"JAXDIST_TOKEN": "secret"}, "server") == Security("secret")
    environ = {}
    for name in ("CA", "CERT", "KEY"):
        (tmp_path / name).write_bytes(name.encode())
        environ[f"JAXDIST_TLS_{name}"] = str(tmp_path / name)
    assert Security.from_environ(environ, "server") == Security("", b"CA", b"CERT", b"KEY")
    assert Security.from_environ({"JAXDIST_TLS_CA": environ["JAXDIST_TLS_CA"]}, "worker") == Security("", b"CA")


def test_a_file_that_is_missing_or_alone_is_refused(tmp_path):
    (tmp_path / "cert").write_text("a certificate")
    alone = {"JAXDIST_TLS_CERT": str(tmp_path / "cert")}
    with pytest.raises(UsageError, match="a server needs the variable JAXDIST_TLS_CA and JAXDIST_TLS_KEY too"):
        Security.from_environ(alone, "server")
    with pytest.raises(UsageError, match="a worker needs the variable JAXDIST_TLS_CA too"):
        Security.from_environ(alone, "worker")
    with pytest.raises(UsageError, match=r"JAXDIST_TLS_KEY=.*none cannot be read: No such file"):
        Security.from_environ({"JAXDIST_TLS_KEY": str(tmp_path / "none")}, "server")
