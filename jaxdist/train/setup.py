"""What a configuration describes: the examples to train on and the task to train."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxdist import data, models
from jaxdist.config.phases import schedule_of
from jaxdist.errors import UsageError
from jaxdist.models import contract as model_contract
from jaxdist.models.knobs import KNOBS as MODEL_KNOBS
from jaxdist.ops import backend
from jaxdist.ops.native import compiler as native_kernels
from jaxdist.optim import optimizers, schedules
from jaxdist.runtime import compilation
from jaxdist.task import Objective, Task, objectives
from jaxdist.train import phase_needs

_OF_EVERY_MODEL = ("name", "param_dtype", "dtype", "options")


@dataclasses.dataclass(frozen=True)
class Examples:
    """The data set, cut into what is trained on, what decides and what is only reported."""

    name: str
    num_classes: int  # 0: targets are no classes
    objective: Objective
    train: data.Split
    holdout: data.Split | None
    evaluation: data.Split
    stream: data.ExampleStream | data.PartitionedStream
    loader: data.Loader
    digests: dict[str, str]  # of each of the three that there are
    close: Callable[[], None] = lambda: None  # ends what the examples are read with
    partition: data.Partition | None = None  # over the workers

    @property
    def epoch_examples(self) -> int:
        """Examples of an epoch: all of them, or as often as it takes each worker to see its part."""
        return self.stream.examples_per_epoch

    @property
    def parts_digest(self) -> dict[str, str]:
        """What tells the parts of the workers, and their order, from others; {} where there are none."""
        if self.partition is None or not isinstance(self.stream, data.PartitionedStream):
            return {}
        return {"partition": f"{self.partition.digest}-{self.stream.share}"}

    def partition_summary(self) -> dict[str, Any]:
        """Who had what, for the summary."""
        return self.partition.targets(self.train.target, self.num_classes) if self.partition is not None else {}


def load_examples(
    config: ConfigDict,
    decoding: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    num_workers: int = 1,
) -> Examples:
    """Reads the data set and cuts it as `config.data` says.

    Args:
      decoding: opened around what decodes the whole of a split.
      num_workers: over which `data.partition` distributes it.

    Raises:
      UsageError: the data are not there, damaged, too few, or not what can be trained on (`data.checked`).
    """
    d = config.data
    found = data.load(
        d.name,
        data_dir=d.data_dir,
        cache=d.cache,
        workers=d.workers,
        seed=config.seed,
        options=d.options.to_dict(),
        features=tuple(d.features),
        target=d.target,
        decoding=decoding,
    )
    with contextlib.ExitStack() as stack:
        stack.callback(found.close)
        objective = _objective(config, found.num_classes)
        examples = _cut(config, data.checked(found, objective.check_target), objective, decoding)
        if config.data.partition:
            examples = _partitioned(config, examples, num_workers)
        stack.pop_all()
    return examples


def _objective(config: ConfigDict, num_classes: int) -> Objective:
    o = config.objective
    try:
        found = objectives.build(
            o.name, loss=o.loss, metrics=tuple(o.metrics), num_classes=num_classes, options=o.options.to_dict()
        )
        decided_by = found.metric(config.early_stopping_metric)
    except (ValueError, TypeError) as e:
        raise UsageError(f"The objective cannot be built: {e}.") from e
    if decided_by.higher_is_better is None:
        raise UsageError(f"early_stopping_metric={decided_by.name!r} cannot be better or worse: choose another.")
    return found


def _partitioned(config: ConfigDict, examples: Examples, num_workers: int) -> Examples:
    """The same, in which each worker trains on its own part.

    Raises:
      UsageError: a global batch has no equal shares, or the partition does not fit.
    """
    share, rest = divmod(config.global_batch_size, num_workers)
    near = " or ".join(str(n * num_workers) for n in (share, share + 1) if n)
    if rest:
        raise UsageError(
            f"data.partition={config.data.partition!r}: global_batch_size={config.global_batch_size} is not divisible "
            f"by the {num_workers} workers; nearest: {near}."
        )
    found = data.partition(config.data.partition, examples.train.target, num_workers, config.seed, examples.num_classes)
    if num_workers == 1:
        logging.warning("data.partition=%r: one worker has everything.", config.data.partition)
    stream = data.PartitionedStream(found, share, config.seed)
    return dataclasses.replace(examples, stream=stream, partition=found)


def _cut(
    config: ConfigDict,
    dataset: data.Dataset,
    objective: Objective,
    decoding: Callable[[], contextlib.AbstractContextManager[None]],
) -> Examples:
    d = config.data
    available = len(dataset.train)
    wanted = d.train_examples or available
    for key, asked, there in (
        ("data.train_examples", wanted, available),
        ("data.eval_examples", d.eval_examples, len(dataset.evaluation)),
    ):
        if asked > there:
            raise UsageError(f"{key}={asked}, but {dataset.name!r} has only {there}.")
    num_train = wanted - d.holdout_examples
    if num_train < config.global_batch_size:
        raise UsageError(
            f"global_batch_size={config.global_batch_size} is more than the {max(num_train, 0)} training examples left "
            f"({wanted} - {d.holdout_examples} held out): lower it, or train on more examples."
        )
    train = dataset.train.select(0, num_train)
    holdout = dataset.train.select(num_train, wanted) if d.holdout_examples else None
    augment = (dataset.augment or flips_of(dataset)) if d.augment else None
    evaluation = dataset.evaluation.select(0, d.eval_examples or len(dataset.evaluation))
    try:
        with decoding() if train.inputs is None else contextlib.nullcontext():
            means, digest = data.scan(train)
            digests = {"train": digest, "evaluation": data.scan(evaluation)[1]}
            if holdout is not None:
                digests["holdout"] = data.scan(holdout)[1]
    except ValueError as e:  # of a function of the user's that gives inputs of several shapes
        raise UsageError(f"The inputs of {dataset.name!r} cannot be put together: {' '.join(str(e).split())}.") from e
    loader = data.Loader(
        means=means,
        scales=data.scales_of(dataset),
        seed=config.seed,
        augment=augment,
        dtype=np.dtype(config.model.param_dtype),
    )
    stream = data.ExampleStream(num_train, config.seed)
    return Examples(
        dataset.name, dataset.num_classes, objective, train, holdout, evaluation, stream, loader, digests, dataset.close
    )


def flips_of(dataset: data.Dataset) -> data.Augment:
    """Random flips and crops of images.

    Raises:
      UsageError: the examples have none, or of several sizes.
    """
    shapes = dataset.example_shapes
    sizes = {shape[:2] for shape in shapes.values() if len(shape) == 3}
    if len(sizes) != 1:
        raise UsageError(
            f"data.augment=True flips and crops images [h, w, c] of one size; {dataset.name!r} has "
            f"{', '.join(f'{name} {list(shape)}' for name, shape in shapes.items())}. Give Dataset(augment=...) a "
            "function of your own."
        )
    return data.flip_and_crop_images


def set_up_compilation(config: ConfigDict) -> None:
    """What every process does before JAX's back ends begin."""
    compilation.set_up(config.compilation_cache, config.model.param_dtype)
    if _wanted_operations(config) != backend.XLA and native_kernels.likely():
        compilation.use_loop_emitters()


