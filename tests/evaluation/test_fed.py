"""What training makes of its first pictures."""

import base64
import io
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import framework
from framework.data.pipeline import Pipeline
from framework.errors import UserError
from framework.evaluation import fed
from framework.model.classifier import classifier
from framework.model.heads import softmax_head
from framework.registry import BACKBONES
from framework.task import Task
from framework.training.mixing import CutMix, MixUp, drawing, named
from framework.training.mixing import mix as mixed


def looked(arrays, augmentation=(), **arguments):
    data = Task(lambda: arrays, validation=0.0).load(lambda *_: None)
    built = classifier(
        2, BACKBONES["tiny_cnn"], softmax_head, 24, augmentation=augmentation
    )
    mixing = arguments.pop("mixing", None)

    def mix(images, weights, positions):
        draw = drawing(mixing, 3)
        drawn = draw({"position": positions})["mixing"]
        return mixed(images, weights, drawn)

    if mixing:
        arguments["mixing"] = named(mixing), mix
    return fed.look(
        built,
        Pipeline(),
        data.splits["train"],
        data.class_names,
        **{"batch_size": 8, "seed": 3, "most": 4, **arguments},
    )


def pixels(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)), np.int64)


def test_nothing_is_drawn_where_nothing_is_augmented(arrays):
    found = looked(arrays)
    assert found.steps == ()
    assert [row.drawn for row in found.rows] == [()] * 4
    # Those that training begins with.
    data = Task(lambda: arrays, validation=0.0).load(lambda *_: None)
    first = next(iter(Pipeline().training(data.splits["train"], 24, 8, 3)))
    assert [row.id.encode() for row in found.rows] == list(
        first["id"].numpy()[:4]
    )
    whole = first["image"].numpy()[0].repeat(9, 0).repeat(9, 1)
    assert abs(pixels(found.rows[0].picture) - whole).mean() < 6


def test_each_draw_is_another(arrays):
    layer = keras.layers.RandomBrightness(0.5)
    found = looked(arrays, [layer])
    assert found.steps == ("RandomBrightness, in the model",)
    means = [pixels(drawn.picture).mean() for drawn in found.rows[0].drawn]
    assert len(means) == fed.DRAWS and np.ptp(means) > 5
    again = looked(arrays, [layer])
    drawn = [
        [drawn.picture for row in look.rows for drawn in row.drawn]
        for look in (found, again)
    ]
    assert drawn[0] == drawn[1]


def test_what_training_draws_from_is_left_alone(arrays):
    layer = keras.layers.RandomFlip(seed=1)
    before = layer.generator.state.numpy().copy()
    looked(arrays, [layer])
    assert (layer.generator.state.numpy() == before).all()


def test_mixtures_are_named_by_what_they_hold(arrays):
    found = looked(arrays, mixing=[MixUp(), CutMix()], most=8)
    assert found.steps == ("MixUp or CutMix, within the batch",)
    for place, row in enumerate(found.rows):
        partner = found.rows[-1 - place]
        for drawn in row.drawn:
            assert sum(share for _, share in drawn.labels) == pytest.approx(
                1, abs=0.01
            )
            names = {name for name, _ in drawn.labels}
            assert names <= {row.label, partner.label}
            # Dark pictures are about 50, bright ones about 200.
            bright = dict(drawn.labels).get("bright", 0.0)
            assert pixels(drawn.picture).mean() == pytest.approx(
                50 + 150 * bright, abs=12
            )


def test_what_is_in_the_pipeline_comes_before_mixing(arrays):
    class Opaque(keras.layers.Layer):
        def call(self, inputs):
            return tf.where(inputs > 125, 255.0, 0.0)

    # Theirs augment in predict, too, hence in the pipeline.
    Opaque.__module__ = "keras_cv.opaque"
    found = looked(arrays, [Opaque()], mixing=[MixUp()], most=8)
    assert [step.split()[0] for step in found.steps] == ["Opaque,", "MixUp,"]
    greys = 0
    for row in found.rows:
        for drawn in row.drawn:
            shares = dict(drawn.labels)
            bright = shares.get("bright", 0.0)
            # Mixed afterwards: between black and white.
            assert pixels(drawn.picture).mean() == pytest.approx(
                255 * bright, abs=6
            )
            greys += 0.2 < bright < 0.8
    assert greys


def test_switched_off_augmentation_is_not_shown(arrays):
    found = looked(arrays, [keras.layers.RandomFlip()], augments=False)
    assert found.steps == ()


def test_small_batches_are_no_limit(arrays):
    found = looked(arrays, batch_size=2, most=7, mixing=[MixUp()])
    assert len(found.rows) == 7
    assert len({row.id for row in found.rows}) == 7


def test_the_mode_writes_a_page(in_tmp):
    shown = framework.run(
        "gin/smoke.gin", ["show_batch.pictures = 5"], mode="show_batch"
    )
    text = pathlib.Path(shown.page).read_text()
    assert shown.page == "runs/smoke/show_batch/001/show_batch.html"
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert (
        len(found)
        == 5 * (1 + fed.DRAWS)
        == len([base64.b64decode(each) for each in found])
    )
    assert "RandomFlip, in the model" in text


@pytest.mark.parametrize(
    "binding, message",
    [
        ("show_batch.phase = 2", "show_batch.phase is 2; expected 1 to 1"),
        ("show_batch.pictures = 0", "at least 1"),
    ],
)
def test_a_senseless_wish_is_refused(in_tmp, binding, message):
    with pytest.raises(UserError, match=message):
        framework.run("gin/smoke.gin", [binding], mode="show_batch")
    assert not list(in_tmp.iterdir())
