"""Every knob once, with its default and meaning; and what values they may take. Imports no jax."""

from __future__ import annotations

import math
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jaxdist.config import phases
from jaxdist.errors import UsageError, nearest


def default_config() -> ConfigDict:
    """The defaults, to be overridden by an experiment file and then by `--config.KEY=VALUE`. Locked."""
    return ConfigDict(
        {
            "seed": 0,
            "num_epochs": 40.0,  # passes over the training set; may be a fraction
            "max_updates": 0,  # stop after so many global batches; 0 = no cap (the schedule stays num_epochs')
            "global_batch_size": 128,  # examples an update, over all workers
            "eval_every_epochs": 1.0,
            "eval_batch_size": 0,  # 0 = global_batch_size
            "log_every_steps": 50,
            "early_stopping_patience": 0,  # evaluations without a lower holdout loss before stopping; 0 = off
            "compilation_cache": "",  # folder; '' = $JAX_COMPILATION_CACHE_DIR or ~/.cache/jaxdist; 'off'
            "data": {
                # fashion_mnist | cifar10 | mnist | digits | synthetic | 'package.module:function'
                "name": "fashion_mnist",
                "data_dir": "",  # TFDS folder; '' = $TFDS_DATA_DIR, then ~/tensorflow_datasets
                "train_examples": 0,  # use the first so many; 0 = all
                "eval_examples": 0,
                "holdout_examples": 0,  # taken off the end of the training set, for decisions (early stopping)
                "augment": False,  # random horizontal flip, pad by 4 and crop
                "cache": "file",  # file: decoded once, memory-mapped; memory; none: decoded for each batch
                "prefetch": 2,  # batches prepared ahead; 0 = off
                "options": {},  # arguments of 'synthetic' or of a function of your own
            },
            "model": {
                "name": "densenet",  # cnn | resnet | densenet | 'package.module:function'
                "depth": 40,
                "version": 1,  # resnet: 1 or 2 (pre-activation bottlenecks)
                "growth_rate": 12,  # densenet, as are the next three
                "reduction": 0.5,
                "bottleneck": True,
                "dropout": 0.0,
                "param_dtype": "float32",  # float32 | float64, of parameters and statistics
                "dtype": "",  # of activations: '' = param_dtype | bfloat16
                "options": {},  # further arguments of the family, or all those of a function of your own
            },
            "optim": {
                "name": "sgd",  # sgd | adadelta | adagrad | adam | 'package.module:function'
                "learning_rate": 0.1,
                "momentum": 0.9,  # sgd
                "weight_decay": 0.0,  # L2 penalty on kernels
                "drop_epochs": (),  # the learning rate is multiplied by drop_factor at each
                "drop_factor": 0.1,
            },
            "strategy": {
                "name": "allreduce",  # single | allreduce | parameter_server | switch | pipeline | model_parallel
                "spmd": "shard_map",  # allreduce: shard_map | jit | pmap
                "fusion_megabytes": 64.0,  # largest buffer of one all-reduce; 0 = one all-reduce per array
                "accumulate": 1,  # parts in which each device takes its batch; BatchNorm then sees the parts
                "sync_batch_norm": placeholder(
                    bool
                ),  # BatchNorm over the global batch; unset: False; True with jit and model_parallel
                # parameter_server: -1 unbounded, 0 synchronous rounds, s > 0 a worker's clock lead is at most s
                "max_staleness": -1,
                "staleness_policy": "fixed",  # dynamic: the bound moves in staleness_range with the workers' pace
                "staleness_range": (3, 15),
                "scale_learning_rate": True,  # divide it by the number of workers, where each push is an update
                "overlap": False,  # push and pull while computing: hides the network, at one more step of staleness
                "nonfinite": "refuse",  # a gradient with NaN or Inf: refuse (drop and count it) | stop
                "lease_seconds": 10.0,  # a worker not heard for so long is dropped
                "snapshot_seconds": 10.0,  # between the servers' own snapshots, from which a restarted one goes on
                # switch: phases with their fractions of the run, and options: 'allreduce:0.5,parameter_server',
                # 'allreduce:0.25,parameter_server(max_staleness=3):0.5,allreduce'
                "schedule": "",
                "switch_when": "",  # '' at those fractions | plateau: when the loss no longer falls, at latest there
                "switch_threshold": 0.2,  # plateau: a window's loss less than this part below that of the one before
                "switch_window_epochs": 0.5,
                "switch_after_drop": True,  # plateau: not before the learning rate has dropped, where it is to drop
                "momentum_handover": "zero",  # into an asynchronous phase: keep | zero | scale | ramp
                "memory_limit": 0.0,  # GB that a process may need for model and activations; more is refused; 0 = none
                # pipeline
                "num_stages": 0,  # 0 = as many as there are entries in balance, or processes for each replica
                "replicas": 0,  # of the whole pipeline, gradients averaged; 0 = as many as the processes make
                "num_microbatches": 4,  # of each replica's share of a global batch; BatchNorm sees microbatches
                "pipeline_schedule": "gpipe",  # gpipe | 1f1b: equally idle, 1f1b keeps fewer activations
                "balance": (),  # blocks of each stage; () = chosen
                "balance_by": "time",  # how: time (each block is measured first) | bytes (parameters and activations)
                "remat": False,  # compute the forward pass again in the backward pass: less memory, more time
                # model_parallel
                "mesh": "",  # devices of all processes by axis, 'data:2,model:2'; '' = all on data
                "rules": "family",  # what lies along the axis model: the model family's own | '' nothing |
                # 'PATTERN = PARTITION; ...', as in 'conv1/kernel = -,-,-,model'
                "shard_params": "none",  # over data: none | fsdp (all state) | zero1 (the optimizer's)
                "shard_threshold": 1024,  # fsdp and zero1: tensors of fewer elements are whole everywhere
            },
            "checkpoint": {
                "every_epochs": 1.0,  # 0 = only at the end
                "every_updates": 0,  # for trials
                "keep": 3,
            },
            "monitor": {
                "interval_seconds": 2.0,  # between samples of CPU, memory and network in system/; 0 = off
            },
            "cluster": {
                "timeout_seconds": 60.0,  # a silent or stuck peer is given up after this, and named
                "connect_timeout_seconds": 300.0,  # waiting for the others at the start
                "compile_timeout_seconds": 900.0,  # limits of the phases in which no update is made
                "evaluate_timeout_seconds": 900.0,
            },
        }
    ).lock()