def choose_operations(config: ConfigDict) -> None:
    """`ops.backend`, before anything is traced. May block, to build the native kernels.

    Raises:
      UsageError: native kernels are asked for, and not there.
    """
    logging.info("Operations: %s.", backend.use(_wanted_operations(config)))


def _wanted_operations(config: ConfigDict) -> str:
    wanted = config.ops.backend
    if wanted == "auto" and {config.model.param_dtype, config.model.dtype or "float32"} != {"float32"}:
        return backend.XLA  # the kernels take float32 alone
    return wanted


def make_task(config: ConfigDict, examples: Examples) -> Task:
    """The model, its optimizer and schedule, as `config` describes them.

    Raises:
      UsageError: the model does not exist with these values, or the optimizer cannot train it.
    """
    m, o = config.model, config.optim
    objective, target = examples.objective, examples.train.target
    outputs = objective.output_shape(target[:1], examples.num_classes)
    try:
        chain = models.build(
            m.name,
            inputs=examples.loader.like(examples.train),
            num_outputs=objective.num_outputs(target[:1], examples.num_classes),
            settings=m.to_dict(),
            options=m.options.to_dict(),
        )
        # The families are known to keep to it, with one input, and tracing takes its time.
        if m.name not in models.FAMILIES or len(chain.inputs) > 1:
            model_contract.check(chain, np.dtype(m.param_dtype))
        if outputs is not None:  # traces: a model that does not fit the data is refused
            model_contract.check_outputs(chain, outputs, f"as objective.name={config.objective.name!r} needs them")
    except (ValueError, TypeError) as e:
        raise UsageError(f"The model cannot be built: {e}") from e
    shape = {knob.name: knob.default for knob in MODEL_KNOBS if knob.name not in _OF_EVERY_MODEL}
    for key in models.ignored(m.name, m.to_dict(), shape):
        logging.warning("model.%s=%r means nothing to model.name=%r and is ignored.", key, m[key], m.name)
    try:
        rate = schedules.build(
            o.schedule,
            learning_rate=o.learning_rate,
            drop_epochs=o.drop_epochs,
            drop_factor=o.drop_factor,
            examples_per_epoch=examples.epoch_examples,
            num_epochs=config.num_epochs,
            warmup_epochs=o.warmup_epochs,
            final_factor=o.final_factor,
        )
    except (ValueError, TypeError) as e:
        raise UsageError(f"The learning-rate schedule cannot be built: {e}") from e
    try:
        rule = optimizers.configured(o)
        task = Task(chain, rule, rate, config.seed, np.dtype(m.param_dtype), jnp.dtype(m.dtype or m.param_dtype))
        like = examples.loader.answer_like(examples.train)
        task = dataclasses.replace(task, nonfinite=nonfinite_policy(config), objective=objective, target=like)
        task = dataclasses.replace(task, clip_global_norm=o.clip_global_norm)
        task.check_optimizer()
    except (ValueError, TypeError) as e:
        raise UsageError(f"The update rule cannot be built: {e}") from e
    return task


