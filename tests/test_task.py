import pytest

from framework.errors import SourceUnavailable, UserError
from framework.task import Task


def unavailable():
    raise SourceUnavailable("no network")


def test_splits_are_cut_stratified_and_apart(arrays):
    data = Task(lambda: arrays, validation=0.2, test=0.1).load()
    assert {n: len(e) for n, e in data.splits.items()} == {
        "train": 28,
        "validation": 8,
        "test": 4,
    }
    ids = [set(e.ids) for e in data.splits.values()]
    assert len(set.union(*ids)) == 40
    for examples in data.splits.values():
        assert examples.labels.mean() == 0.5
    assert data.class_names == ("dark", "bright")
    assert not data.stand_in


def test_the_cut_depends_on_its_seed_alone(arrays):
    def ids(seed):
        data = Task(lambda: arrays, validation=0.2, seed=seed).load()
        return list(data.splits["validation"].ids)

    assert ids(0) == ids(0)
    assert ids(0) != ids(1)


def test_no_validation_if_none_is_asked_for(arrays):
    assert list(Task(lambda: arrays, validation=0.0).load().splits) == ["train"]


def test_a_stand_in_is_announced_before_it_is_made(arrays):
    happened = []

    def drawn_instead():
        happened.append("made")
        return arrays

    task = Task(unavailable, stand_in=drawn_instead)
    data = task.load(lambda *said: happened.append(said))
    assert happened == [("drawn_instead", "no network"), "made"]
    assert data.stand_in
    assert data.source == "toy"


def test_without_a_stand_in_the_error_stays():
    with pytest.raises(SourceUnavailable, match="no network"):
        Task(unavailable).load()


def test_other_errors_call_no_stand_in(arrays):
    def broken():
        raise UserError("a typo")

    with pytest.raises(UserError, match="a typo"):
        Task(broken, stand_in=lambda: arrays).load()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation": 1.0}, "Task.validation is 1.0"),
        ({"test": -0.1}, "Task.test is -0.1"),
        ({"validation": 0.6, "test": 0.5}, "less than 1"),
        ({"stand_in": "rendered_hands"}, "without parentheses"),
    ],
)
def test_impossible_tasks_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Task(unavailable, **arguments)
