import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from framework.data.pipeline import Pipeline, shuffled_index
from framework.data.source import IndexedExamples, StreamedExamples
from framework.errors import UserError
from framework.registry import AUGMENTATIONS

SIZE = 16


@pytest.fixture
def examples(arrays):
    return arrays.splits["train"].select(np.arange(25))


@pytest.fixture
def with_broken(examples):
    """The same as PNG bytes, of which rows 3, 4 and 24 do not decode."""
    encoded = [
        tf.io.encode_png(examples.read(tf.constant(row))).numpy()
        for row in examples.rows
    ]
    for row in (3, 4, 24):
        encoded[row] = b"not an image"
    encoded = tf.constant(encoded)
    return dataclasses.replace(
        examples, read=lambda row: tf.gather(encoded, row)
    )


def streamed(examples: IndexedExamples) -> StreamedExamples:
    """The same as a stream, shuffled as the seed says."""

    def stream(seed):
        dataset = tf.data.Dataset.from_tensor_slices(
            {"label": examples.labels, "id": examples.ids.tolist()}
        )
        dataset = dataset.enumerate().map(
            lambda i, e: {**e, "image": examples.read(i)}
        )
        order = tf.argsort(
            tf.random.stateless_uniform([len(examples)], tf.stack([seed, 0]))
        )
        elements = tf.data.Dataset.range(len(examples))
        picked = elements.map(lambda i: tf.gather(order, i))
        return picked.flat_map(
            lambda i: dataset.skip(tf.cast(i, tf.int64)).take(1)
        )

    return StreamedExamples(len(examples), stream, None, 10)


def take(dataset, count):
    batches = list(dataset.take(count).as_numpy_iterator())
    return {
        key: np.concatenate([batch[key] for batch in batches])
        for key in batches[0]
    }


@pytest.mark.parametrize("kind", [lambda e: e, streamed])
def test_training_shows_each_example_once_an_epoch(examples, kind):
    dataset = Pipeline().training(kind(examples), SIZE, 10, seed=1)
    rows = take(dataset, 5)  # 50 = two epochs of 25, no batch cut short.
    assert rows["image"].shape == (50, SIZE, SIZE, 3)
    assert rows["image"].dtype == np.uint8
    assert rows["weight"].dtype == np.float32
    assert (rows["position"] == np.arange(50)).all()
    assert (rows["weight"] == 1).all()
    first, second = rows["id"][:25], rows["id"][25:]
    assert set(first) == set(second) == {i.encode() for i in examples.ids}
    assert list(first) != list(second)


@pytest.mark.parametrize("kind", [lambda e: e, streamed])
def test_training_can_be_entered_anywhere(examples, kind):
    whole = take(Pipeline().training(kind(examples), SIZE, 10, seed=1), 6)
    rest = take(
        Pipeline().training(
            kind(examples), SIZE, 10, seed=1, first_position=30
        ),
        3,
    )
    for key in whole:
        assert (whole[key][30:] == rest[key]).all(), key


def test_order_depends_on_the_seed(examples):
    orders = [
        list(take(Pipeline().training(examples, SIZE, 25, seed), 1)["id"])
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_ids_images_and_labels_belong_together(examples):
    rows = take(Pipeline().training(examples, 20, 25, seed=3), 1)
    index = {i.encode(): n for n, i in enumerate(examples.ids)}
    for image, label, name in zip(
        rows["image"], rows["label"], rows["id"], strict=True
    ):
        row = index[name]
        assert label == examples.labels[row]
        assert (image == examples.read(tf.constant(row)).numpy()).all()


@pytest.mark.parametrize("size", [1, 2, 10, 97])
def test_every_epoch_is_a_permutation(size):
    positions = tf.range(size * 50, dtype=tf.int64)
    epochs = shuffled_index(positions, size, 7).numpy().reshape(50, size)
    assert (np.sort(epochs) == np.arange(size)).all()


def test_permutations_are_uniform():
    size, epochs = 10, 5000
    positions = tf.range(size * epochs, dtype=tf.int64)
    index = shuffled_index(positions, size, 0).numpy().reshape(epochs, size)
    # TensorFlow's index_shuffle given small integers makes but 256
    # permutations, and this statistic would be near 20.
    counts = np.array([np.bincount(c, minlength=size) for c in index.T])
    expected = epochs / size
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square / (size - 1) ** 2 < 1.5
    assert len({tuple(row) for row in index}) > 0.99 * epochs


@pytest.mark.parametrize("kind", [lambda e: e, streamed])
def test_evaluation_pads_the_last_batch(examples, kind):
    dataset = Pipeline().evaluation(kind(examples), SIZE, 10)
    rows = take(dataset, 99)
    assert len(rows["id"]) == 30
    assert (rows["weight"] == [1] * 25 + [0] * 5).all()
    assert (rows["id"][25:] == b"").all()
    assert not rows["image"][25:].any()
    if kind is not streamed:
        assert list(rows["id"][:25]) == [i.encode() for i in examples.ids]


def test_what_does_not_decode_keeps_its_place(with_broken):
    broken = {with_broken.ids[row].encode() for row in (3, 4, 24)}
    rows = take(Pipeline().evaluation(with_broken, SIZE, 10), 99)
    assert list(np.nonzero(rows["weight"] == 0)[0]) == [3, 4, *range(24, 30)]
    assert rows["id"][24].decode() == with_broken.ids[24]
    rows = take(Pipeline().training(with_broken, SIZE, 10, seed=0), 10)
    assert (rows["position"] == np.arange(100)).all()
    assert set(rows["id"][rows["weight"] == 0]) == broken
    assert (rows["weight"] == 0).sum() == 12  # Three in each of four epochs.


def test_streams_name_what_does_not_decode_by_position(with_broken):
    rows = take(Pipeline().evaluation(streamed(with_broken), SIZE, 10), 99)
    lost = rows["id"][(rows["weight"] == 0) & (rows["position"] < 25)]
    assert len(lost) == 3
    assert all(name.startswith(b"the example at position") for name in lost)
    assert (rows["id"][25:] == b"").all()


@pytest.mark.parametrize(
    "name", ["GridMask", "ChannelShuffle", "RandomCutout", "RandAugment"]
)
def test_keras_cv_layers_augment_reproducibly(examples, name):
    arguments = {"GridMask": {}, "ChannelShuffle": {}}.get(name)
    if name == "RandomCutout":
        arguments = {"height_factor": 0.5, "width_factor": 0.5}
    elif name == "RandAugment":
        arguments = {"value_range": (0, 255)}

    def batches(seed):
        keras.utils.set_random_seed(seed)
        layer = AUGMENTATIONS[f"keras_cv.{name}"](**arguments)
        dataset = Pipeline().training(
            examples, SIZE, 5, seed=0, augmentation=(layer,)
        )
        return take(dataset, 6)["image"]

    plain = take(Pipeline().training(examples, SIZE, 5, seed=0), 6)["image"]
    augmented = batches(1)
    assert augmented.dtype == np.uint8
    assert (augmented != plain).any()
    assert (augmented == batches(1)).all()
    assert (augmented != batches(2)).any()


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="squash, crop, pad"):
        Pipeline(resize="stretch")
    with pytest.raises(UserError, match="from 0 to 1"):
        Pipeline(max_unreadable=5)
