"""The variables of a token and of TLS. Servers that ask for them: `tests/contract/test_rpc.py`."""

from __future__ import annotations

import pytest

from jaxdist.comm.security import Security
from jaxdist.errors import UsageError


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


def test_variables_are_read(tmp_path):
    names = {"JAXDIST_TLS_CA": "ca", "JAXDIST_TLS_CERT": "certificate", "JAXDIST_TLS_KEY": "key"}
    for field in names.values():
        (tmp_path / field).write_bytes(field.encode())
    environ = {name: str(tmp_path / field) for name, field in names.items()} | {"JAXDIST_TOKEN": "secret"}
    assert Security.from_environ(environ, "server") == Security("secret", b"ca", b"certificate", b"key")
    assert Security.from_environ({}, "worker") == Security()
