"""The contract of sources: rows, cuts, arrays."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from framework.data.source import (
    IndexedExamples,
    Source,
    array_source,
    join,
)
from framework.errors import UserError


def examples(counts, prefix="image"):
    labels = np.repeat(np.arange(len(counts)), counts)
    ids = [f"{prefix}{i}" for i in range(len(labels))]
    return IndexedExamples(
        ids=np.array(ids, object),
        labels=labels.astype(np.int64),
        rows=np.arange(len(labels), dtype=np.int64),
        read=tf.strings.as_string,
    )


def test_select_keeps_rows_ids_and_labels_together():
    chosen = examples([3, 3]).select(np.array([4, 0]))
    assert list(chosen.ids) == ["image4", "image0"]
    assert list(chosen.labels) == [1, 0]
    assert [chosen.read(tf.constant(r)).numpy() for r in chosen.rows] == [
        b"4",
        b"0",
    ]


@pytest.mark.parametrize(
    ("fraction", "cut_off"),
    [(0.1, (10, 2, 1, 0)), (0.2, (20, 4, 1, 0)), (0.5, (50, 10, 1, 0))],
)
def test_a_cut_takes_its_share_of_every_class_rounded_up(fraction, cut_off):
    whole = examples([100, 20, 2, 1])
    rest, part = whole.cut(fraction, seed=0)
    assert tuple(np.bincount(part.labels, minlength=4)) == cut_off
    assert len(rest) + len(part) == len(whole)
    assert not set(rest.ids) & set(part.ids)
    # A class stays represented in training.
    assert set(rest.labels) == {0, 1, 2, 3}


def test_a_cut_depends_on_ids_and_the_seed_alone():
    whole = examples([50, 50])
    parts = [set(whole.cut(0.2, seed)[1].ids) for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
    order = np.random.default_rng(0).permutation(100)
    assert set(whole.select(order).cut(0.2, 0)[1].ids) == parts[0]
    # One picture less moves at most the one at the edge of its class.
    fewer = set(whole.select(np.arange(1, 100)).cut(0.2, 0)[1].ids)
    assert len(fewer ^ parts[0]) <= 2


def test_a_cut_of_nothing_is_nothing():
    rest, part = examples([5, 5]).cut(0.0, seed=0)
    assert (len(rest), len(part)) == (10, 0)


def test_a_source_needs_two_classes():
    with pytest.raises(UserError, match="has 1 classes"):
        Source("one", ("only",), {})


def test_arrays_become_a_source():
    images = np.arange(4 * 2 * 2, dtype=np.uint8).reshape(4, 2, 2, 1)
    source = array_source(
        images, np.array([0, 1, 1, 0]), ("a", "b"), images[:1], np.array([1])
    )
    assert source.class_names == ("a", "b")
    assert {k: len(v) for k, v in source.splits.items()} == {
        "train": 4,
        "test": 1,
    }
    train = source.splits["train"]
    assert list(train.ids) == [f"train/{i}" for i in range(4)]
    dataset = tf.data.Dataset.from_tensor_slices(train.rows).map(train.read)
    np.testing.assert_array_equal(list(dataset), images)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros([2, 4, 4, 3]), [0, 1], "float64"),
        (np.zeros([2, 4, 4], np.uint8), [0, 1], r"\[2, 4, 4\]"),
        (np.zeros([2, 4, 4, 3], np.uint8), [0], "one for each of the 2"),
        (np.zeros([2, 4, 4, 3], np.uint8), [0, 2], "run from 0 to 2"),
        (np.zeros([2, 4, 4, 3], np.uint8), [0, -1], "run from -1 to 0"),
    ],
)
def test_arrays_that_do_not_fit_are_user_errors(images, labels, message):
    with pytest.raises(UserError, match=message):
        array_source(images, np.array(labels), ("a", "b"))


def grouped(groups, labels):
    """Examples e0, e1 ... in groups; "" is alone."""
    count = len(groups)
    return IndexedExamples(
        ids=np.array([f"e{i}" for i in range(count)], object),
        labels=np.array(labels, np.int64),
        rows=np.arange(count),
        read=lambda row: row,
        groups=np.array(groups, object),
    )


def sides(parts):
    """By group: in which of the parts it is."""
    where = {}
    for at, part in enumerate(parts):
        for group in part.groups:
            if group:
                where.setdefault(group, set()).add(at)
    return where


def test_a_cut_parts_no_group_and_keeps_the_shares():
    rng = np.random.default_rng(0)
    number = np.sort(rng.integers(0, 150, 600))
    labels = number % 3
    groups = [f"g{n}" if n % 4 else "" for n in number]
    examples = grouped(groups, labels)
    rest, part = examples.cut(0.25, seed=3)
    assert all(len(places) == 1 for places in sides([rest, part]).values())
    assert len(rest) + len(part) == 600
    share = np.bincount(part.labels) / np.bincount(labels)
    assert np.abs(share - 0.25).max() < 0.05
    # Which examples are there, not in which order, decides.
    shuffled = examples.select(rng.permutation(600)).cut(0.25, seed=3)[1]
    assert set(shuffled.ids) == set(part.ids)


def test_without_groups_the_cut_is_what_it_was():
    labels = np.arange(100) % 2
    alone = grouped([""] * 100, labels)
    none = dataclasses.replace(alone, groups=None)
    for one, other in zip(alone.cut(0.3, 7), none.cut(0.3, 7), strict=True):
        assert one.ids.tolist() == other.ids.tolist()


def test_a_group_larger_than_the_part_leaves_something_on_both_sides():
    examples = grouped(["a"] * 9 + ["b"], [0] * 10)
    rest, part = examples.cut(0.2, seed=0)
    assert sorted([len(rest), len(part)]) == [1, 9]


def test_folds_are_alike_disjoint_and_part_no_group():
    rng = np.random.default_rng(0)
    number = rng.integers(0, 60, 300)
    examples = grouped([f"g{n}" for n in number], number % 2)
    folds = examples.folds(5, 1, ("a", "b"))
    parts = [part for _, part in folds]
    assert sorted(i for p in parts for i in p.ids) == sorted(examples.ids)
    assert all(len(places) == 1 for places in sides(parts).values())
    for rest, part in folds:
        assert not set(rest.ids) & set(part.ids)
        assert len(rest) + len(part) == 300
        share = np.bincount(part.labels) / np.bincount(examples.labels)
        assert np.abs(share - 0.2).max() < 0.04
    again = examples.select(rng.permutation(300)).folds(5, 1, ("a", "b"))
    assert set(again[2][1].ids) == set(parts[2].ids)
    assert set(examples.folds(5, 2, ("a", "b"))[2][1].ids) != set(parts[2].ids)


def test_more_folds_than_a_class_has_examples_are_refused():
    examples = grouped(["a", "a", "b", "", ""], [0, 0, 0, 1, 1])
    with pytest.raises(UserError, match=r"3 folds .* class a has 2"):
        examples.folds(3, 0, ("a", "b"))


def test_a_class_that_is_one_group_stays_in_training():
    examples = grouped(["a"] * 10 + [""] * 10, [0] * 10 + [1] * 10)
    rest, part = examples.cut(0.6, seed=0)
    assert np.bincount(rest.labels).tolist() == [10, 4]
    assert part.labels.tolist() == [1] * 6


def test_a_class_within_the_groups_of_another_is_not_lost_to_folds():
    # The only pictures of class 1 stand behind one of class 0, in one group.
    examples = grouped(["g", "g", "g", "", "", ""], [0, 1, 1, 0, 0, 0])
    with pytest.raises(UserError, match="class b are in one group"):
        examples.folds(2, 0, ("a", "b"))


def test_groups_of_several_classes_are_dealt_out_whole():
    # Seven persons, each with pictures of all three classes.
    person = np.repeat(np.arange(7), 30)
    labels = np.tile([0, 1, 2], 70)
    examples = grouped([f"p{n}" for n in person], labels)
    rest, part = examples.cut(2 / 7, seed=0)
    assert len(set(part.groups)) == 2
    assert not set(part.groups) & set(rest.groups)
    assert np.bincount(part.labels).tolist() == [20] * 3
    assert set(examples.cut(2 / 7, seed=1)[1].groups) != set(part.groups)
    folds = examples.folds(7, 0, ("a", "b", "c"))
    assert sorted(set(p.groups).pop() for _, p in folds) == [
        f"p{n}" for n in range(7)
    ]
    assert all(len(part) == 30 for _, part in folds)
    with pytest.raises(UserError, match=r"8 folds .* 7 groups"):
        examples.folds(8, 0, ("a", "b", "c"))


def test_two_sources_joined_are_read_as_each_alone():
    one = array_source(*arrays(6), ("a", "b")).splits["train"]
    other = array_source(*arrays(4, first=100), ("a", "b")).splits["train"]
    other = dataclasses.replace(
        other,
        ids=np.array([f"other/{i}" for i in range(4)], object),
        groups=np.array(["g", "g", "h", ""], object),
    )
    # A part of the one, in another order.
    one, other = one.select(np.array([5, 0, 3])), other.select([1, 2])
    both = join(one, other)
    assert both.ids.tolist() == [*one.ids, *other.ids]
    assert both.labels.tolist() == [*one.labels, *other.labels]
    assert both.groups.tolist() == ["", "", "", "g", "h"]
    dataset = tf.data.Dataset.from_tensor_slices(both.rows).map(both.read)
    shown = [int(image[0, 0, 0]) for image in dataset]
    assert shown == [5, 0, 3, 101, 102]
    assert join(one, one).groups is None


def arrays(count, first=0):
    """Pictures that show their numbers, and labels."""
    numbers = np.arange(first, first + count)
    images = np.tile(numbers[:, None, None, None], [1, 2, 2, 3])
    return images.astype(np.uint8), numbers % 2
