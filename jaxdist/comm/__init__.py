"""Calls between processes, with deadlines; and channels for arrays."""

from jaxdist.transport.channel import Channel as Channel
from jaxdist.transport.channel import ChannelError as ChannelError
from jaxdist.transport.channel import Door as Door
from jaxdist.transport.rpc import CallError as CallError
from jaxdist.transport.rpc import Client as Client
from jaxdist.transport.rpc import Server as Server
