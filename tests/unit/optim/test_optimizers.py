"""Any optax transformation over the canonical state, whole and in parts; schedules; what is refused."""

from __future__ import annotations

import dataclasses
import math
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.in_process import PIPELINE, build_pipeline, run_strategy, strategy_on
from helpers.processes import long
from helpers.reference import assert_same, make_batches, make_task, train_reference

from jaxdist import config as config_lib
from jaxdist import models, strategies
from jaxdist.config import default_config
from jaxdist.config.phases import schedule_of
from jaxdist.dotted import function_of
from jaxdist.errors import UsageError
from jaxdist.optim import momentum, optimizers, partial, schedules
from jaxdist.optim.optimizers import Optimizer
from jaxdist.parallel.flat_layout import Layout, pack, unpack
from jaxdist.ps.shard import Shard
from jaxdist.state import Position, TrainState, flatten, unflatten
from jaxdist.strategies.optimizer_check import refuse_unless_blockwise, refuse_unless_elementwise
from jaxdist.strategies.parameter_server.state import to_canonical, to_vectors
from jaxdist.task.stage import Stage
from jaxdist.train import phase_needs, phase_triggers

PARAMS = {
    "stem": {"conv": {"kernel": np.ones((3, 2), np.float32), "bias": np.ones(2, np.float32)}},
    "head": {
        "kernel": np.ones((128, 130), np.float32),
        "trace": np.ones(3, np.float32),
    },  # a parameter may be called as a slot is
}


def kernels(tree):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", tree)


def by_kind(tree):
    return jax.tree.map(lambda is_kernel: "a" if is_kernel else "b", kernels(tree))


MASKED = optax.masked(optax.trace(0.9), kernels)
PARTITIONED = optax.partition({"a": optax.trace(0.9), "b": optax.scale_by_adam()}, by_kind)
CHAIN = optax.chain(optax.clip(1.0), optax.trace(0.9), optax.scale_by_adam(), MASKED)


@pytest.mark.parametrize(
    ("rule", "slots"),
    [
        (optax.identity(), set()),
        (optax.trace(0.9), {"trace"}),
        (optax.scale_by_adam(), {"count", "mu", "nu"}),
        (optax.scale_by_adadelta(), {"e_g", "e_x"}),
        (CHAIN, {"1.trace", "2.count", "2.mu", "2.nu", "3.inner_state.trace"}),
        (optax.scale_by_factored_rms(), {"count", "v", "v_row", "v_col"}),
        (
            PARTITIONED,
            {"inner_states.a.inner_state.trace"} | {f"inner_states.b.inner_state.{s}" for s in ("count", "mu", "nu")},
        ),
        (optax.add_noise(0.1, 0.5, 0), {"count", "rng_key"}),
        (optax.GradientTransformation(lambda p: jax.tree.map(jnp.zeros_like, p), lambda g, s, p: (g, s)), {"state"}),
    ],
)  # fmt: skip
def test_slots_of_any_rule(rule, slots):
    """The update is optax's own on optax's own state, through the slots and back."""
    optimizer = Optimizer(rule)
    state = optimizer.init(PARAMS)
    assert set(state) == slots and all("/" not in slot for slot in state)
    like = flatten(optimizer.shapes(PARAMS))
    found = flatten(state)
    assert {p: (x.shape, x.dtype) for p, x in found.items()} == {p: (x.shape, x.dtype) for p, x in like.items()}
    params = flatten(PARAMS)
    for path, leaf in found.items():  # leaf by leaf, the same
        slot, _, name = path.partition("/")
        one = optimizer.init_leaf(slot, *((params[name].shape, np.float32, name) if name else ((), np.float32)))
        np.testing.assert_array_equal(one, leaf, err_msg=path)
    optimizer.check(PARAMS)
    grads = jax.tree.map(lambda leaf: np.linspace(-2, 3, leaf.size, dtype=np.float32).reshape(leaf.shape), PARAMS)
    expected, mine, theirs = PARAMS, PARAMS, rule.init(PARAMS)
    for _ in range(2):
        mine, state = optimizer.update(grads, state, mine, np.float32(0.1))
        direction, theirs = rule.update(grads, theirs, expected)
        expected = jax.tree.map(lambda p, d: p - np.float32(0.1) * d, expected, direction)
    jax.tree.map(np.testing.assert_array_equal, mine, expected)
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    of_optax = [jax.random.key_data(leaf) if is_key(leaf) else leaf for leaf in jax.tree.leaves(theirs)]
    assert sorted(map(repr, map(np.asarray, flatten(state).values()))) == sorted(map(repr, map(np.asarray, of_optax)))