def check_phases(config: ConfigDict, task: Task, *, num_processes: int, num_servers: int, devices_here: int) -> None:
    """Refuses phases that cannot work, on processes with equally many devices, each with data of its own if it is so.

    Raises:
      UsageError: with the arithmetic and the remedy.
    """
    phase_needs.check(
        schedule_of(config.strategy),
        config.strategy,
        task,
        global_batch_size=config.global_batch_size,
        num_processes=num_processes,
        num_devices=num_processes * devices_here,
        num_servers=num_servers,
        partition=config.data.partition,
    )


def nonfinite_policy(config: ConfigDict) -> str:
    """'stop', 'skip' or 'warn'; under its older name 'refuse' is 'skip'."""
    older = config.strategy.nonfinite
    return {"refuse": "skip"}.get(older, older) or config.health.nonfinite


def total_examples(config: ConfigDict, num_train: int) -> int:
    """Examples to train on: `run_examples`, or those of `max_updates` global batches if that is less."""
    total = run_examples(config, num_train)
    return min(total, config.max_updates * config.global_batch_size or total)


def run_examples(config: ConfigDict, num_train: int) -> int:
    """Examples of the whole run: those of floor(num_epochs * examples / global batch) global batches.

    Raises:
      UsageError: not even one.
    """
    total = int(config.num_epochs * num_train // config.global_batch_size)
    if total < 1:
        raise UsageError(
            f"num_epochs={config.num_epochs} of {num_train} examples are less than one update of "
            f"global_batch_size={config.global_batch_size}."
        )
    return total * config.global_batch_size


def num_params(task: Task) -> int:
    return sum(int(np.prod(leaf.shape)) for params, _ in task.model.shapes.values() for leaf in jax.tree.leaves(params))


def fingerprints(examples: Examples, task: Task) -> dict[str, str]:
    """What tells these data and this model from others."""
    return {"data": examples_fingerprint(examples), "model": model_fingerprint(task)}


def examples_fingerprint(examples: Examples) -> str:
    """Of everything that is trained on, decided by and reported, and of the statistics taken of it."""
    every = ", ".join(f"{name} {digest}" for name, digest in examples.digests.items())
    return f"{len(examples.train)} + {len(examples.evaluation)} examples, {every}, mean {examples.loader.digest()}"


def model_fingerprint(task: Task) -> str:
    shapes = {n: [jax.tree.map(lambda x: list(x.shape), t) for t in pair] for n, pair in task.model.shapes.items()}
    return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()[:16]
