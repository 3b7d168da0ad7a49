"""Ways of distributing a training step, behind one contract (`base.Strategy`). Importing this room imports no jax."""

from jaxdist.strategies.registry import SPECS as SPECS
from jaxdist.strategies.registry import build as build
from jaxdist.strategies.registry import check as check
from jaxdist.strategies.registry import check_partition as check_partition
from jaxdist.strategies.registry import observe as observe
from jaxdist.strategies.registry import register as register
from jaxdist.strategies.registry import spec_of as spec_of
from jaxdist.strategies.spec import BuildContext as BuildContext
from jaxdist.strategies.spec import Resources as Resources
from jaxdist.strategies.spec import StrategySpec as StrategySpec
