"""The parameter server: arrays and bytes, from synchronous to unbounded staleness by one bound.

What it promises (each tested in tests/contract/):

1.  *Order.* Server 0 puts accepted pushes into one order; every shard applies the same updates in that order. The
    version counts applied updates (at bound 0: rounds) since the run's beginning, and grows by one with each. Within
    an incarnation it never falls.
2.  *Exactly once.* A push is named by its claim, a number that server 0 hands out once. However often it is sent, it is
    applied once, and the answer is the same. A push is accepted when every shard has its part, so none is half
    applied, whoever is killed; gradients are checked for NaN and Inf before any shard is sent anything.
3.  *Own writes.* A pull that begins after a push was acknowledged includes it.
4.  *One version a shard.* A pull's values from one shard are of one version. The other shards' are of server 0's or a
    later one. A pinned version is one and the same on all shards: evaluations and checkpoints read pinned versions.
5.  *The bound.* At 0 every update is the mean of one gradient from each worker that has examples, all taken at the
    version before (staleness 0). At s > 0 a step starts only when its clock lead is at most s, and its push is at
    most (workers - 1) * (2s + 1) versions late, one more where communication overlaps computation (`staleness.py`
    derives it). Below 0 nothing waits. Nobody waits for workers that are lost or without examples, nor for those that
    are away (evaluating, saving) unless the bound is 0.
6.  *Examples.* Each is in one claim at a time. A claim ends by its push being applied, or goes back and is handed out
    again when its worker is lost, leaves, or the servers roll back. version - start = accepted pushes (at bound 0:
    rounds), and examples seen = the sum of their claims (and of claims passed over because they were not finite).
7.  *Incarnations.* When a server is started again, all shards go back to one common snapshot, which has the claimed
    ranges and what was counted. Sessions and claims of before are over and their numbers are not used again: pushes of
    before are refused whether or not they had been applied, which stands in for a table of them; their workers join
    again. What was lost is counted and logged.
8.  *Leases.* A worker not heard of for `lease_seconds` (`timeout_seconds`, if longer, at bound 0) is dropped; its late
    pushes are refused. The run ends when the chief (worker 0) ends it, or is silent for the longer of the two.

BatchNorm's statistics are merged as `shard.Shard._compute` says.
"""

from jaxdist.ps.client import Client as Client
from jaxdist.ps.errors import Fenced as Fenced
from jaxdist.ps.errors import Refused as Refused
from jaxdist.ps.errors import RunFinished as RunFinished
from jaxdist.ps.reservation import ServerReservation as ServerReservation
from jaxdist.ps.reservation import end_run as end_run
from jaxdist.ps.results import Claim as Claim
from jaxdist.ps.results import PinnedVersion as PinnedVersion
from jaxdist.ps.results import Progress as Progress
from jaxdist.ps.results import Pulled as Pulled
from jaxdist.ps.server import ParameterServer as ParameterServer
from jaxdist.ps.staleness import largest_staleness as largest_staleness
