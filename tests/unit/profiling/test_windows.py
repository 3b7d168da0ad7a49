"""Which part of a run is profiled, and what is refused."""

import pytest

from jaxdist.errors import UsageError
from jaxdist.profiling.knobs import KNOBS
from jaxdist.profiling.windows import Window, windows

RUN = {"epoch_examples": 100, "smallest_update": 10, "total_examples": 250}


def asked(at_epochs=(), updates=()):
    return windows({"at_epochs": at_epochs, "updates": updates}, **RUN)


def test_epochs_are_examples_and_updates_are_updates():
    assert asked() == []
    assert asked(updates=(3, 25)) == [Window(3, 25)]
    assert asked(at_epochs=(3, 1)) == [Window(0, 100, "examples"), Window(200, 250, "examples")]
    assert str(Window(3, 25)) == "updates_3-25" and str(asked(at_epochs=(1,))[0]) == "examples_0-100"


def test_an_epoch_in_updates_depends_on_where_the_run_is():
    epoch = Window(100, 200, "examples")
    assert epoch.in_updates(0, 0, 10)[:2] == (10, 20)
    assert epoch.in_updates(6, 120, 5)[:2] == (2, 22)  # it began before
    assert str(epoch.in_updates(6, 120, 5)) == str(epoch)  # servers and workers write into one folder
    assert Window(3, 25).in_updates(6, 120, 5) == Window(3, 25)
    assert epoch.place(7, 140) == 140 and Window(3, 25).place(7, 140) == 7


@pytest.mark.parametrize(
    ("of", "words"),
    [
        ({"at_epochs": (4,)}, r"the run has 3 epochs, and no epoch 4"),
        ({"at_epochs": (1, 1)}, "names an epoch twice"),
        ({"updates": (3, 26)}, r"profile.updates=\(3,26\): the run has 25 updates; end the profile at 25"),
        ({"updates": (3, 5), "at_epochs": (1,)}, "leave one of them out"),
    ],
)
def test_what_the_run_does_not_have_is_refused(of, words):
    with pytest.raises(UsageError, match=words):
        asked(**of)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("profile.at_epochs", (0,)),
        ("profile.at_epochs", ("one",)),
        ("profile.updates", (3,)),
        ("profile.updates", (0, 5)),
        ("profile.updates", (5, 5)),
    ],
)
def test_values_that_cannot_mean_anything_are_refused(key, value):
    (knob,) = (knob for knob in KNOBS if knob.key == key)
    with pytest.raises(UsageError, match=key):
        knob.check(value)
