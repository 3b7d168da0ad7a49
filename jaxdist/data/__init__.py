"""Data sets, the stream of examples, and batches."""

from jaxdist.data.contract import checked as checked
from jaxdist.data.dataset import Dataset as Dataset
from jaxdist.data.dataset import Split as Split
from jaxdist.data.dataset import mean_image as mean_image
from jaxdist.data.dataset import scan as scan
from jaxdist.data.loader import Loader as Loader
from jaxdist.data.prefetch import prefetch as prefetch
from jaxdist.data.sources import NAMES as NAMES
from jaxdist.data.sources import import_reader as import_reader
from jaxdist.data.sources import load as load
from jaxdist.data.stream import ExampleStream as ExampleStream
