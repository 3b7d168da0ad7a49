"""Who may call parameter servers: a shared token, and TLS."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

from jaxdist.errors import UsageError

_FILES = {"ca": "JAXDIST_TLS_CA", "certificate": "JAXDIST_TLS_CERT", "key": "JAXDIST_TLS_KEY"}


@dataclasses.dataclass(frozen=True)
class Security:
    """Read from the environment, so that no secret stands in a command line or in config.json.

    Attributes:
      token: callers must send the same (JAXDIST_TOKEN); '' asks for none.
      ca: PEM of the authority that signed the servers' certificates (JAXDIST_TLS_CA names the file); with it every
        connection is encrypted, and servers are checked to be who they say.
      certificate, key: PEM, of servers alone (JAXDIST_TLS_CERT, JAXDIST_TLS_KEY).
    """

    token: str = ""
    ca: bytes = b""
    certificate: bytes = b""
    key: bytes = b""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], role: str) -> Security:
        """Raises `UsageError` for a file that cannot be read, or one without the others that it needs."""
        found = {}
        for field, name in _FILES.items():
            if environ.get(name):
                try:
                    found[field] = pathlib.Path(environ[name]).read_bytes()
                except OSError as e:
                    raise UsageError(f"{name}={environ[name]} cannot be read: {e.strerror or e}.") from e
        needed = list(_FILES.values()) if role == "server" else [_FILES["ca"]]
        missing = [name for name in needed if not environ.get(name)]
        if found and missing:
            raise UsageError(f"For TLS a {role} needs the variable {' and '.join(missing)} too (files in PEM format).")
        return cls(token=environ.get("JAXDIST_TOKEN", ""), **found)


OPEN = Security()
