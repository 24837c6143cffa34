"""Trains small models in one world of replicas and writes down what came out.

A process can host one world only, so that the tests start this as a program:

    python one_world.py OUTPUT.npz one|mirrored|multi_worker REPLICAS
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from framework.data.pipeline import Pipeline
from framework.data.source import array_source
from framework.evaluation import at_test_time
from framework.evaluation.predictions import Predictor
from framework.model.backbones import Backbone
from framework.model.classifier import classifier
from framework.model.heads import softmax_head
from framework.training.distribution import Distribution
from framework.training.mixing import CutMix, MixUp
from framework.training.optimizers import make_optimizer
from framework.training.precision import precision
from framework.training.state import Plan
from framework.training.trainer import Trainer, validation

BATCH, SIZE = 16, 12


def pictures(count: int):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    images = rng.integers(0, 156, (count, SIZE, SIZE, 3))
    images += 50 * labels[:, None, None, None]
    source = array_source(
        images.astype(np.uint8), labels, ("a", "b", "c"), name="toy"
    )
    return source.splits["train"]


def backbone(norm: bool = True, regularised: bool = False):
    def build(image_size=None):
        penalty = keras.regularizers.L2(0.01) if regularised else None
        inputs = keras.Input((SIZE, SIZE, 3))
        x = inputs
        for number, filters in enumerate((4, 6)):
            x = keras.layers.Conv2D(
                filters,
                3,
                padding="same",
                strides=2,
                kernel_regularizer=penalty,
                name=f"conv{number}",
            )(x)
            if norm:
                x = keras.layers.BatchNormalization(name=f"bn{number}")(x)
            x = keras.layers.ReLU(name=f"relu{number}")(x)
        rescale = keras.layers.Rescaling(1 / 127.5, -1.0)
        return Backbone(keras.Model(inputs, x), rescale, "-1..1", False)

    return build


def train(
    world,
    optimizer,
    steps: int,
    norm=True,
    regularised=False,
    accumulation=1,
    steps_per_call=1,
    dtype="float64",
    dropout=0.0,
    augmentation=(),
    mixing=(),
    class_weights=None,
    sampling="natural",
):
    """The weights after so many updates, and the history."""
    examples = pictures(45)
    keras.utils.clear_session()
    with precision(dtype):
        keras.utils.set_random_seed(3)
        with world.strategy.scope():
            built = classifier(
                3,
                backbone=backbone(norm, regularised),
                head=lambda n: softmax_head(n, dropout=dropout),
                augmentation=augmentation,
            )
            made = make_optimizer(optimizer, None, steps)
            trainer = Trainer(
                built,
                made,
                world,
                accumulation,
                mixing=mixing,
                class_weights=class_weights,
            )
        epochs = max(1, steps * BATCH // len(examples))
        plan = Plan(len(examples), BATCH, epochs)
        if steps == 1:
            plan = Plan(BATCH, BATCH, 1)
        history = trainer.fit(
            plan,
            lambda first, share: Pipeline().training(
                examples,
                SIZE,
                BATCH,
                5,
                first,
                share=share,
                sampling=sampling,
            ),
            None,
            None,
            steps_per_call=steps_per_call,
        )
        weights = np.concatenate(
            [
                np.asarray(w, np.float64).ravel()
                for w in built.model.get_weights()
            ]
        )
        return built, weights, history


def main() -> None:
    output, kind, replicas = sys.argv[1], sys.argv[2], int(sys.argv[3])
    world = Distribution(kind, replicas if replicas > 1 else None).make()
    tf.keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    results = {"replicas": world.replicas, "workers": world.workers}

    def clipped():
        return keras.optimizers.AdamW(
            0.01, weight_decay=0.1, global_clipnorm=0.05
        )

    built, results["clipped"], history = train(world, clipped, 50)
    results["loss"] = history.epochs[-1]["train"]["loss"]
    if world.replicas < 4:
        _, results["averaged"], _ = train(
            world,
            lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9),
            50,
            regularised=True,
            steps_per_call=4,
            class_weights=[0.5, 1.0, 3.0],
            sampling="balanced",
        )
    _, results["accumulated"], _ = train(
        world,
        lambda: keras.optimizers.SGD(0.05, momentum=0.9, clipnorm=0.1),
        50,
        norm=False,
        accumulation=2,
    )
    if world.replicas == 1:
        _, results["whole"], _ = train(
            world,
            lambda: keras.optimizers.SGD(0.05, momentum=0.9, clipnorm=0.1),
            50,
            norm=False,
        )
    # One step of plain descent: the difference is the gradient.
    for name, rate in (("before", 0.0), ("after", 1.0)):
        _, results[f"gradient_{name}"], _ = train(
            world,
            lambda rate=rate: keras.optimizers.SGD(rate),
            1,
            dtype="float32",
        )
    if world.replicas < 4:
        _, results["mixed"], _ = train(
            world,
            lambda: keras.optimizers.SGD(0.05, global_clipnorm=0.1),
            20,
            dtype="mixed_float16",
        )
        _, results["random"], _ = train(
            world,
            clipped,
            20,
            dropout=0.5,
            dtype="float32",
            mixing=[MixUp(1.0), CutMix()],
        )
    results["drawn"] = draws(world)
    examples = pictures(37)
    predictor = Predictor(built, world)
    batches = Pipeline().evaluation(examples, SIZE, BATCH, world.share)
    predictions = predictor.predict(batches)
    judged = validation(predictor, batches, figures=("macro_f1", "auc"))()
    everywhere = world.exchange(np.array(list(judged.values())))
    results["figures"] = np.stack(everywhere)
    results["ids"] = predictions.ids.astype(str)
    results["labels"] = predictions.labels
    results["predicted"] = predictions.probabilities
    results["over_views"] = over_views(world, examples)
    if world.is_chief:
        np.savez(output, **results)
    world.exchange(None)


def over_views(world, examples) -> np.ndarray:
    """Probabilities over views, random ones among them."""
    keras.utils.set_random_seed(3)
    with world.strategy.scope():
        built = classifier(
            3,
            backbone=backbone(),
            head=softmax_head,
            augmentation=[
                keras.layers.RandomFlip(),
                keras.layers.RandomBrightness(0.3),
            ],
        )
        Trainer(built, keras.optimizers.SGD(), world)
    views = at_test_time.TestTimeAugmentation(shifts=2, views=3).of(built)
    plain, averaged = Predictor(built, world).predict_views(
        Pipeline().evaluation(examples, SIZE, BATCH, world.share), views
    )
    assert (plain.probabilities != averaged.probabilities).any()
    return averaged.probabilities


def draws(world) -> np.ndarray:
    """What each replica makes of one and the same picture, [replicas, ...]."""
    keras.utils.set_random_seed(3)
    with world.strategy.scope():
        built = classifier(
            3,
            backbone=backbone(False),
            head=lambda n: softmax_head(n, dropout=0.5),
            augmentation=[
                keras.layers.RandomFlip(),
                keras.layers.RandomBrightness(0.3),
            ],
        )
        Trainer(built, keras.optimizers.SGD(), world)
        flip, brightness = built.model.layers[2:4]
    picture = tf.random.stateless_uniform((1, SIZE, SIZE, 3), (0, 0)) * 255

    @tf.function
    def step():
        def replica():
            x = brightness(flip(picture, training=True), training=True)
            context = tf.distribute.get_replica_context()
            return context.all_gather(x, axis=0)

        made = world.strategy.run(replica)
        return world.strategy.experimental_local_results(made)[0]

    return np.stack([step().numpy() for _ in range(3)], axis=1)


if __name__ == "__main__":
    main()