_OF_THE_WHOLE = (
    "name", "schedule", "switch_when", "switch_threshold", "switch_window_epochs", "switch_after_drop",
    "momentum_handover", "memory_limit",
)  # fmt: skip

# What does not change the numbers and may differ between the processes of a run.
LOCAL_KEYS = ("data.data_dir", "data.cache", "data.prefetch", "compilation_cache", "monitor.interval_seconds")

_CHOICES = {
    "data.cache": ("file", "memory", "none"),
    "model.param_dtype": ("float32", "float64"),
    "model.dtype": ("", "bfloat16"),
    "strategy.name": ("single", "allreduce", "parameter_server", "switch", "pipeline", "model_parallel"),
    "strategy.shard_params": ("none", "fsdp", "zero1"),
    "strategy.pipeline_schedule": ("gpipe", "1f1b"),
    "strategy.balance_by": ("time", "bytes"),
    "strategy.switch_when": ("", "plateau"),
    "strategy.momentum_handover": ("keep", "zero", "scale", "ramp"),
    "strategy.staleness_policy": ("fixed", "dynamic"),
    "strategy.nonfinite": ("refuse", "stop"),
    "strategy.spmd": ("shard_map", "jit", "pmap"),
}
_CHOICES_OR_DOTTED = {
    "data.name": ("fashion_mnist", "cifar10", "mnist", "digits", "synthetic"),
    "model.name": ("cnn", "resnet", "densenet"),
    "optim.name": ("sgd", "adadelta", "adagrad", "adam"),
}
_AT_LEAST_ZERO = (
    "max_updates", "early_stopping_patience", "eval_batch_size", "data.train_examples", "data.eval_examples",
    "data.holdout_examples", "data.prefetch", "optim.momentum", "optim.weight_decay", "strategy.fusion_megabytes",
    "checkpoint.every_epochs", "checkpoint.every_updates", "seed", "monitor.interval_seconds", "strategy.num_stages",
    "strategy.replicas", "strategy.memory_limit", "strategy.shard_threshold",
)  # fmt: skip
_ABOVE_ZERO = (
    "num_epochs", "global_batch_size", "eval_every_epochs", "log_every_steps", "optim.learning_rate",
    "optim.drop_factor", "checkpoint.keep", "cluster.timeout_seconds", "cluster.connect_timeout_seconds",
    "cluster.compile_timeout_seconds", "cluster.evaluate_timeout_seconds", "strategy.accumulate",
    "strategy.lease_seconds", "strategy.snapshot_seconds", "strategy.switch_window_epochs",
    "strategy.num_microbatches",
)  # fmt: skip


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """{'optim.learning_rate': 0.1, ...}; `options` dictionaries are kept whole."""
    found: dict[str, Any] = {}
    for key in config:
        value = config[key]
        if isinstance(value, ConfigDict) and key != "options":
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value.to_dict() if isinstance(value, ConfigDict) else value
    return found


