"""Objectives by name and by function, and words for what there is none of; holds task/objectives/objective.py too."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdist.task import Objective
from jaxdist.task.objectives import OBJECTIVES, build


class Cubic(Objective):
    def losses(self, outputs, target):
        return jnp.abs(outputs[:, 0] - target) ** 3


def cubic(power: int = 3):
    assert power == 3
    return Cubic()


def test_one_of_somebody_s_own():
    made = build("unit.task.objectives.test_registry:cubic", options={"power": 3})
    assert isinstance(made, Objective) and made.training_sums == ("loss_sum", "count")
    losses, sums = made.score(np.full((2, 1), 2.0), {"target": np.zeros(2)}, training=True)
    assert losses.tolist() == [8.0, 8.0] and made.values(sums) == {"loss": 8.0}
    assert made.metric_names == ("loss",) and made.output_shape(np.zeros(2), 0) is None
    assert made.num_outputs(np.zeros((2, 3)), 0) == 3 and made.num_outputs(np.zeros(2), 0) == 1


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("classification", {"loss": "squared"}, "'squared' is no loss of objective.name='classification'"),
        ("regression", {"loss": "hubert"}, "nearest: 'huber'"),
        ("regression", {"metrics": ["accuracy"]}, "'accuracy' is no metric of objective.name='regression'"),
        ("classification", {"metrics": ["kapa"]}, "nearest: 'kappa'"),
        ("regression", {"metrics": ["outliers_none"]}, "needs a threshold above 0"),
        ("regression", {"metrics": ["outliers_-1"]}, "needs a threshold above 0"),
        ("classification", {"options": {"colour": 3}}, "objective.options does not fit"),
        ("helpers.no_such:thing", {}, "cannot be imported"),
        ("os.path:basename", {"options": {"p": "a/b"}}, "returned a str, not a jaxdist.task.Objective"),
        ("os.path:basename", {"metrics": ["kappa"]}, "yours has its own"),
    ],
)
def test_what_there_is_none_of(name, values, words):
    with pytest.raises(ValueError, match=words):
        build(name, num_classes=10, **values)


def test_a_metric_by_name():
    made = build("classification", metrics=("accuracy", "kappa"), num_classes=10)
    assert made.metric("kappa").higher_is_better and not made.metric("loss").higher_is_better
    with pytest.raises(ValueError, match="'acuracy' is no metric of this run; nearest: 'accuracy'"):
        made.metric("acuracy")
    assert set(OBJECTIVES) == {"classification", "regression"}
