"""Under health.nonfinite=skip an update that is not finite leaves no trace, under every strategy: what follows equals
the single-device run that never saw its examples. Under other policies the step has nothing of it.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.in_process import BATCH, SHARDED, TWO_STAGES, build_pipeline, only, strategy_on
from helpers.processes import long
from helpers.reference import make_batches, make_task, train_reference

from jaxdist.state import flatten

FSDP, ZERO1 = SHARDED | {"shard_params": "fsdp"}, SHARDED | {"shard_params": "zero1"}
STRATEGIES = {
    "single": (1, 1, {"name": "single"}),
    "allreduce": (2, 2, {}),
    "jit": (2, 1, {"spmd": "jit"}),
    "pmap": (2, 2, {"spmd": "pmap"}),
    "fsdp": (2, 1, FSDP),
    "zero1": (2, 1, ZERO1),
    "mesh": (2, 1, SHARDED | {"mesh": "data:1,model:2"}),
    "pipeline": (2, 2, TWO_STAGES),
    "pipeline, two replicas": (4, 4, TWO_STAGES | {"replicas": 2}),
}


def spoilt(batch, value: float):
    """One pixel of the last example, so that one replica or microbatch alone has it."""
    images = batch["inputs"]["image"].copy()
    images[-1, 3, 3, 0] = value
    return batch | {"inputs": {"image": images}}


DEFAULT = ("single", "fsdp", "pipeline, two replicas")


@pytest.mark.parametrize("name", [name if name in DEFAULT else long(name) for name in STRATEGIES])
def test_a_skipped_update_leaves_no_trace(x64, name):
    devices, replicas, settings = STRATEGIES[name]
    task = dataclasses.replace(make_task("chain"), nonfinite="skip")
    batches = make_batches(5, BATCH)
    expected = train_reference(task, [batches[0], batches[2], batches[4]], replicas=replicas)
    given = [batches[0], spoilt(batches[1], np.nan), batches[2], spoilt(batches[3], np.inf), batches[4]]
    strategy = strategy_on(devices, task, **settings)
    skipped, counts = [], []
    with only(devices):
        state = strategy.import_state(task.init())
        for batch in given:
            state, metrics = strategy.train_step(state, strategy.place(batch))
            skipped.append(float(metrics["skipped"]))
            counts.append(float(metrics["count"]))
            assert np.isfinite(float(metrics["loss_sum"]))
        found = strategy.export_state(state)
    strategy.close()
    assert skipped == [0, 1, 0, 1, 0] and counts == [BATCH, 0, BATCH, 0, BATCH]
    assert found.updates == 5 and found.examples_seen == 5 * BATCH
    a, b = flatten(found.arrays()), flatten(expected.arrays())
    for path in b:
        np.testing.assert_allclose(a[path], b[path], rtol=0, atol=1e-9, err_msg=path)


@pytest.mark.parametrize("stage", [long(0), 1, long(2)])
def test_a_gradient_of_one_stage_alone_is_enough(x64, stage):
    """Overflow on the way back: the loss is finite, and the other stages' gradients too."""
    task = dataclasses.replace(make_task("chain"), nonfinite="skip")
    strategy = build_pipeline(task, devices=3, num_stages=3, num_microbatches=2)
    with only(3):
        before = strategy.import_state(task.init())
        strategy._workers[stage].stage.all_finite = lambda grads: jnp.array(False)
        after, metrics = strategy.train_step(before, strategy.place(make_batches(1, BATCH)[0]))
        assert metrics["skipped"] == 1 and after.workers == before.workers
    strategy.close()


@pytest.mark.parametrize("name", [long("single"), long("allreduce"), "fsdp"])
def test_the_default_step_has_nothing_of_it(name):
    """No comparison with infinity, no further collective, no host transfer: the compiled programs are one."""
    devices, _, settings = STRATEGIES[name]
    texts = {}
    for policy in ("stop", "warn", "skip"):
        task = dataclasses.replace(make_task("chain", np.float32), nonfinite=policy)
        strategy = strategy_on(devices, task, **settings)
        with only(devices):
            state = strategy.import_state(task.init())
            batch = strategy.place(make_batches(1, BATCH, np.float32)[0])
            if name == "single":
                texts[policy] = strategy._update.lower(state.arrays, batch, np.float32(0)).as_text()
            else:
                flags = strategy._stop[False]
                texts[policy] = strategy._step.lower(state.arrays, batch, np.float32(0), flags).as_text()
    assert texts["stop"] == texts["warn"] != texts["skip"]
    looks = {policy: text.count("stablehlo.is_finite") for policy, text in texts.items()}  # cross-entropy has its own
    assert looks["stop"] < looks["skip"]
    for outside in ("infeed", "outfeed", "callback", "stablehlo.send", "stablehlo.recv"):
        assert outside not in texts["stop"], outside
    collectives = {policy: text.count("stablehlo.all_reduce") for policy, text in texts.items()}
    assert collectives["skip"] == collectives["stop"] + (name == "fsdp")
