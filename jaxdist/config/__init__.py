"""Every knob with its default and meaning, what values it may take, and the phases of a run as text. Imports no jax."""

from jaxdist.config.defaults import check_override as check_override
from jaxdist.config.defaults import comparable as comparable
from jaxdist.config.defaults import default_config as default_config
from jaxdist.config.defaults import flatten as flatten
from jaxdist.config.validate import validate as validate