def test_slots_that_lack_parameters_or_have_other_shapes():
    state = Optimizer(CHAIN).init(PARAMS)
    assert set(flatten(state["3.inner_state.trace"])) == {"stem/conv/kernel", "head/kernel"}
    factored = Optimizer(optax.scale_by_factored_rms()).init(PARAMS)
    assert factored["v_row"]["head"]["kernel"].shape == (128,) and factored["v_row"]["head"]["trace"].shape == (1,)


def test_a_state_without_parameters_keeps_its_slots():
    _, state = Optimizer(CHAIN).update({}, {"1.trace": {}, "2.mu": {}} | Optimizer(CHAIN).init({}), {}, np.float32(1))
    assert state["1.trace"] == {} and state["2.count"] == 1


# Whole and in parts.

BOTH, BLOCKWISE, NEITHER = (True, True), (False, True), (False, False)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (optax.trace(0.9), BOTH),
        (optax.scale_by_adadelta(), BOTH),
        (optax.chain(optax.clip(1.0), optax.trace(0.9)), BOTH),
        (optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio()), BLOCKWISE),  # lamb
        (optax.scale_by_factored_rms(), BLOCKWISE),  # adafactor
        (optax.clip_by_global_norm(1.0), NEITHER),
        (optax.apply_if_finite(optax.trace(0.9), 3), NEITHER),
        long(optax.scale_by_adam(), BOTH),
        long(optax.scale_by_rss(), BOTH),
        long(optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(1e-2, mask=kernels)), BOTH),  # adamw
        long(optax.scale_by_lion(), BOTH),
        long(optax.scale_by_rms(), BOTH),
        long(MASKED, BOTH),
        long(optax.adaptive_grad_clip(0.01), BLOCKWISE),
        long(optax.centralize(), BLOCKWISE),
        long(optax.chain(optax.clip_by_global_norm(1e3), optax.trace(0.9)), NEITHER),
        long(optax.add_noise(1e-4, 0.5, 0), NEITHER),
        long(optax.partition({"a": optax.trace(0.9)}, {"stem": "a"}), NEITHER),
    ],
    ids=lambda value: None,
)
def test_what_can_be_updated_apart(rule, expected):
    optimizer = Optimizer(rule)
    for check, passes, words in zip(
        (partial.check_elementwise, partial.check_blockwise), expected, ("elementwise", "blockwise"), strict=True
    ):
        if passes:
            check(optimizer)
            continue
        with pytest.raises(ValueError, match=f"not {words}.*(differs by|is .* in parts|cannot be applied).*sgd, ada"):
            check(optimizer)


def test_weight_decay_of_kernels_is_elementwise():
    partial.check_elementwise(optimizers.build("sgd", weight_decay=1e-2))


def with_rule(rule, dtype=np.float64):
    return dataclasses.replace(make_task("resnet", dtype), optimizer=Optimizer(rule, 1e-4, "mine"))


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
    task = with_rule(optax.chain(optax.trace(0.9), frozen))
    for own_name in (None, lambda path: f"{path.partition('/')[0]}/{path.rpartition('/')[2]}"):
        with pytest.raises(UsageError, match="by names that are lost"):
            refuse_unless_elementwise(task, "X", own_name)
    refuse_unless_blockwise(task, "a pipeline")
    refuse_unless_elementwise(make_task("densenet"), "X")  # weight decay of kernels: the last name is kept
    by_block = optax.masked(optax.set_to_zero(), lambda tree: {name: name == "stem" for name in tree})
    refuse_unless_elementwise(with_rule(by_block), "X", lambda path: "/".join(path.split("/")[:: path.count("/")]))


