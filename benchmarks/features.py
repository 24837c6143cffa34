"""Turns a folder of images into times of training a head on a frozen backbone.

The rival is what Keras's documentation teaches,
https://keras.io/guides/transfer_learning: `image_dataset_from_directory`,
augmentation layers, the frozen base called in inference mode, a new head,
`fit`. Both sides have the same files on the same sides of the split, the same
backbone, head, optimizer and number of epochs.
"""

import functools
import io
import os
import pathlib
import tempfile
import time

import keras
from rich.console import Console

from benchmarks.compare import Section, against, in_turns
from benchmarks.settings import BATCH, Settings
from framework.data.folder import ImageFolder
from framework.data.pipeline import Pipeline
from framework.data.source import IndexedExamples
from framework.model.backbones import efficientnet_lite0
from framework.model.classifier import classifier
from framework.model.heads import softmax_head
from framework.modes.recipe import Recipe
from framework.task import Data, Task
from framework.training.distribution import Distribution
from framework.training.progress import ProgressObserver
from framework.training.trainer import validation

SIZE = 224
RATE, DROPOUT = 1e-3, 0.2
GOOD = 0.98

# Seconds since the first batch was asked for, and validation accuracy, an
# entry an epoch.
Epochs = list[tuple[float, float]]


def section(settings: Settings) -> Section:
    """Ten epochs with two views, and the time to a good model."""
    data = Task(lambda: ImageFolder(settings.folder), validation=0.25).load(
        lambda *_: None
    )
    epochs, most = settings.short(10, 2), settings.short(40, 2)
    # One takes Keras minutes.
    rounds = max(1, settings.rounds // 4)
    train, held_out = (len(data.splits[n]) for n in ("train", "validation"))
    notes = [
        f"EfficientNet-Lite0 with ImageNet's weights at {SIZE} px, all of it "
        f"frozen; dropout {DROPOUT}, Adam {RATE:g}, batches of {BATCH}; "
        f"{train} images to train on, {held_out} to validate on after each "
        f"epoch; {rounds} rounds. Measured from the first batch asked for to "
        "the end of the epoch, compilation included."
    ]
    with tempfile.TemporaryDirectory() as place:
        _write(pathlib.Path(place), settings.folder, data)
        keras_way = functools.partial(_keras, place, data.num_classes)
        ours = functools.partial(_ours, data)
        ten = in_turns(
            {
                "ours": lambda: 3600 / ours(epochs, 2, None)[-1][0],
                "keras": lambda: 3600 / keras_way(epochs, None)[-1][0],
            },
            rounds,
        )
        good = in_turns(
            {
                "ours": lambda: 3600 / _time_to_good(ours(most, 1, GOOD)),
                "keras": lambda: 3600 / _time_to_good(keras_way(most, GOOD)),
            },
            rounds,
        )
    rows = [
        against(
            f"{epochs} epochs with flip and rotation: two views of each "
            "picture, against augmenting in each epoch",
            ten["ours"],
            ten["keras"],
            3,
            "runs/h",
        )
    ]
    what = f"until {GOOD:.0%} of the validation images are right: one view"
    if all(min(rates) > 0 for rates in good.values()):
        rows.append(
            against(
                f"{what}, against augmenting in each epoch",
                good["ours"],
                good["keras"],
                4.5,
                "runs/h",
            )
        )
    else:
        notes.append(f"Not reached by both within {most} epochs: {what}.")
    return Section("A frozen backbone, features once", rows, notes)


def _time_to_good(epochs: Epochs) -> float:
    seconds, accuracy = epochs[-1]
    return seconds if accuracy >= GOOD else float("inf")


def _write(place: pathlib.Path, folder: str, data: Data) -> None:
    """The splits as folders of links, for Keras to read."""
    for split, examples in data.splits.items():
        assert isinstance(examples, IndexedExamples)
        for number, (name, label) in enumerate(
            zip(examples.ids, examples.labels, strict=True)
        ):
            target = place / split / data.class_names[label]
            target.mkdir(parents=True, exist_ok=True)
            os.symlink(
                os.path.join(folder, name),
                target / f"{number}-{os.path.basename(name)}",
            )


class _UntilGood(keras.callbacks.Callback):
    """Notes times and accuracies of epochs; ends when they are good."""

    def __init__(self, good: float | None):
        super().__init__()
        self._good = good
        self.epochs: Epochs = []

    def on_train_begin(self, logs=None):
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        accuracy = logs["val_accuracy"]
        self.epochs.append((time.perf_counter() - self._began, accuracy))
        if self._good is not None and accuracy >= self._good:
            self.model.stop_training = True


def _augmentation() -> list[keras.layers.Layer]:
    return [
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomRotation(0.1),
    ]


def _keras(place: str, classes: int, epochs: int, good: float | None) -> Epochs:
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    train, held_out = (
        keras.utils.image_dataset_from_directory(
            os.path.join(place, split),
            image_size=(SIZE, SIZE),
            batch_size=BATCH,
            seed=0,
            verbose=False,
        ).prefetch(2)
        for split in ("train", "validation")
    )
    backbone = efficientnet_lite0(SIZE)
    backbone.model.trainable = False
    inputs = x = keras.Input((SIZE, SIZE, 3))
    for layer in _augmentation():
        x = layer(x)
    x = backbone.model(backbone.prepare(x), training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(DROPOUT)(x)
    model = keras.Model(
        inputs, keras.layers.Dense(classes, activation="softmax")(x)
    )
    model.compile(
        keras.optimizers.Adam(RATE),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    clock = _UntilGood(good)
    model.fit(
        train,
        validation_data=held_out,
        epochs=epochs,
        callbacks=[clock],
        verbose=0,
    )
    return clock.epochs


def _ours(data: Data, epochs: int, views: int, good: float | None) -> Epochs:
    recipe = Recipe(
        lambda n, compiled: classifier(
            n,
            efficientnet_lite0,
            functools.partial(softmax_head, dropout=DROPOUT),
            image_size=SIZE,
            freeze="all",
            augmentation=_augmentation(),
        ),
        lambda: keras.optimizers.Adam(RATE),
        Pipeline(),
        schedule=None,
        epochs=epochs,
        batch_size=BATCH,
        accumulation=1,
        steps_per_call="auto",
        feature_views=views,
        precision="float32",
        xla="auto",
        seed=0,
        # The other side isn't.
        deterministic=False,
    )
    world = Distribution("one").make()
    clock = _UntilGood(good)
    with recipe.on(data, world) as setup:
        setup.trainer.fit(
            setup.plan,
            setup.batches,
            validation(setup.predictor, setup.evaluation("validation")),
            None,
            callbacks=[clock],
            observers=[
                ProgressObserver(Console(file=io.StringIO()), setup.plan)
            ],
        )
    return clock.epochs
