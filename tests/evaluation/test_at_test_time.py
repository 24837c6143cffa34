import dataclasses
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

import framework
from framework.data.pipeline import Pipeline
from framework.data.source import array_source
from framework.errors import UserError
from framework.evaluation import at_test_time
from framework.evaluation.predictions import Predictor
from framework.model.augmentation import AUGMENTATIONS
from framework.model.backbones import tiny_cnn
from framework.model.classifier import classifier
from framework.model.heads import sigmoid_head, softmax_head
from framework.modes.recipe import Recipe
from framework.task import Task
from framework.training.distribution import Distribution
from framework.training.features import Rows
from framework.training.state import Plan
from framework.training.trainer import Trainer

ALONE = Distribution("one").make()
SIZE = 32


def build(augmentation=list, head=softmax_head, **how):
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    return classifier(2, tiny_cnn, head, augmentation=augmentation(), **how)


def layers():
    """Two of Keras's that are fused, and one with a layer inside."""
    return [
        keras.layers.RandomFlip(),
        keras.layers.RandomTranslation(0.2, 0.2),
        keras.layers.Pipeline([keras.layers.RandomBrightness(0.3)]),
    ]


def flip_and_brighten():
    return [keras.layers.RandomFlip(), keras.layers.RandomBrightness(0.3)]


def all_states(model):
    """What the random layers of a model draw from."""
    return [
        generator.state.numpy().tolist()
        for layer in model._flatten_layers()
        for generator in layer._seed_generators
    ]


def pictures(count=20):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def batches(images, batch_size=8):
    labels = np.arange(len(images)) % 2
    examples = array_source(images, labels, ("a", "b")).splits["train"]
    return Pipeline().evaluation(examples, SIZE, batch_size)


def predict(built, images, batch_size=8, **asked):
    views = at_test_time.TestTimeAugmentation(**asked).of(built)
    return Predictor(built, ALONE).predict_views(
        batches(images, batch_size), views
    )


def all_views(built, images, **asked):
    """Each example's views beside the picture, `[views, B, S, S, 3]`."""
    views = at_test_time.TestTimeAugmentation(**asked).of(built)
    return views_of(views, images)


def views_of(views, images, first=0):
    positions = tf.constant(np.arange(len(images)) + first)
    made = list(views(tf.constant(images), positions))
    assert len(made) + 1 == views.count
    assert all(view.dtype == tf.uint8 for view in made)
    return np.stack(made)


def test_probabilities_are_averaged_over_views_made_by_hand():
    built, images = build(head=sigmoid_head), pictures()
    plain, averaged = predict(built, images, shifts=3, zooms=(0.75,))
    # As it is, what was at the upper left (lower right, ...) moved inwards.
    padded = np.pad(images, [(0, 0), (3, 3), (3, 3), (0, 0)], "edge")
    by_hand = [images]
    for top in (0, 6):
        for left in (0, 6):
            by_hand.append(padded[:, top : top + SIZE, left : left + SIZE])
    middle = tf.image.resize(images[:, 4:-4, 4:-4], (SIZE, SIZE))
    by_hand.append(np.round(middle).astype(np.uint8))
    by_hand += [view[:, :, ::-1] for view in by_hand]
    said = [
        built.head.probabilities(built.model.predict(view, verbose=0))
        for view in by_hand
    ]
    assert len(said) == 12
    np.testing.assert_allclose(plain.probabilities, said[0], atol=1e-6)
    np.testing.assert_allclose(
        averaged.probabilities, np.mean(said, 0), atol=1e-6
    )
    assert np.abs(averaged.probabilities - plain.probabilities).max() > 1e-3
    np.testing.assert_allclose(
        averaged.losses,
        -np.log(np.mean(said, 0)[range(20), np.arange(20) % 2]),
        rtol=1e-4,
    )
    assert list(averaged.ids) == list(plain.ids)


