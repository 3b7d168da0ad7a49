"""`--role=evaluator`: evaluates one version after another beside the training, and stops nobody."""

from __future__ import annotations

import logging
import os
import time

from ml_collections import ConfigDict

from jaxdist import cluster as cluster_lib
from jaxdist import config as config_lib
from jaxdist import strategies
from jaxdist.cluster import Cluster
from jaxdist.errors import Preempted
from jaxdist.runtime import compilation
from jaxdist.train.evaluate import evaluation_row
from jaxdist.train.setup import fingerprints, load_examples, make_task, total_examples

_ASK_SECONDS = 0.5


def evaluate_snapshots(config: ConfigDict, workdir: str, cluster: Cluster) -> int:
    """Takes a consistent snapshot at each epoch's worth of examples, and tells the chief what it is worth.

    A snapshot is taken when the evaluation before it is done: a slow evaluator leaves epochs out, and says so. Returns
    the number of evaluations when the run has ended.

    Raises:
      UsageError: this process does not fit the run.
      PeerError: the run failed, or the servers are lost.
    """
    config_lib.validate(config)
    compilation.set_up(config.compilation_cache, config.model.param_dtype)
    os.makedirs(workdir, exist_ok=True)
    examples = load_examples(config)
    task = make_task(config, examples)
    observer = strategies.build_observer(
        config.strategy,
        task,
        server_addresses=cluster.server_addresses,
        signature=cluster_lib.shared_facts(config_lib.comparable(config)) | fingerprints(examples, task),
        timeouts=config.cluster,
        security=cluster.security,
    )
    num_train = len(examples.train)
    span = config.eval_every_epochs * num_train
    total = total_examples(config, num_train)
    done = 0
    try:
        crossed = int(observer.examples_seen() / span)
        while (seen := observer.examples_seen()) < total:
            if int(seen / span) == crossed:
                time.sleep(_ASK_SECONDS)
                continue
            state = observer.snapshot()
            updates, seen = observer.progress(state)
            if int(seen / span) > crossed + 1:
                words = "Epochs %d to %d were passed over: evaluating takes too long."
                logging.warning(words, crossed + 1, int(seen / span) - 1)
            crossed = int(seen / span)
            row = evaluation_row(observer, state, examples, config)
            observer.post({"updates": updates, "examples_seen": seen} | row)
            done += 1
            words = "Version %d: validation loss %.4f, accuracy %.2f %%"
            logging.info(words, updates, row["loss"], 100 * row["accuracy"])
    except (strategies.RunFinished, Preempted) as e:
        logging.info("The run has ended: %s", e)
    finally:
        observer.close()
    return done
