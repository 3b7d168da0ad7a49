"""A parameter server's start, in this process: what is refused, and that it gives up where nobody comes.

`processes/` and `contract/` have servers that serve.
"""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import optax
import pytest
from helpers import tiny_config

from jaxdist.cluster import Cluster
from jaxdist.comm.security import Security
from jaxdist.errors import PeerError, UsageError
from jaxdist.roles import server


def serve(tmp_path, address: str, *, token: str = "", insecure: bool = False, **optim):
    config = tiny_config.get_config()
    config.model.param_dtype = "float32"
    config.cluster.connect_timeout_seconds = 0.2  # how long it waits for the chief
    config.optim.update(optim)
    security = Security(token, insecure=insecure)
    cluster = Cluster(role="server", server_addresses=(address,), security=security)
    with ThreadPoolExecutor(1) as pool:  # not the main thread: SIGTERM keeps its meaning
        return pool.submit(server.serve, config, str(tmp_path), cluster).result(120)


def whole_gradient(momentum: float) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.trace(momentum))


def test_an_address_that_others_reach_needs_a_token(tmp_path):
    with pytest.raises(UsageError, match=r"can be reached from other machines, by anybody: set .*JAXDIST_TOKEN"):
        serve(tmp_path, "0.0.0.0:0")
    for allowed in ({"token": "secret"}, {"insecure": True}):
        with pytest.raises(PeerError, match="gives up"):
            serve(tmp_path, "0.0.0.0:0", **allowed)


def test_where_nobody_comes_it_gives_up(tmp_path):
    with pytest.raises(PeerError, match="server 0 gives up: nothing was heard from the chief for"):
        serve(tmp_path, "127.0.0.1:0")


def test_an_address_in_use_is_refused(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"Server 0 cannot serve at {address}"):
            serve(tmp_path, address)


def test_a_rule_that_cannot_be_built_or_needs_the_whole_gradient_is_refused(tmp_path):
    with pytest.raises(UsageError, match="The update rule cannot be built"):
        serve(tmp_path, "127.0.0.1:0", name=f"{__name__}:no_such_rule")
    with pytest.raises(UsageError, match="a parameter server, which has a part of each kind of tensor"):
        serve(tmp_path, "127.0.0.1:0", name=f"{__name__}:whole_gradient")
