"""What is trained: model, loss, metrics and initial state, whole or stage by stage."""

from jaxdist.task.task import Batch as Batch
from jaxdist.task.task import Metrics as Metrics
from jaxdist.task.task import Task as Task
from jaxdist.task.task import score as score
