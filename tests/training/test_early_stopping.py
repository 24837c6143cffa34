import pytest

from framework.errors import UserError
from framework.training.early_stopping import EarlyStopping


def history(*losses):
    return [{"validation": {"loss": x, "accuracy": -x}} for x in losses]


def test_less_loss_is_better_and_the_first_of_equals_wins():
    assert EarlyStopping().best_epoch(history(3, 1, 2, 1)) == 1


def test_more_accuracy_is_better():
    stopping = EarlyStopping("validation.accuracy")
    assert stopping.best_epoch(history(3, 1, 2)) == 1


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
        ({"patience": 0}, "at least 1, or None"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        EarlyStopping(**arguments)


def test_a_missing_split_is_named():
    with pytest.raises(UserError, match="no validation split"):
        EarlyStopping().best_epoch([{"train": {"loss": 1.0}}])
