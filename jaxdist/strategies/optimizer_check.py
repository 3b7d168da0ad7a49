"""Refuses update rules that a strategy cannot apply, which has parts of the parameters alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from jaxdist.errors import UsageError
from jaxdist.optim import partial
from jaxdist.optim.optimizers import Optimizer
from jaxdist.state import flatten, unflatten

if TYPE_CHECKING:
    from jaxdist.task import Task


def refuse_unless_elementwise(task: Task, who: str, own_name: Callable[[str], str] | None = None) -> None:
    """For strategies that cut the parameters anywhere.

    Args:
      who: whose parts they are, as in "strategy.name='parameter_server', which divides ... among the servers".
      own_name: from a parameter's path to that of the flat vector which it is in; None: the last part.

    Raises:
      UsageError: the rule is not elementwise, or makes differences that are lost in flat vectors.
    """
    refuse_rule_unless_elementwise(task.optimizer, who)
    own_name = own_name or (lambda path: path.rpartition("/")[2])
    if reason := _names_lost(task, own_name) or _names_matter(task, own_name):
        raise UsageError(_refusal(task.optimizer, who, reason, "an elementwise", partial.why_not_elementwise))


def refuse_rule_unless_elementwise(optimizer: Optimizer, who: str) -> None:
    """The same where the model is not known.

    Raises:
      UsageError: the rule is not elementwise.
    """
    if reason := partial.why_not_elementwise(optimizer):
        raise UsageError(_refusal(optimizer, who, reason, "an elementwise", partial.why_not_elementwise))


def refuse_unless_blockwise(task: Task, who: str) -> None:
    """For strategies that have whole tensors, of some blocks.

    Raises:
      UsageError: the rule takes several blocks together.
    """
    if reason := partial.why_not_blockwise(task.optimizer):
        raise UsageError(_refusal(task.optimizer, who, reason, "a blockwise", partial.why_not_blockwise))


def _refusal(optimizer: Optimizer, who: str, reason: str, kind: str, why_not: Callable[[Optimizer], str]) -> str:
    return (
        f"optim.name={optimizer.name!r} cannot be applied by {who}: {reason}. Use {kind} rule "
        f"({', '.join(partial.names_of(why_not))}), or strategy.name='allreduce'."
    )


def _names_lost(task: Task, own_name: Callable[[str], str]) -> str:
    """Where slots lack parameters that share a vector with others which they have, or ''."""
    paths = list(flatten({name: params for name, (params, _) in task.model.shapes.items()}))
    for slot, tree in task.slot_shapes().items():
        if isinstance(tree, dict):
            there = flatten(tree)
            kinds = {own_name(path): path in there for path in paths}
            for path in paths:
                if (path in there) != kinds[own_name(path)]:
                    return (
                        f"its slot {slot!r} is for some of the parameters called .../{own_name(path)} and not for "
                        f"{path if path not in there else 'others'}, and they are in one vector"
                    )
    return ""


def _names_matter(task: Task, own_name: Callable[[str], str]) -> str:
    """Where the rule does something else when tensors have other names, but for the part that flat vectors keep; or ''.

    Traces an update twice; computes nothing.
    """
    shapes = {name: task.typed(params) for name, (params, _) in task.model.shapes.items() if params}
    flat = flatten(shapes)
    renamed = dict(zip(flat, _other_names(list(flat), own_name), strict=True))
    before = partial.traced_update(task.optimizer, shapes)
    after = partial.traced_update(task.optimizer, unflatten({renamed[path]: leaf for path, leaf in flat.items()}))
    return "" if before == after else "it treats tensors by names that are lost where several are in one vector"


def _other_names(paths: list[str], own_name: Callable[[str], str]) -> list[str]:
    """The same paths in the same order, with neutral words in place of what `own_name` does not keep."""
    found = []
    for path in paths:
        kept = set(own_name(path).split("/"))
        parts = path.split("/")
        above = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
        found.append(
            "/".join(
                part if part in kept and depth in (0, len(parts) - 1) else f"x{_rank(paths, above[depth]):06d}"
                for depth, part in enumerate(parts)
            )
        )
    return found


def _rank(paths: list[str], prefix: str) -> int:
    """Of the first path below a prefix: names in that order keep the order of the tree."""
    return next(i for i, path in enumerate(paths) if path == prefix or path.startswith(f"{prefix}/"))
