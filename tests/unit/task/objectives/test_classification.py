"""Losses and metrics of classes: those of optax and scikit-learn, however the examples are cut into batches."""

from __future__ import annotations

import math

import numpy as np
import optax
import pytest
from sklearn import metrics as reference

from jaxdist.errors import UsageError
from jaxdist.task.objectives import Classification

NAMES = ("accuracy", "top5_accuracy", "per_class_accuracy", "average_accuracy", "kappa", "confusion_matrix")
N, CLASSES = 211, 7


def outputs_and_labels():
    rng = np.random.default_rng(5)
    label = rng.integers(CLASSES - 1, size=N).astype(np.int32)  # of the last class there is none
    outputs = rng.normal(size=(N, CLASSES)).astype(np.float32)
    outputs[np.arange(N), label] += 1.0
    return outputs, label


def summed(objective, outputs, label, batch: int, *, training=False):
    """As an evaluation adds them up: padded batches, one after the other."""
    totals: dict = {}
    for start in range(0, len(label), batch):
        wanted = np.arange(start, start + batch)
        rows = np.minimum(wanted, len(label) - 1)
        one = {"target": label[rows], "mask": (wanted < len(label)).astype(np.float32)}
        for name, value in objective.score(outputs[rows], one, training=training)[1].items():
            totals[name] = totals.get(name, 0.0) + np.asarray(value, np.float64)
    return totals


@pytest.mark.parametrize("batch", [32, 211])
def test_metrics_are_those_of_scikit_learn(batch):
    objective = Classification(NAMES, CLASSES)
    outputs, label = outputs_and_labels()
    found = objective.values(summed(objective, outputs, label, batch))
    predicted = outputs.argmax(1)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(label, predicted), abs=1e-12)
    assert found["kappa"] == pytest.approx(reference.cohen_kappa_score(label, predicted), abs=1e-12)
    matrix = reference.confusion_matrix(label, predicted, labels=range(CLASSES))
    assert found["confusion_matrix"] == matrix.tolist()
    recall = reference.recall_score(label, predicted, labels=range(CLASSES), average=None, zero_division=np.nan)
    np.testing.assert_allclose(found["per_class_accuracy"], recall)
    assert math.isnan(found["per_class_accuracy"][-1])
    with np.errstate(all="ignore"):
        assert found["average_accuracy"] == pytest.approx(np.nanmean(recall), abs=1e-12)
    top5 = reference.top_k_accuracy_score(label, outputs, k=5, labels=range(CLASSES))
    assert found["top5_accuracy"] == pytest.approx(top5, abs=1e-12)
    assert objective.training_sums == ("loss_sum", "correct", "count")


def test_losses():
    outputs, label = outputs_and_labels()
    plain = optax.softmax_cross_entropy_with_integer_labels(outputs, label)
    np.testing.assert_array_equal(Classification(num_classes=CLASSES).losses(outputs, label), plain)
    smooth = Classification(num_classes=CLASSES, label_smoothing=0.1).losses(outputs, label)
    log = outputs - np.log(np.exp(outputs).sum(1, keepdims=True))
    expected = -0.9 * log[np.arange(N), label] - 0.1 * log.mean(1)
    np.testing.assert_allclose(smooth, expected, rtol=1e-5)
    weights = tuple(range(1, CLASSES + 1))
    weighted = Classification(num_classes=CLASSES, class_weights=weights).losses(outputs, label)
    np.testing.assert_allclose(weighted, np.array(weights)[label] * plain, rtol=1e-6)
    each = np.linspace(0, 2, N).astype(np.float32)
    one = {"target": label, "weight": each}
    losses, sums = Classification(num_classes=CLASSES).score(outputs, one, training=True)
    np.testing.assert_allclose(losses, each * plain, rtol=1e-6)
    assert float(sums["count"]) == N and float(sums["loss_sum"]) == pytest.approx(float((each * plain).sum()), rel=1e-5)


def test_elements_of_sequences_that_do_not_count():
    rng = np.random.default_rng(0)
    outputs, label = rng.normal(size=(3, 4, 5)).astype(np.float32), rng.integers(5, size=(3, 4)).astype(np.int32)
    label[0, 2:], label[2] = -1, -1  # of the last example, nothing counts
    objective = Classification(("accuracy", "confusion_matrix", "top5_accuracy"), 6, sequence=True)
    losses, sums = objective.score(outputs, {"target": label}, training=False)
    plain = optax.softmax_cross_entropy_with_integer_labels(outputs, np.maximum(label, 0))
    np.testing.assert_allclose(losses, [plain[0, :2].mean(), plain[1].mean(), 0.0], rtol=1e-6)
    valid = label >= 0
    hits = (outputs.argmax(-1) == label) & valid
    found = objective.values({name: np.asarray(value) for name, value in sums.items()})
    assert found["accuracy"] == pytest.approx(hits.sum() / 6)
    assert np.sum(found["confusion_matrix"]) == 6 and found["top5_accuracy"] == 1.0
    assert objective.training_sums == ("loss_sum", "correct", "elements", "count")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"label_smoothing": 1.0}, "at least 0 and below 1"),
        ({"class_weights": (1.0, 2.0)}, "2 numbers for 7 classes"),
        ({"class_weights": (1.0,) * 6 + (-1.0,)}, "finite and at least 0"),
        ({"names": ("top5_accuracy",), "num_classes": 5}, "always 1"),
    ],
)
def test_what_cannot_be(values, words):
    with pytest.raises(ValueError, match=words):
        Classification(**{"num_classes": CLASSES} | values)


def test_of_a_sequence_what_is_ignored_may_be_any_number():
    outputs = np.random.default_rng(1).normal(size=(3, 4, CLASSES)).astype(np.float32)
    target = np.random.default_rng(2).integers(CLASSES, size=(3, 4)).astype(np.int32)
    found = []
    for ignored in (-1, 255):
        objective = Classification(NAMES, CLASSES, sequence=True, ignored=ignored)
        marked = np.where(np.arange(4) == 2, ignored, target).astype(np.int32)
        assert objective.check_target("targets", marked, CLASSES) is not None
        found.append(objective.values(summed(objective, outputs, marked, 3)))
    np.testing.assert_equal(found[0], found[1])
    assert math.isfinite(found[0]["loss"]) and np.sum(found[0]["confusion_matrix"]) == 9
    with pytest.raises(UsageError, match=r"must be \[n, length\], a class for each element"):
        Classification((), CLASSES, sequence=True).check_target("The targets", target[:, 0], CLASSES)
