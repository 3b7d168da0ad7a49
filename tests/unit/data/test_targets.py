"""Targets that do not fit are refused with the place; that labels are is held by `test_contract.py` beside this."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdist.data.targets import class_labels, finite_numbers
from jaxdist.errors import UsageError


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (np.array([0.5, np.nan]), r"They have nan for example 1; every number must be finite"),
        (np.array([[0.5, 1.0], [0.1, -np.inf]]), r"They have -inf at \[1\] of example 1"),
        (np.array(["a", "b"]), "are <U1; a regression estimates numbers"),
        (np.zeros((2, 2, 2)), r"array \[2, 2, 2\]; a regression estimates \[n\] or \[n, outputs\]"),
    ],
)
def test_numbers_to_be_estimated(target, words):
    with pytest.raises(UsageError, match=words):
        finite_numbers("They", target, 0)


def test_numbers_keep_float64_and_become_float32_otherwise():
    assert [finite_numbers("", np.zeros(2, kind), 0).dtype for kind in ("f8", "f4", "f2", "i8")] == [
        np.float64, np.float32, np.float32, np.float32,
    ]  # fmt: skip


def test_labels_of_sequences():
    good = np.array([[0, 2, -1], [1, -1, -1]])
    found = class_labels("They", good, 3, ignored=-1, many=True)
    assert found.dtype == np.int32 and (found == good).all()
    with pytest.raises(UsageError, match=r"1 of 6 are not: number \[0, 1\] is 3"):
        class_labels("They", np.array([[0, 3, -1], [1, -1, -1]]), 3, ignored=-1, many=True)
    with pytest.raises(UsageError, match=r"they must be \[n\].*sequence=True"):
        class_labels("They", good, 4)
    with pytest.raises(UsageError, match="num_classes=0: say how many"):
        class_labels("They", good[:, 0], 0)
