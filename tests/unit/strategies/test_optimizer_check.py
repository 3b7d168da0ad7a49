"""Optimizers that a strategy cannot apply, or that cannot train (Task.check_optimizer), are refused with the remedy."""

from __future__ import annotations

import jax
import optax
import pytest
from helpers.reference import make_task
from helpers.three_layers import with_rule

from jaxdist import strategies
from jaxdist.config import default_config
from jaxdist.config.phases import schedule_of
from jaxdist.errors import UsageError
from jaxdist.strategies.optimizer_check import refuse_unless_blockwise, refuse_unless_elementwise
from jaxdist.train import phase_needs


def test_refusals_name_rule_reason_and_remedy():
    lamb = with_rule(optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio()))
    refuse_unless_blockwise(lamb, "a pipeline")
    words = (
        r"optim.name='mine' cannot be applied by X: .* differs by .*\(sgd, adadelta, adagrad, adam\), or strategy.na"
    )
    with pytest.raises(UsageError, match=words):
        refuse_unless_elementwise(lamb, "X")
    normed = with_rule(optax.clip_by_global_norm(1.0))
    settings = default_config().strategy.to_dict()
    sizes = {"global_batch_size": 16, "num_processes": 1, "num_devices": 2, "num_servers": 1}
    for changes in (
        {"name": "parameter_server"},
        {"name": "model_parallel", "shard_params": "fsdp"},
        {"name": "model_parallel", "shard_params": "zero1"},
        {"name": "pipeline", "num_stages": 2},
        {"name": "switch", "schedule": "allreduce:0.5,parameter_server"},
    ):
        with pytest.raises(UsageError, match=r"optim.name='mine' cannot be applied by strategy"):
            phase_needs.check(schedule_of(settings | changes), settings | changes, normed, **sizes)
    strategies.check(settings | {"name": "allreduce"}, normed, **sizes)


def test_rules_by_the_names_of_layers_are_refused_where_those_are_lost():
    only_stem = optax.masked(optax.trace(0.9), lambda tree: {n: "stem" in n for n in tree})
    with pytest.raises(UsageError, match=r"slot 'inner_state.trace' is for some of the parameters called .*one vector"):
        refuse_unless_elementwise(with_rule(only_stem), "X")
    refuse_unless_elementwise(with_rule(only_stem), "X", own_name=lambda path: "/".join(path.split("/")[::2]))


def test_rules_by_names_without_slots_are_refused_too():
    """A mask of layers that freezes some: in a vector of all kernels it would match nothing, silently."""
    frozen = optax.masked(
        optax.set_to_zero(),
        lambda tree: jax.tree_util.tree_map_with_path(lambda path, _: "conv1" in [key.key for key in path], tree),
    )
    task = with_rule(optax.chain(optax.trace(0.9), frozen), model="resnet")
    for own_name in (None, lambda path: f"{path.partition('/')[0]}/{path.rpartition('/')[2]}"):
        with pytest.raises(UsageError, match="by names that are lost"):
            refuse_unless_elementwise(task, "X", own_name)
    refuse_unless_blockwise(task, "a pipeline")
    refuse_unless_elementwise(make_task("chain"), "X")  # weight decay of kernels: the last name is kept
    by_block = optax.masked(optax.set_to_zero(), lambda tree: {name: name == "stem" for name in tree})
    refuse_unless_elementwise(with_rule(by_block), "X", lambda path: "/".join(path.split("/")[:: path.count("/")]))


def test_rules_that_cannot_train_are_refused_before_anything_is_made():
    task = with_rule(optax.contrib.schedule_free(optax.sgd(0.1), 0.1))
    with pytest.raises(ValueError, match="depends on the values of the parameters"):
        task.check_optimizer()
    with pytest.raises(ValueError, match=r"optim\.name='mine': it cannot be applied"):
        with_rule(optax.partition({"a": optax.trace(0.9)}, {"nowhere": "a"})).check_optimizer()
    make_task("chain").check_optimizer()
