import math

import numpy as np
import pytest

from framework.data.source import array_source
from framework.errors import UserError
from framework.task import Data
from framework.training.early_stopping import EarlyStopping


def history(*losses):
    return [{"validation": {"loss": x, "accuracy": -x}} for x in losses]


def test_less_loss_is_better_and_the_first_of_equals_wins():
    assert EarlyStopping().best_epoch(history(3, 1, 2, 1)) == 1


def test_more_accuracy_is_better():
    stopping = EarlyStopping("validation.accuracy")
    assert stopping.best_epoch(history(3, 1, 2)) == 1


@pytest.mark.parametrize(
    ("figure", "best"),
    [
        ("macro_f1", 1),
        ("auc", 1),
        ("specificity", 1),
        ("log_loss", 2),
        ("brier_score", 2),
        ("expected_calibration_error", 2),
    ],
)
def test_the_name_tells_which_way_is_better(figure, best):
    stopping = EarlyStopping(f"validation.{figure}")
    assert stopping.figures == (figure,)
    epochs = [{"validation": {figure: x}} for x in (0.3, 0.5, 0.1)]
    assert stopping.best_epoch(epochs) == best


def test_what_is_not_defined_is_never_best():
    stopping = EarlyStopping("validation.auc")
    epochs = [{"validation": {"auc": x}} for x in (0.3, math.nan, 0.4)]
    assert stopping.best_epoch(epochs) == 2


def data(num_classes, present):
    names = "abcdefghijklmnop"[:num_classes]
    images = np.zeros((len(present), 1, 1, 3), np.uint8)
    source = array_source(images, np.array(present), names, name="toy")
    splits = {"validation": source.splits["train"]}
    return Data("toy", source.class_names, splits, False, ())


@pytest.mark.parametrize("figure", ["sensitivity", "auc", "macro_recall"])
def test_what_the_data_has_is_accepted(figure):
    EarlyStopping(f"validation.{figure}").check(data(2, [0, 1, 1]))


@pytest.mark.parametrize(
    ("figure", "num_classes", "present", "message"),
    [
        ("specificity", 3, [0, 1, 2], "with 3 classes; expected .*macro_f1"),
        ("top_5_accuracy", 9, [0, 1, 2], "with 9 classes; expected"),
        ("auc", 2, [1, 1], "not defined for a validation split of b alone"),
        ("sensitivity", 2, [0], "split of a alone"),
        ("average_precision", 4, [2], "split of c alone"),
    ],
)
def test_what_the_data_has_not_is_refused(
    figure, num_classes, present, message
):
    stopping = EarlyStopping(f"validation.{figure}")
    with pytest.raises(UserError, match=message):
        stopping.check(data(num_classes, present))


def test_small_gains_do_not_count():
    stopping = EarlyStopping(min_delta=0.5, patience=2)
    assert stopping.best_epoch(history(3.0, 2.8, 2.6)) == 0
    assert stopping.should_stop(history(3.0, 2.8, 2.6))
    assert not stopping.should_stop(history(3.0, 2.8, 2.4))


def test_it_waits_for_as_many_epochs_as_it_was_told():
    stopping = EarlyStopping(patience=2)
    assert not stopping.should_stop([])
    assert not stopping.should_stop(history(1, 2))
    assert stopping.should_stop(history(1, 2, 3))
    assert not EarlyStopping(patience=None).should_stop(history(1, 2, 3, 4, 5))


def test_a_phase_may_begin_worse_than_the_one_before():
    stopping = EarlyStopping(patience=2)
    assert stopping.should_stop(history(1, 5, 4))
    assert not stopping.should_stop(history(1), first=1)
    # It gets better all the time.
    assert not stopping.should_stop(history(1, 5, 4, 3, 2), first=1)
    assert stopping.should_stop(history(1, 3, 4, 5), first=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"monitor": "val_loss"}, "expected validation.loss"),
        ({"monitor": "validation.f1"}, "validation.macro_f1, .* or train.acc"),
        ({"monitor": "train.macro_f1"}, "train.loss or train.accuracy"),
        ({"patience": 0}, "at least 1, or None"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        EarlyStopping(**arguments)


def test_a_missing_split_is_named():
    with pytest.raises(UserError, match="no validation split"):
        EarlyStopping().best_epoch([{"train": {"loss": 1.0}}])
