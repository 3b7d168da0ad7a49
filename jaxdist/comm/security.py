"""Who may take part in a run: a shared token, and TLS. Of everything of ours that listens; gloo and JAX's own service
know neither.
"""

from __future__ import annotations

import dataclasses
import functools
import hmac
import os
import pathlib
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from jaxdist.comm import addresses
from jaxdist.errors import UsageError

_FILES = {"ca": "JAXDIST_TLS_CA", "certificate": "JAXDIST_TLS_CERT", "key": "JAXDIST_TLS_KEY"}
_TOKEN = "jaxdist-token"
_LONGEST = 4096  # characters of a token; gRPC refuses calls with more than 8192 of metadata
DENIED = "the token is missing or another one (JAXDIST_TOKEN)"


@dataclasses.dataclass(frozen=True)
class Security:
    """Read from the environment, so that no secret stands in a command line or in config.json.

    Attributes:
      token: callers must send the same (JAXDIST_TOKEN); '' asks for none.
      ca: PEM of the authority that signed the certificates (JAXDIST_TLS_CA names the file); with it every connection of
        ours is encrypted, and those who listen are checked to be who they say.
      certificate, key: PEM, of processes that listen (JAXDIST_TLS_CERT, JAXDIST_TLS_KEY).
      insecure: it was said that a run may go without a token beyond this machine.
    """

    token: str = dataclasses.field(default="", repr=False)
    ca: bytes = b""
    certificate: bytes = b""
    key: bytes = dataclasses.field(default=b"", repr=False)
    insecure: bool = False

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], role: str, *, insecure: bool = False) -> Security:
        """Raises `UsageError` for a file that cannot be read or is none of its kind, for one without the others that it
        needs, and for a token that no call can carry."""
        found = {}
        for field, name in _FILES.items():
            if environ.get(name):
                try:
                    found[field] = pathlib.Path(environ[name]).read_bytes()
                except OSError as e:
                    raise UsageError(f"{name}={environ[name]} cannot be read: {e.strerror or e}.") from e
                if not found[field].strip():
                    raise UsageError(f"{name}={environ[name]} is empty.")
        listens = role == "server" or bool({"certificate", "key"} & set(found))
        needed = list(_FILES.values()) if listens else [_FILES["ca"]]
        missing = [name for name in needed if not environ.get(name)]
        if found and missing:
            raise UsageError(f"For TLS a {role} needs the variable {' and '.join(missing)} too (files in PEM format).")
        token = environ.get("JAXDIST_TOKEN", "").strip()  # files and secrets of schedulers end with a newline
        if not (token.isascii() and token.isprintable()):
            raise UsageError("JAXDIST_TOKEN must consist of printable ASCII characters: letters, digits, punctuation.")
        if len(token) > _LONGEST:
            raise UsageError(f"JAXDIST_TOKEN has {len(token)} characters; {_LONGEST} are the most.")
        made = cls(token=token, insecure=insecure, **found)
        made._check_files()
        return made

    def _check_files(self) -> None:
        try:
            _ = self.calling_context
        except (ssl.SSLError, ValueError) as e:  # the latter: not even text
            raise UsageError(f"{_FILES['ca']} is no certificate in PEM format: {e}.") from e
        try:
            _ = self.listening_context
        except (ssl.SSLError, ValueError) as e:
            words = (
                f"{_FILES['certificate']} and {_FILES['key']} do not belong together, are encrypted, or are not in PEM"
            )
            raise UsageError(f"{words} format: {e}.") from e

    def check_secret(self, name: str, address: str) -> None:
        """Refuses to listen, or to call, where anybody could; `name`: of the flag that has `address` ('host:port').

        Raises:
          UsageError: other machines can reach it, there is no token, and nobody said that this is meant.
        """
        if self.token or self.insecure or addresses.is_loopback(addresses.split(address)[0]):
            return
        raise UsageError(
            f"{name}{address} can be reached from other machines, by anybody: set the variable JAXDIST_TOKEN to one "
            "and the same secret for all processes of the run, or, on a network that you trust, say --insecure to all."
        )

    def check_certificate(self, who: str) -> None:
        """Raises:
        UsageError: connections are to be encrypted, and this process listens and has no certificate of its own.
        """
        if self.ca and not self.certificate:
            raise UsageError(
                f"{who} listens for others, so for TLS it needs the variables JAXDIST_TLS_CERT and JAXDIST_TLS_KEY too "
                "(files in PEM format)."
            )

    # gRPC.

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a caller sends with each call."""
        return ((_TOKEN, self.token),) if self.token else ()

    def admits(self, context: grpc.ServicerContext) -> bool:
        """Whether a caller has the token."""
        return not self.token or same(str(dict(context.invocation_metadata()).get(_TOKEN, "")), self.token)

    def open_port(self, server: grpc.Server, address: str) -> int:
        """Lets a server listen; returns the port.

        Raises:
          OSError: the address cannot be bound.
        """
        try:
            if self.certificate:
                return server.add_secure_port(address, grpc.ssl_server_credentials([(self.key, self.certificate)]))
            return server.add_insecure_port(address)
        except RuntimeError as e:
            raise OSError(f"{address} cannot be bound (in use, or not an address of this host)") from e

    def open_channel(self, address: str, options: Sequence[tuple[str, Any]]) -> grpc.Channel:
        """Connects when it is first used."""
        if self.ca:
            return grpc.secure_channel(address, grpc.ssl_channel_credentials(self.ca), options=options)
        return grpc.insecure_channel(address, options=options)

    # Sockets.

    @functools.cached_property
    def listening_context(self) -> ssl.SSLContext | None:
        """For connections that this process takes; None: they are not encrypted.

        Raises:
          ssl.SSLError, ValueError: certificate and key are none, do not belong together, or are encrypted.
        """
        if not self.certificate:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        with tempfile.TemporaryDirectory() as folder:  # the module reads files alone; ours is readable by us alone
            names = {"certificate": self.certificate, "key": self.key}
            for name, content in names.items():
                pathlib.Path(folder, name).write_bytes(content)
            # An encrypted key would be asked for at the terminal: with a password of none it is an error.
            context.load_cert_chain(os.path.join(folder, "certificate"), os.path.join(folder, "key"), password="")
        return context

    @functools.cached_property
    def calling_context(self) -> ssl.SSLContext | None:
        """For connections that this process opens; None: they are not encrypted.

        Raises:
          ssl.SSLError, ValueError: `ca` is no certificate.
        """
        return ssl.create_default_context(cadata=self.ca.decode()) if self.ca else None


def same(sent: str, secret: str) -> bool:
    """Whether two secrets are equal, in a time that says nothing about how much of them is."""
    return hmac.compare_digest(sent.encode(), secret.encode())


OPEN = Security()
