"""What is trained for: losses of examples, and metrics that are sums until they are asked for."""

from jaxdist.task.objectives.classification import Classification as Classification
from jaxdist.task.objectives.objective import Metric as Metric
from jaxdist.task.objectives.objective import Objective as Objective
from jaxdist.task.objectives.objective import mean_of as mean_of
from jaxdist.task.objectives.registry import OBJECTIVES as OBJECTIVES
from jaxdist.task.objectives.registry import build as build
from jaxdist.task.objectives.regression import Regression as Regression
