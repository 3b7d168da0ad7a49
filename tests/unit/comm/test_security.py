"""The token and the TLS files, from variables. Servers that ask for them: `tests/contract/test_rpc.py`."""

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


@pytest.mark.parametrize(
    ("role", "environ", "words"),
    [
        ("worker", {"JAXDIST_TLS_CA": "nowhere.pem"}, "JAXDIST_TLS_CA=nowhere.pem cannot be read"),
        ("server", {"JAXDIST_TLS_CA": __file__}, "a server needs the variable JAXDIST_TLS_CERT and JAXDIST_TLS_KEY"),
        ("worker", {"JAXDIST_TLS_CERT": __file__}, "a worker needs the variable JAXDIST_TLS_CA"),
    ],
)
def test_half_of_a_tls_setup_is_refused(role, environ, words):
    with pytest.raises(UsageError, match=words):
        Security.from_environ(environ, role)