def known_keys() -> list[str]:
    """All dotted keys a user may set, those of `options` dictionaries excepted."""
    return list(flatten(default_config()))


def check_override(key: str) -> None:
    """Refuses `--config.KEY=...` with an unknown key, naming the nearest.

    Raises:
      UsageError: no such key.
    """
    if key in known_keys() or ".options." in key:
        return
    raise UsageError(f"There is no configuration key {key!r}{nearest(key, known_keys())}.")


def validate(config: ConfigDict) -> None:
    """Refuses values that cannot mean anything, whatever the cluster and the data.

    Raises:
      UsageError: which key, its value and what is allowed.
    """
    flat = flatten(config)
    for key in flat:
        check_override(key)
    missing = [key for key in known_keys() if key not in flat]
    if missing:
        raise UsageError(f"The configuration lacks {missing[0]!r}: start from jaxdist.config.default_config().")
    for key, choices in (_CHOICES | _CHOICES_OR_DOTTED).items():
        value = flat[key]
        if value in choices or (key in _CHOICES_OR_DOTTED and ":" in str(value)):
            continue
        also = " or 'package.module:function'" if key in _CHOICES_OR_DOTTED else ""
        known = ", ".join(choice or "''" for choice in choices)
        raise UsageError(f"{key}={value!r} is not known{nearest(str(value), choices)}; one of {known}{also}.")
    for keys, low, words in ((_AT_LEAST_ZERO, 0, "at least 0"), (_ABOVE_ZERO, math.ulp(0.0), "above 0 and finite")):
        for key in keys:
            if not low <= flat[key] < math.inf:
                raise UsageError(f"{key}={flat[key]} must be {words}.")
    if flat["model.dtype"] == "bfloat16" and flat["model.param_dtype"] != "float32":
        raise UsageError(
            f"model.dtype='bfloat16' goes with model.param_dtype='float32', not {flat['model.param_dtype']!r}."
        )
    if flat["strategy.shard_params"] != "none" and flat["strategy.name"] not in ("model_parallel", "switch"):
        raise UsageError(
            f"strategy.shard_params={flat['strategy.shard_params']!r} means nothing to strategy.name="
            f"{flat['strategy.name']!r}: use strategy.name='model_parallel'."
        )
    if flat["strategy.max_staleness"] < -1:
        raise UsageError(
            f"strategy.max_staleness={flat['strategy.max_staleness']} must be -1 (unbounded), 0 (synchronous) or more."
        )
    low, high = (*flat["strategy.staleness_range"], 0, 0)[:2]
    if flat["strategy.staleness_policy"] == "dynamic" and not 1 <= low <= high:
        raise UsageError(
            f"strategy.staleness_range={flat['strategy.staleness_range']} must be (low, high) with 1 <= low <= high."
        )
    if not -1 < flat["strategy.switch_threshold"] < 1:
        raise UsageError(f"strategy.switch_threshold={flat['strategy.switch_threshold']} must be between -1 and 1.")
    if flat["strategy.name"] == "switch":
        _validate_phases(config)
    elif flat["strategy.schedule"] or flat["strategy.switch_when"]:
        key = "schedule" if flat["strategy.schedule"] else "switch_when"
        raise UsageError(
            f"strategy.{key}={flat['strategy.' + key]!r} is of strategy.name='switch', but strategy.name is "
            f"{flat['strategy.name']!r}."
        )
    if flat["early_stopping_patience"] and not flat["data.holdout_examples"]:
        raise UsageError(
            f"early_stopping_patience={flat['early_stopping_patience']} decides by the loss on held-out training "
            "examples: set data.holdout_examples above 0 (the test set is only reported)."
        )


def _validate_phases(config: ConfigDict) -> None:
    """Refuses a schedule that cannot be read, and phases with values that cannot mean anything."""
    keys = [k for k in config.strategy if k not in _OF_THE_WHOLE]
    for phase in phases.parse(config.strategy.schedule, keys, by_rule=bool(config.strategy.switch_when)):
        if phase.name == "switch" or phase.name not in _CHOICES["strategy.name"]:
            continue  # the strategies say what can be a phase
        alone = config.copy_and_resolve_references()
        try:
            alone.strategy.update(dict.fromkeys(("schedule", "switch_when"), "") | phase.options | {"name": phase.name})
            validate(alone)
        except (UsageError, TypeError, ValueError) as e:
            raise UsageError(f"strategy.schedule: the phase {str(phase)!r}: {' '.join(str(e).split())}") from None


def comparable(config: ConfigDict) -> dict[str, Any]:
    """The values that must be equal on all processes."""
    return {k: v for k, v in flatten(config).items() if k not in LOCAL_KEYS}
