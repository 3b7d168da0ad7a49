"""An evaluator's view of a run on servers: one version of all of them, and a way to tell the chief.

Beside real runs it is held by `processes/test_parameter_server.py`.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers.in_process import only
from helpers.reference import make_task
from helpers.servers import SIGNATURE, Servers, settings_of_a_run
from helpers.waiting import wait_until

from jaxdist.errors import UsageError
from jaxdist.strategies.parameter_server.flat_model import FlatModel
from jaxdist.strategies.parameter_server.observer import Observer

TIMEOUTS = {"timeout_seconds": 10.0, "connect_timeout_seconds": 10.0}


def test_it_sees_whole_versions_and_posts_what_it_finds(x64, tmp_path):
    task = make_task("dense")
    with only(1), Servers(tmp_path, 2) as servers:
        layout = FlatModel(task, 2).layout
        chief = servers.client(0, layout)
        start = np.arange(layout.num_params, dtype=np.float64)
        chief.begin(settings_of_a_run(share=3), {"params": start, "stats": np.zeros(layout.num_stats)})
        chief.join()
        observer = Observer(task, server_addresses=servers.addresses, signature=SIGNATURE, timeouts=TIMEOUTS)
        try:
            assert not observer.is_chief and not observer.collective
            claim = chief.claim()
            gradients = [np.ones(s.num_params + s.num_stats) for s in chief.flat_shards]
            commit = {"pulled_version": 0, "learning_rate": 1.0, "sums": [1.0, 2.0, 3.0]}
            chief.push_pull(claim, gradients, commit, ahead=0)
            state = observer.snapshot()
            assert (state.updates, state.examples_seen) == (1, 3)
            found = [np.asarray(b)[: s.num_params] for b, s in zip(state.buffers, chief.flat_shards, strict=True)]
            np.testing.assert_array_equal(np.concatenate(found), start - 1)
            wait_until(lambda: observer.examples_seen() >= 3, "sign of life after the push", 30)
            observer.post({"updates": 1, "loss": 0.5})
            chief.heartbeat()
            assert chief.evaluator and chief.take_evaluations() == [{"updates": 1, "loss": 0.5}]
            for trains in (observer.import_state, observer.export_state):
                with pytest.raises(NotImplementedError):
                    trains(state)
            with pytest.raises(NotImplementedError):
                observer.train_step(state, {})
            with pytest.raises(UsageError):
                Observer(make_task("chain"), server_addresses=servers.addresses, signature=SIGNATURE, timeouts=TIMEOUTS)
        finally:
            observer.close()
