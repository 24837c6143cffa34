import dataclasses

import numpy as np
import pytest

from framework.data.source import StreamedExamples
from framework.errors import UserError
from framework.task import Data
from framework.training.balance import class_weights, describe_order


@pytest.fixture
def data(arrays):
    """20 dark ones and 5 bright ones."""
    train = arrays.splits["train"].select(np.r_[0:40:2, 1:10:2])
    return Data("toy", ("dark", "bright"), {"train": train}, False, ())


def test_weights_make_up_for_what_is_rare(data):
    weights, (sentence,) = class_weights("balanced", data)
    assert weights == [12.5 / 20, 12.5 / 5]
    assert "dark 0.625, bright 2.5." in sentence
    # A class that nobody has seen says nothing of the others.
    three = dataclasses.replace(data, class_names=("dark", "bright", "none"))
    assert class_weights("balanced", three)[0][:2] == weights


def test_weights_go_by_name(data):
    weights, (sentence,) = class_weights({"bright": 3}, data)
    assert weights == [1.0, 3.0]
    assert "dark 1, bright 3." in sentence
    assert class_weights(None, data) == (None, ())


def streamed(data):
    train = StreamedExamples(25, None, None, 10)
    return dataclasses.replace(data, splits={"train": train})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"brigth": 2.0}, "'brigth'; expected .* Did you mean 'bright'"),
        ({"dark": -1.0}, "has -1.0 for 'dark'; expected a number, 0 or more"),
        ({"dark": float("nan")}, "has nan for 'dark'"),
        ({"dark": "much"}, "has 'much' for 'dark'"),
        ("equal", "is 'equal'; expected None, 'balanced' or weights"),
        ([1.0, 2.0], "by the names of classes"),
    ],
)
def test_weights_that_make_no_sense(data, asked, message):
    with pytest.raises(UserError, match=message):
        class_weights(asked, data)


def test_of_a_stream_nobody_has_counted_the_classes(data):
    with pytest.raises(UserError, match="nobody has counted"):
        class_weights("balanced", streamed(data))
    assert class_weights({"dark": 2.0}, streamed(data))[0] == [2.0, 1.0]
    with pytest.raises(UserError, match="can't be repeated"):
        describe_order(streamed(data), 0, "balanced")


def test_what_is_repeated_is_told(data):
    assert describe_order(data, 0, "natural") == ()
    (sentence,) = describe_order(data, 0, "balanced")
    assert "25 examples shows each class 12 times" in sentence
    assert "dark (20) 0.65 times, bright (5) 2.4 times." in sentence
