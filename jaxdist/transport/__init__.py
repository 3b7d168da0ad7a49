"""Calls between processes, with deadlines."""

from jaxdist.transport.rpc import CallError as CallError
from jaxdist.transport.rpc import Client as Client
from jaxdist.transport.rpc import Server as Server
