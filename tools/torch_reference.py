"""What tools/torch_run.py begins from and is held against: this package's initial weights and first losses.

    python tools/torch_reference.py --config=FILE --out=DIR [--config.KEY=VALUE ...]

DIR/weights.npz has the weights by their paths; DIR/reference.json the configuration they are of, the loss and the norm
of its gradient at these weights, without dropout, over the first examples of the stream, and the losses after one
update and after two on the same examples. All that is in float64: in float32 a deep network's sums differ by 0.1 %
between two right programs (measured: gradient of ResNet-56 v2), which would hide a wrong one.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxdist import config as config_lib

EXAMPLES = 32  # of the comparison: independent of the run's batch, so that one compiled program serves a whole sweep
UPDATES = 2
# What weights and losses depend on.
DEPENDS_ON = (
    "seed", "data.name", "data.options", "data.train_examples", "data.holdout_examples", "data.augment", "model.",
    "optim.",
)  # fmt: skip


def signature(config: ConfigDict) -> dict[str, Any]:
    """The values that a reference depends on, as JSON has them."""
    found = {k: v for k, v in config_lib.flatten(config).items() if k.startswith(DEPENDS_ON)}
    return json.loads(json.dumps(found))


def make(config: ConfigDict, out: pathlib.Path) -> None:
    """Writes the reference; reference.json comes last."""
    import jax

    from jaxdist.runtime import compilation
    from jaxdist.state import flatten
    from jaxdist.train.setup import load_examples, make_task

    of = signature(config)
    config = config.copy_and_resolve_references()
    config.model.param_dtype = "float64"  # initial kernels are drawn in float32 all the same
    compilation.set_up(config.compilation_cache, config.model.param_dtype)
    examples = load_examples(config)
    task = make_task(config, examples)
    canonical = task.init()
    params, stats, state = (
        jax.tree.map(np.asarray, tree) for tree in (canonical.params, canonical.model_state, canonical.opt_state)
    )
    weights = flatten(params)
    batch = examples.loader.train_batch(examples.train, examples.stream, np.arange(EXAMPLES))
    del batch["position"]  # without it there is no dropout
    value = jax.jit(jax.value_and_grad(lambda params: task.loss(params, stats, batch)[0]))
    losses, norms = [], []
    for number in range(UPDATES + 1):
        loss, grads = value(params)
        losses.append(float(loss))
        norms.append(float(np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in jax.tree.leaves(grads)))))
        if number < UPDATES:
            params, state = task.optimizer.update(grads, state, params, jax.numpy.asarray(task.learning_rate(0)))
    out.mkdir(parents=True, exist_ok=True)
    single = {path: leaf.astype(np.float32) for path, leaf in weights.items()}
    np.savez(out / "writing.npz", allow_pickle=False, **single)
    os.replace(out / "writing.npz", out / "weights.npz")
    facts = {"loss": losses[0], "gradient_norm": norms[0], "parameters": sum(leaf.size for leaf in weights.values())}
    facts |= {f"loss_after_{k}": losses[k] for k in range(1, UPDATES + 1)}
    (out / "writing.json").write_text(json.dumps({"config": of} | facts, indent=2) + "\n")
    os.replace(out / "writing.json", out / "reference.json")


def main(argv: Sequence[str]) -> int:
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", None, "experiment file", flag_values=values)
    out = flags.DEFINE_string("out", None, "where the reference goes", flag_values=values)
    values(list(argv))
    if not out.value:
        raise SystemExit("--out=DIR is required.")
    config_lib.validate(config.value)
    make(config.value, pathlib.Path(out.value))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
