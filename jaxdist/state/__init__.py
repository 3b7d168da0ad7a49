"""What a run is at one moment: the canonical state, its position in the stream of examples, and its trees."""

from jaxdist.state.lazy_array import LazyArray as LazyArray
from jaxdist.state.lazy_array import Select as Select
from jaxdist.state.lazy_array import part_shape as part_shape
from jaxdist.state.position import Position as Position
from jaxdist.state.position import Ranges as Ranges
from jaxdist.state.train_state import TrainState as TrainState
from jaxdist.state.train_state import arrays_of as arrays_of
from jaxdist.state.train_state import state_of as state_of
from jaxdist.state.tree import Tree as Tree
from jaxdist.state.tree import flatten as flatten
from jaxdist.state.tree import unflatten as unflatten
