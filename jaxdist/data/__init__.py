"""Data sets, the stream of examples, and batches."""

from jaxdist.data.augment import flip_and_crop_images as flip_and_crop_images
from jaxdist.data.contract import checked as checked
from jaxdist.data.contract import scales_of as scales_of
from jaxdist.data.dataset import Augment as Augment
from jaxdist.data.dataset import Dataset as Dataset
from jaxdist.data.dataset import Split as Split
from jaxdist.data.dataset import mean_of as mean_of
from jaxdist.data.dataset import scan as scan
from jaxdist.data.loader import HostBatch as HostBatch
from jaxdist.data.loader import Loader as Loader
from jaxdist.data.partition import Partition as Partition
from jaxdist.data.partition import PartitionedStream as PartitionedStream
from jaxdist.data.partition import partition as partition
from jaxdist.data.prefetch import prefetch as prefetch
from jaxdist.data.sources import NAMES as NAMES
from jaxdist.data.sources import import_reader as import_reader
from jaxdist.data.sources import load as load
from jaxdist.data.stream import ExampleStream as ExampleStream
