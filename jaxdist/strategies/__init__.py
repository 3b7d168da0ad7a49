"""Ways of distributing a training step, behind one contract (`Strategy`)."""

from jaxdist.strategies.base import Strategy as Strategy
from jaxdist.strategies.registry import RunFinished as RunFinished
from jaxdist.strategies.registry import build as build
from jaxdist.strategies.registry import build_observer as build_observer
from jaxdist.strategies.registry import check as check
from jaxdist.strategies.registry import end_servers as end_servers
from jaxdist.strategies.registry import needs_collectives as needs_collectives
from jaxdist.strategies.registry import needs_peers as needs_peers
