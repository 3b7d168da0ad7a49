"""Certificates of an authority that lives as long as the tests."""

from __future__ import annotations

import functools
import pathlib

import trustme

from jaxdist.comm.security import Security


@functools.cache
def issued(*hosts: str, authority: str = "ours") -> Security:
    """What a process at `hosts` (names and addresses; none: one that only calls) needs for TLS."""
    signs = _authority(authority)
    if not hosts:
        return Security("token", signs.cert_pem.bytes())
    own = signs.issue_cert(*hosts)
    certificate = b"".join(part.bytes() for part in own.cert_chain_pems)
    return Security("token", signs.cert_pem.bytes(), certificate, own.private_key_pem.bytes())


@functools.cache
def _authority(name: str) -> trustme.CA:
    return trustme.CA(organization_name=name)


def variables(security: Security, folder: pathlib.Path) -> dict[str, str]:
    """What names the files of a `Security`, which are written to a folder, and its token."""
    folder.mkdir(parents=True)
    found = {"JAXDIST_TOKEN": security.token}
    for name, content in (("CA", security.ca), ("CERT", security.certificate), ("KEY", security.key)):
        if content:
            (folder / name).write_bytes(content)
            found[f"JAXDIST_TLS_{name}"] = str(folder / name)
    return found