def test_mirror_images_of_symmetric_pictures_change_nothing():
    images = pictures()
    images[:, :, SIZE // 2 :] = images[:, :, : SIZE // 2][:, :, ::-1]
    plain, averaged = predict(build(), images)
    np.testing.assert_array_equal(averaged.probabilities, plain.probabilities)


def test_what_stands_beside_views_is_what_was_said_without():
    built, images = build(), pictures()
    plain, _ = predict(built, images)
    expected = Predictor(built, ALONE).predict(batches(images))
    for field in dataclasses.fields(plain):
        np.testing.assert_array_equal(
            getattr(plain, field.name), getattr(expected, field.name)
        )


def test_random_views_follow_from_seed_and_position_alone():
    built, images = build(layers), pictures()
    before = all_states(built.model), random.getstate()
    assert before[0]
    asked = {"flip": False, "views": 3}
    views = at_test_time.TestTimeAugmentation(**asked).of(built)
    made = views_of(views, images)
    np.testing.assert_array_equal(made, all_views(built, images, **asked))
    # Neither two views nor two examples draw alike.
    alike = views_of(views, np.repeat(images[:1], 8, 0)).reshape(24, -1)
    assert len(np.unique(alike, axis=0)) == 24
    # An example's views don't hang on the rest of its batch.
    np.testing.assert_array_equal(
        views_of(views, images[5:6], first=5)[:, 0], made[:, 5]
    )
    # But on the seed.
    other = all_views(built, images, flip=False, views=1, seed=1)
    assert (other != made[:1]).any()
    said = [built.model.predict(view, verbose=0) for view in (images, *made)]
    _, averaged = Predictor(built, ALONE).predict_views(batches(images), views)
    np.testing.assert_allclose(
        averaged.probabilities, np.mean(said, 0), atol=1e-6
    )
    assert (all_states(built.model), random.getstate()) == before


def test_views_are_drawn_as_layers_in_the_pipeline_draw():
    """Layers that can't run in the model come first, as in training."""
    mask = AUGMENTATIONS["keras_cv.GridMask"](fill_mode="constant")
    bright = keras.layers.RandomBrightness((0.5, 0.5), value_range=(0, 255))
    built = build(lambda: [mask, bright])
    assert built.augmentation_in_pipeline and built.augmentation_in_model
    images = np.full((4, SIZE, SIZE, 3), 50, np.uint8)
    (view,) = all_views(built, images, flip=False, views=1)
    # Black where it was masked, and all of it brighter by 127.5.
    assert set(np.unique(view)) == {128, 178}


def fit(data, predictor_asks):
    """The weights after two epochs, with validation as asked for."""
    built = build(flip_and_brighten, lambda n: softmax_head(n, dropout=0.5))
    trainer = Trainer(built, keras.optimizers.Adam(0.01), ALONE)
    views = at_test_time.TestTimeAugmentation(shifts=1, views=2).of(built)
    predictor, pipeline = Predictor(built, ALONE), Pipeline()
    held_out = pipeline.evaluation(data.splits["validation"], SIZE, 8)

    def validate():
        if predictor_asks:
            plain, _ = predictor.predict_views(held_out, views)
            return plain.figures()
        return predictor.predict(held_out).figures()

    history = trainer.fit(
        Plan(28, 8, 2),
        lambda first, share: pipeline.training(
            data.splits["train"], SIZE, 8, 0, first, share=share
        ),
        validate,
        None,
    )
    figures = [(e["train"], e["validation"]) for e in history.epochs]
    return built.model.get_weights(), figures


def test_training_goes_on_as_if_nothing_had_been_asked(arrays):
    data = Task(lambda: arrays, validation=0.3).load(lambda *_: None)
    expected, figures = fit(data, predictor_asks=False)
    weights, theirs = fit(data, predictor_asks=True)
    assert theirs == figures
    for mine, other in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_what_is_kept_is_the_plain_view(dtype):
    """Features are of no use to views, decoded pictures are."""
    built, images = build(freeze="all"), pictures(16)
    views = at_test_time.TestTimeAugmentation().of(built)
    split = batches(images)
    expected = Predictor(built, ALONE).predict_views(split, views)
    predictor = Predictor(built, ALONE)
    shape = built.features.output.shape[1:]
    if dtype == np.uint8:
        shape = (SIZE, SIZE, 3)
        built = dataclasses.replace(
            built, features=None, trained=(built.model,)
        )
        predictor = Predictor(built, ALONE)
        expected = predictor.predict_views(split, views)
    kept = Rows(16, shape, dtype, "memory")
    predictor.keep(split, kept)
    predictor.predict(split)
    assert kept.are_complete
    before = kept.get(np.arange(16)).copy()
    for mine, other in zip(
        predictor.predict_views(split, views), expected, strict=True
    ):
        np.testing.assert_array_equal(mine.probabilities, other.probabilities)
    np.testing.assert_array_equal(kept.get(np.arange(16)), before)
    plain = predictor.predict(split)
    np.testing.assert_array_equal(plain.losses, expected[0].losses)


def setup(data, augmentation):
    recipe = Recipe(
        classifier=lambda n, compiled: build(augmentation),
        optimizer=keras.optimizers.Adam,
        pipeline=Pipeline(),
        schedule=None,
        epochs=2,
        batch_size=8,
        accumulation=1,
        steps_per_call=1,
        feature_views="auto",
        precision="float32",
        xla=False,
        seed=0,
        deterministic=True,
    )
    return recipe.on(data, ALONE)


def test_augmentation_touches_neither_validation_nor_test(arrays):
    def strong():
        return [
            AUGMENTATIONS["keras_cv.GridMask"](ratio_factor=(0.9, 0.9)),
            keras.layers.RandomErasing(1.0),
            keras.layers.RandomInvert(1.0, value_range=(0, 255)),
        ]

    data = Task(lambda: arrays, validation=0.3, test=0.2).load(lambda *_: None)
    with setup(data, list) as bare:
        weights = bare.built.model.get_weights()
        expected = {
            name: bare.predictor.predict(bare.evaluation(name))
            for name in ("validation", "test")
        }
    with setup(data, strong) as augmented:
        built = augmented.built
        assert built.augmentation_in_pipeline and built.augmentation_in_model
        # In training it is there, in the pipeline as in the model.
        batch = next(iter(augmented.batches(0, ALONE.share)))["image"]
        assert (batch.numpy() == 0).all(-1).mean() > 0.3
        outputs = built.model(batch, training=True)
        built.model.set_weights(weights)
        assert not np.allclose(outputs, built.model(batch, training=False))
        for name, plain in expected.items():
            # Twice: also from what was kept the first time.
            for _ in range(2):
                mine = augmented.predictor.predict(augmented.evaluation(name))
                for field in dataclasses.fields(mine):
                    np.testing.assert_array_equal(
                        getattr(mine, field.name), getattr(plain, field.name)
                    )


QUICK = [
    "shapes.examples = 60",
    "train.epochs = 1",
    "classifier.freeze = 'all'",
]


def test_a_run_shows_it_beside_its_figures_and_leaves_these_alone(in_tmp):
    expected = framework.run("gin/smoke.gin", QUICK)
    result = framework.run(
        "gin/smoke.gin",
        [
            *QUICK,
            "train.test_time_augmentation = @TestTimeAugmentation()",
            "TestTimeAugmentation.views = 2",
        ],
    )
    assert (
        result.summary["weights_sha256"] == (expected.summary["weights_sha256"])
    )
    for split in ("validation", "test"):
        figures = dict(result.summary[split])
        augmented = figures.pop("test_time_augmentation")
        assert figures == expected.summary[split]
        assert augmented["views"] == 4
        assert augmented["examples"] == figures["examples"]
        assert augmented["loss"] != figures["loss"]
        low, high = augmented["accuracy_interval"]
        assert low <= augmented["accuracy"] <= high
    texts = {
        (in_tmp / run.directory / "predictions.csv").read_text()
        for run in (expected, result)
    }
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"flip": False}, "asks for no view but"),
        ({"shifts": -1}, "shifts is -1; expected"),
        ({"views": -2}, "views is -2; expected"),
        ({"zooms": (0.9, 1.0)}, r"zooms is \[0.9, 1.0\]; expected"),
        ({"shifts": SIZE}, "shifts is 32; expected fewer"),
        ({"views": 1}, "names no layers to draw views by"),
    ],
)
def test_what_makes_no_sense_is_refused(asked, message):
    with pytest.raises(UserError, match=message):
        at_test_time.TestTimeAugmentation(**asked).of(build())


def test_layers_that_cannot_be_copied_are_refused():
    class Sealed(keras.layers.Layer):
        def __init__(self, secret):
            super().__init__()
            self.secret = secret

        def call(self, x, training=False):
            return x

        def get_config(self):
            raise NotImplementedError("No config.")

    built = build(lambda: [Sealed(object())])
    with pytest.raises(UserError, match="copy of Sealed, which can't be made"):
        at_test_time.TestTimeAugmentation(views=1).of(built)
