"""The token and the TLS files, from variables; `test_rpc.py`, `test_channel.py` have those who ask for them."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from helpers.certificates import issued, variables

from jaxdist.comm.security import OPEN, Security
from jaxdist.errors import UsageError


@pytest.fixture
def environ(tmp_path):
    return {k: v for k, v in variables(issued("127.0.0.1"), tmp_path / "tls").items() if k != "JAXDIST_TOKEN"}


def test_variables_name_the_token_and_the_files(environ):
    assert Security.from_environ({}, "worker") == OPEN
    assert Security.from_environ({}, "worker", insecure=True) == Security(insecure=True)
    assert Security.from_environ({"JAXDIST_TOKEN": " secret\n"}, "server") == Security("secret")
    assert Security.from_environ(environ | {"JAXDIST_TOKEN": "token"}, "server") == issued("127.0.0.1")
    assert (
        Security.from_environ({"JAXDIST_TLS_CA": environ["JAXDIST_TLS_CA"], "JAXDIST_TOKEN": "token"}, "worker")
        == issued()
    )


@pytest.mark.parametrize("token", ["pässwort", "two\nlines", "bell\a"])
def test_a_token_that_no_call_can_carry_is_refused(token):
    with pytest.raises(UsageError, match="JAXDIST_TOKEN must consist of printable ASCII characters"):
        Security.from_environ({"JAXDIST_TOKEN": token}, "worker")


def test_a_token_that_is_too_long_is_refused():
    with pytest.raises(UsageError, match="JAXDIST_TOKEN has 4097 characters; 4096 are the most"):
        Security.from_environ({"JAXDIST_TOKEN": "x" * 4097}, "worker")
    assert Security.from_environ({"JAXDIST_TOKEN": "x" * 4096}, "worker").token == "x" * 4096


def test_secrets_are_not_printed():
    assert "token" not in repr(issued("127.0.0.1")).replace("insecure", "") and "PRIVATE KEY" not in repr(
        issued("127.0.0.1")
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("CA", b" \n", r"JAXDIST_TLS_CA=.* is empty"),
        ("CA", b"nothing of the kind", "JAXDIST_TLS_CA is no certificate in PEM format"),
        ("CA", b"\x30\x82\xff\xfe", "JAXDIST_TLS_CA is no certificate in PEM format"),
        ("KEY", b"nothing of the kind", "JAXDIST_TLS_CERT and JAXDIST_TLS_KEY do not belong together"),
        ("KEY", "another", "JAXDIST_TLS_CERT and JAXDIST_TLS_KEY do not belong together"),
        ("KEY", "encrypted", "JAXDIST_TLS_CERT and JAXDIST_TLS_KEY do not belong together, are encrypted"),
    ],
)
def test_files_of_another_kind_are_refused_at_once(environ, name, content, words):
    if content == "another":
        content = issued("127.0.0.2").key
    if content == "encrypted":
        key = serialization.load_pem_private_key(issued("127.0.0.1").key, None)
        how = (
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"pass"),
        )
        content = key.private_bytes(*how)
    with open(environ[f"JAXDIST_TLS_{name}"], "wb") as file:
        file.write(content)
    with pytest.raises(UsageError, match=words):
        Security.from_environ(environ, "server")


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
