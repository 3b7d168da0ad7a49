"""`--warm_up`: the run's first update and an evaluation, in a folder that is thrown away, so that its programs are in
the compilation cache before the run begins. Every process of the run does it, together, as it would train."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Iterator

from ml_collections import ConfigDict

from jaxdist.cluster import Cluster
from jaxdist.errors import UsageError
from jaxdist.runtime import compilation


@contextlib.contextmanager
def shortened(config: ConfigDict, workdir: str, cluster: Cluster) -> Iterator[tuple[str, Cluster]]:
    """(run directory, cluster) to use instead, and one update in `config`; the directory, beside the run's, goes at the
    end.

    Raises:
      UsageError: there is no cache to fill.
    """
    if config.compilation_cache == "off":
        raise UsageError("--warm_up fills the compilation cache, and compilation_cache is 'off'.")
    config.max_updates = 1
    if config.profile.updates or config.profile.at_epochs:  # a profiled run looks for its programs with names
        compilation.keep_names()
        config.profile.updates, config.profile.at_epochs = (), ()
    name = cluster.run_id or config.cluster.run_id or f"workdir={os.path.abspath(workdir)}"
    # On the disk that the run will have: there is a checkpoint in the end.
    beside = next(p for p in pathlib.Path(workdir).absolute().parents if p.is_dir())
    with tempfile.TemporaryDirectory(prefix="jaxdist-warm-up-", dir=beside, ignore_cleanup_errors=True) as folder:
        yield folder, dataclasses.replace(cluster, run_id=f"warm-up of {name}")


def words() -> str:
    """What has been done, for the last line."""
    counts = compilation.counts()
    return f"warmed up: {counts['compiled']} programs were compiled, {counts['loaded']} were in the cache."