def test_rules_that_cannot_train_are_refused_before_anything_is_made():
    task = with_rule(optax.contrib.schedule_free(optax.sgd(0.1), 0.1))
    with pytest.raises(ValueError, match="depends on the values of the parameters"):
        task.check_optimizer()
    with pytest.raises(ValueError, match=r"optim\.name='mine': it cannot be applied"):
        with_rule(optax.partition({"a": optax.trace(0.9)}, {"nowhere": "a"})).check_optimizer()
    make_task("resnet").check_optimizer()


# One state under several strategies: three layers, for the seconds that a larger model takes to compile.


class Layer(models.chain.nn.Module):
    features: int

    @models.chain.nn.compact
    def __call__(self, x, context):
        return jnp.tanh(models.chain.nn.Dense(self.features, name="dense", param_dtype=x.dtype)(x.reshape(len(x), -1)))


def three_layers(rule, dtype=np.float64):
    blocks = (("stem", Layer(6)), ("middle", Layer(6)), ("head", Layer(10)))
    task = make_task("resnet", dtype)
    return dataclasses.replace(task, chain=models.Chain(blocks, (8, 8, 1)), optimizer=Optimizer(rule, 1e-4, "mine"))


STATEFUL = optax.chain(optax.trace(0.9), optax.scale_by_rms(), optax.scale_by_schedule(lambda n: 1.0), MASKED)


@pytest.mark.parametrize("how", ["fsdp", long("zero1")])
def test_shares_keep_a_chain_as_it_is_and_train_alike(x64, how):
    task, batches = three_layers(STATEFUL), make_batches(3, 15)
    expected = train_reference(task, batches, replicas=1)
    settings = default_config().strategy.to_dict()
    settings |= {"name": "model_parallel", "shard_threshold": 16, "shard_params": how}
    strategy = strategy_on(3, task, 15, **settings)
    for state in (task.init(), expected):
        assert_same(strategy.export_state(strategy.import_state(state)), state, 0.0)
    assert_same(run_strategy(task, batches, devices=3, strategy=strategy), expected, 1e-9)


def test_stages_keep_a_chain_as_it_is(x64):
    task = three_layers(STATEFUL)
    begun = train_reference(task, make_batches(1, 16), replicas=1)
    pipeline = build_pipeline(task, devices=2, **PIPELINE | {"num_stages": 2})
    try:
        assert_same(pipeline.export_state(pipeline.import_state(begun)), begun, 0.0)
    finally:
        pipeline.close()
    names = task.chain.names
    arrays = jax.tree.map(np.asarray, begun.arrays())
    grads = jax.tree.map(lambda leaf: np.sin(np.arange(leaf.size)).reshape(leaf.shape), arrays["params"])
    params, slots = jax.jit(task.optimizer.update)(grads, arrays["opt_state"], arrays["params"], np.float64(0.1))
    for part in (names[:2], names[2:]):
        stage = Stage(task, part)
        own = stage.cut_arrays(arrays)
        new, own_slots = jax.jit(task.optimizer.update)(
            stage.cut(grads), own["opt_state"], own["params"], np.float64(0.1)
        )
        expected = stage.cut_arrays({"params": params, "model_state": {}, "opt_state": slots})
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), new, expected["params"])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), own_slots, expected["opt_state"])


