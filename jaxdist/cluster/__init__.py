"""The processes of a run: who they are, how they come together, and who notices when one is lost."""

from jaxdist.cluster.connect import connect as connect
from jaxdist.cluster.connect import run_signature as run_signature
from jaxdist.cluster.detect import Cluster as Cluster
from jaxdist.cluster.detect import detect as detect
from jaxdist.cluster.hosts import own_host as own_host
from jaxdist.cluster.identity import identity as identity
from jaxdist.cluster.process_group import ProcessGroup as ProcessGroup
