"""The token and the TLS files, from variables; `test_rpc.py`, `test_channel.py` have those who ask for them."""

from __future__ import annotations

import dataclasses

import pytest
from helpers.certificates import issued

from jaxdist.comm.security import OPEN, Security
from jaxdist.errors import UsageError


def test_variables_name_the_token_and_the_files(tmp_path):
    assert Security.from_environ({}, "worker") == OPEN
    assert Security.from_environ({"JAXDIST_TOKEN": "secret"}, "server") == Security("secret")
    assert Security.from_environ({}, "worker", insecure=True) == Security(insecure=True)
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
    with pytest.raises(UsageError, match=r"a worker needs the variable JAXDIST_TLS_CA and JAXDIST_TLS_KEY too"):
        Security.from_environ(alone, "worker")
    with pytest.raises(UsageError, match=r"JAXDIST_TLS_KEY=.*none cannot be read: No such file"):
        Security.from_environ({"JAXDIST_TLS_KEY": str(tmp_path / "none")}, "server")


@pytest.mark.parametrize(
    ("role", "environ", "words"),
    [
        ("worker", {"JAXDIST_TLS_CA": "nowhere.pem"}, "JAXDIST_TLS_CA=nowhere.pem cannot be read"),
        ("server", {"JAXDIST_TLS_CA": __file__}, "a server needs the variable JAXDIST_TLS_CERT and JAXDIST_TLS_KEY"),
        ("worker", {"JAXDIST_TLS_CERT": __file__}, "a worker needs the variable JAXDIST_TLS_CA and JAXDIST_TLS_KEY"),
    ],
)
def test_half_of_a_tls_setup_is_refused(role, environ, words):
    with pytest.raises(UsageError, match=words):
        Security.from_environ(environ, role)


def test_beyond_this_machine_there_is_a_token_or_somebody_has_said_that_none_is_meant():
    for address in ("10.0.0.1:7", "[fd77::1]:7", "host-a:7", "0.0.0.0:7"):
        with pytest.raises(
            UsageError, match=r"^--x=.*:7 can be reached from other machines.*JAXDIST_TOKEN.*--insecure"
        ):
            OPEN.check_secret("--x=", address)
        for allowed in (Security("secret"), Security(insecure=True)):
            allowed.check_secret("--x=", address)
    for address in ("127.0.0.1:7", "127.0.1.1:7", "localhost:7", "[::1]:7"):
        OPEN.check_secret("--x=", address)


def test_who_listens_needs_a_certificate_that_belongs_to_its_key():
    for good in (OPEN, issued("127.0.0.1")):
        good.check_certificate("Process 0")
    with pytest.raises(UsageError, match="Process 0 listens for others, so for TLS it needs the variables JAXDIST_TLS"):
        issued().check_certificate("Process 0")
    assert OPEN.listening_context is OPEN.calling_context is None
    mixed = dataclasses.replace(issued("127.0.0.1"), key=issued("127.0.0.2").key)
    with pytest.raises(UsageError, match="JAXDIST_TLS_CERT and JAXDIST_TLS_KEY do not belong together"):
        mixed.check_certificate("Process 0")