class Pinned:
    """Values of servers as `PinnedVersion` gives them."""

    pending = ()
    progress = types.SimpleNamespace(version=3, examples_seen=48)

    def __init__(self, shards):
        self.shards, self.slots = shards, list(shards[0].values.state)

    def vector(self, what, dtype):
        return np.concatenate([s.values.flat(what).view(np.uint8) for s in self.shards]).view(dtype)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_server_shards_keep_a_chain_as_it_is_and_update_alike(x64, count):
    """Five servers of eight elements: some have no kernel, so nothing of the masked slot."""
    optimizer = Optimizer(STATEFUL, 1e-4, "mine")
    params = {"a": {"kernel": np.linspace(1, 2, 3), "bias": np.linspace(-1, 1, 4)}, "b": {"scale": np.ones(1)}}
    layout = Layout.of(flatten(params), {})
    rng = np.random.default_rng(1)
    some = lambda leaf: np.asarray(rng.uniform(0, 9, leaf.shape)).astype(leaf.dtype)  # noqa: E731
    state = jax.tree.map(some, optimizer.init(params))
    shards = [Shard(layout, i, count, optimizer) for i in range(count)]
    canonical = TrainState.of({"params": params, "model_state": {}, "opt_state": state}, 0, Position())
    for shard in shards:
        for what, vector in to_vectors(canonical, layout).items():
            if what == "stats":
                continue
            shard.load(what, vector[shard.flat_shard.params] if vector.ndim else vector.reshape(1))
    found = to_canonical(Pinned(shards), layout, optimizer.shapes(params))
    assert flatten(found.opt_state).keys() == flatten(state).keys()
    jax.tree.map(np.testing.assert_array_equal, found.opt_state, state)
    grads = jax.tree.map(lambda leaf: np.asarray(rng.normal(size=leaf.shape)), params)
    whole = pack(layout.params, flatten(grads))
    for shard in shards:
        shard.stage(1, 0, shard.flat_shard.num_bytes, memoryview(whole[shard.flat_shard.params].tobytes()))
        shard.update(1, [1], 0.1, 1.0, momentum_cut=0.5)
    expected = optimizer.update(grads, optimizer.scale_momentum(state, 0.5), params, np.float64(0.1))
    found = to_canonical(Pinned(shards), layout, optimizer.shapes(params))
    for got, wanted in zip((found.params, found.opt_state), expected, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), got, wanted)
    again = Shard(layout, 0, count, optimizer)  # from a snapshot
    again.restore(
        1, {w: shards[0].values.flat(w) for w in ("params", "stats", *(f"slot/{s}" for s in found.opt_state))}
    )
    jax.tree.map(np.testing.assert_array_equal, again.values.state, shards[0].values.state)
    assert unpack(layout.params, whole)["a/bias"].shape == (4,)


def test_a_state_that_cannot_travel_is_refused():
    layout = Layout.of(flatten({"a": {"kernel": np.ones(3, np.float32)}}), {})
    wide = optax.GradientTransformation(
        lambda p: jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.int32), p), lambda g, s, p: (g, s)
    )
    with pytest.raises(ValueError, match="slot 'state' is int32, which float32 cannot hold"):
        Shard(layout, 0, 1, Optimizer(wide))


def test_under_gspmd_what_has_another_shape_is_whole_everywhere():
    rule = optax.chain(optax.trace(0.9), optax.scale_by_factored_rms(min_dim_size_to_factor=2))
    task = three_layers(rule, np.float32)
    settings = default_config().strategy.to_dict() | {"name": "model_parallel", "mesh": "data:1,model:2"}
    settings |= {"rules": "stem/dense/kernel = -,model; middle/dense/kernel = model,-"}
    strategy = strategy_on(2, task, 16, **settings)
    state = strategy.import_state(task.init())
    assert_same(strategy.export_state(state), task.init(), 0.0)
    slots, params = state.arrays["opt_state"], flatten(state.arrays["params"])
    split = [path for path, leaf in params.items() if not leaf.is_fully_replicated]
    assert split and all(flatten(slots["0.trace"])[path].sharding == params[path].sharding for path in split)
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(slots["1.v_row"]))


