"""The processes of a run: who they are, how they meet, and who notices when one is lost."""

from jaxdist.cluster.connect import close_collectives as close_collectives
from jaxdist.cluster.connect import connect as connect
from jaxdist.cluster.connect import disconnect as disconnect
from jaxdist.cluster.connect import open_collectives as open_collectives
from jaxdist.cluster.connect import shared_facts as shared_facts
from jaxdist.cluster.detect import Cluster as Cluster
from jaxdist.cluster.detect import detect as detect
from jaxdist.cluster.detect import own_host as own_host