def test_momentum_is_found_in_any_chain():
    state = {"0.trace": {"a": np.ones(2, np.float32)}, "1.count": np.int32(3), "x.traces": np.ones(1)}
    after = Optimizer(STATEFUL).scale_momentum(state, 0.5)
    assert after["0.trace"]["a"].tolist() == [0.5, 0.5] and after["0.trace"]["a"].dtype == np.float32
    assert after["1.count"] is state["1.count"] and after["x.traces"] is state["x.traces"]
    assert momentum.scaled({"count": np.int32(3)}, 0.5) == {"count": np.int32(3)}


# Functions by name.


@pytest.fixture
def mine(monkeypatch):
    module = types.ModuleType("mine_of_test_optim")
    module.rule = lambda momentum: optax.trace(momentum)
    module.decayed = lambda weight_decay: optax.add_decayed_weights(weight_decay)
    module.rate = lambda learning_rate, num_epochs, examples_per_epoch: (
        lambda seen: learning_rate * (1 - seen / (num_epochs * examples_per_epoch))
    )
    module.wrong = lambda: 3
    monkeypatch.setitem(sys.modules, module.__name__, module)
    optimizers.build.cache_clear()
    yield module.__name__
    optimizers.build.cache_clear()


def test_functions_get_what_they_ask_for(mine):
    built = optimizers.build(f"{mine}:rule", momentum=0.5, weight_decay=0.1)
    assert built.weight_decay == 0.1 and set(built.init(PARAMS)) == {"trace"} and built.name == f"{mine}:rule"
    assert optimizers.build(f"{mine}:decayed", weight_decay=0.1).weight_decay == 0  # it does it itself
    assert optimizers.build("sgd", momentum=0.0).init(PARAMS) == {}
    with pytest.raises(ValueError, match=r"returned a int, not an optax\.GradientTransformation"):
        optimizers.build(f"{mine}:wrong")
    given = {"learning_rate": 0.4, "drop_epochs": (1,), "drop_factor": 0.1, "examples_per_epoch": 10, "num_epochs": 2}
    assert schedules.build(f"{mine}:rate", **given)(5) == 0.4 * 0.75
    assert [schedules.build("step", **given)(seen) for seen in (9, 10)] == [0.4, 0.4 * 0.1]
    assert schedules.build("constant", **given)(10**9) == 0.4
    config = default_config()
    config.optim.name = f"{mine}:rule"
    config_lib.validate(config)


@pytest.mark.parametrize("name", ["nowhere_at_all:f", "math:nothing", ":f", "math:pi"])
def test_functions_that_are_not_there(name):
    with pytest.raises(ValueError, match=r"^optim\.name='.*' (cannot be imported|is a float)"):
        function_of(name, "optim.name")


# The plateau rule and schedules.


def test_a_rate_that_never_stays_is_refused_with_plateau():
    settings = {"switch_when": "plateau", "switch_threshold": 0.1}
    settings |= {"switch_window_epochs": 0.5, "switch_after_drop": True}
    cosine = lambda seen: 0.1 * (1 + math.cos(math.pi * seen / 8000))  # noqa: E731
    words = r"two windows of 500 examples .*8000 examples the schedule holds none.*fractions"
    with pytest.raises(UsageError, match=words):
        phase_triggers.build(settings, 1000, cosine, 8000)
    often = lambda seen: 0.1 * 0.9 ** (seen // 700)  # noqa: E731
    with pytest.raises(UsageError, match=r"holds one for 6\d\d at the longest"):
        phase_triggers.build(settings, 1000, often, 8000)
    assert phase_triggers.build(settings | {"switch_window_epochs": 0.3}, 1000, often, 8000) is not None
    warm = lambda seen: min(seen, 1000) * 1e-4 if seen < 6000 else cosine(seen)  # noqa: E731
    assert phase_triggers.build(settings, 1000, warm, 8000) is not None
    assert phase_triggers.build(settings | {"switch_when": ""}, 1000, cosine, 8000) is None
    assert phase_triggers.build(settings, 1000, lambda seen: 0.1, 500) is not None  # short, and ends where it is to


def test_trees_without_what_is_empty():
    assert unflatten(flatten({"a": {}, "b": {"c": 1}})) == {"b": {"c": 1}}
