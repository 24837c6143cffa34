"""Turns rendered hands into assertions: pure, balanced, distinct, plausible."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from framework.data.rendered_hands import render, skeleton, worker

RS_LABELS = ["rock", "paper", "scissors"]


def _scene(split: str, index: int, seed: int = 0) -> render.Scene:
    return render.scene(split, index, render.generator(split, index, seed))


def test_image_is_uint8_and_has_tfds_size():
    image = render.render("train", 0)
    assert image.dtype == np.uint8
    assert image.shape == (300, 300, 3)
    assert image.std() > 10


def test_same_index_same_pixels_other_index_seed_split_other_pixels():
    image = render.render("train", 5, seed=3)
    np.testing.assert_array_equal(image, render.render("train", 5, seed=3))
    for other in (("train", 8, 3), ("train", 5, 4), ("test", 5, 3)):
        assert (image != render.render(*other)).mean() > 0.5


def test_bytes_do_not_depend_on_the_number_of_processes():
    alone = list(worker.images("test", 5, processes=1))
    two = list(worker.images("test", 5, processes=2))
    assert alone == two
    three = list(worker.images("test", 5, processes=3))
    assert alone == three
    assert alone[4] == render.encode(render.render("test", 4))


def test_encoded_image_is_the_image():
    image = render.render("train", 1)
    with Image.open(io.BytesIO(render.encode(image))) as decoded:
        assert decoded.format == "JPEG"
        error = np.asarray(decoded, np.float32) - image
    assert np.abs(error).mean() < 3


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"validation.*train.*test"):
        render.render("validation", 0)


def test_failing_worker_says_why():
    images = worker.images("validation", 4, processes=2)
    with pytest.raises(RuntimeError, match="split is 'validation'"):
        next(images)


def test_reader_that_stops_early_leaves_no_process():
    images = worker.images("train", 50, processes=2)
    next(images)
    processes = [w._process for w in images.gi_frame.f_locals["workers"]]
    images.close()
    assert [p.poll() is None for p in processes] == [False, False]


def test_renderer_does_not_import_tensorflow():
    code = (
        "import sys; import framework.data.rendered_hands.worker; "
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("field", ["breadth", "tone", "turn", "roll"])
def test_no_hand_skin_or_camera_is_in_both_splits(field):
    def strips(split: str) -> set[int]:
        return {int(getattr(_scene(split, i), field) * 40) for i in range(300)}

    train, test = strips("train"), strips("test")
    assert not train & test
    assert len(train) == 32
    assert len(test) == 8
    # Neither split is a corner of the other's range.
    assert min(train) < min(test) and max(test) < max(train)
    assert max(test) - min(test) > 30


def test_both_hands_both_sides_all_sleeves_occur():
    scenes = [_scene("train", i) for i in range(120)]
    for share in (
        np.mean([s.left for s in scenes]),
        np.mean([s.palm_up for s in scenes]),
        np.mean([s.sleeve_at is not None for s in scenes]),
    ):
        assert 0.2 < share < 0.8


@pytest.mark.parametrize("count", [2520, 372])
def test_classes_balance(count):
    labels = [render.label_of(i) for i in range(count)]
    assert np.bincount(labels).tolist() == [count // 3] * 3


@pytest.mark.parametrize("label", range(3))
def test_bones_keep_their_lengths_and_poses_their_meaning(label):
    for k in range(20):
        hand = _scene("train", 3 * k + label).hand
        p = hand.proportions
        bones = np.linalg.norm(np.diff(hand.joints, axis=1), axis=2)
        expected = skeleton.BONES * p.length[:, None] * p.size
        expected[:, 2] -= hand.radii[:, 3]
        np.testing.assert_allclose(bones, expected, rtol=0.02)
        # A straight finger is about as long as its bones, end to end.
        reach = np.linalg.norm(hand.joints[1:, 3] - hand.joints[1:, 0], axis=1)
        straight = reach / expected[1:].sum(1) > 0.9
        assert (
            straight.tolist()
            == {
                render.ROCK: [False] * 4,
                render.PAPER: [True] * 4,
                render.SCISSORS: [True, True, False, False],
            }[label]
        )


def test_hand_covers_a_plausible_part_and_the_arm_leaves_the_picture():
    for index in range(18):
        _, cover, _ = render.layers("train", index)
        assert 0.08 < cover.mean() < 0.7
        edge = np.concatenate([cover[0], cover[-1], cover[:, 0], cover[:, -1]])
        assert edge.max() > 0.9
        # Most of the border is free: the hand itself is in the picture.
        assert (edge > 0.5).mean() < 0.4


def test_hand_stands_out_from_what_lies_behind():
    contrast = []
    for index in range(18):
        hand, cover, behind = render.layers("test", index)
        inside = cover[..., 0] > 0.9
        skin = hand[inside].mean(0)
        contrast.append(np.abs(skin - behind[~inside].mean(0)).max())
    assert np.median(contrast) > 40
    assert min(contrast) > 6


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    from framework.data.rendered_hands import builder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "SIZES", {"train": 9, "test": 6})
        hands = builder.RenderedHands(data_dir=tmp_path_factory.mktemp("tfds"))
        hands.download_and_prepare()
    return hands


def test_prepared_data_set_is_like_rock_paper_scissors(prepared):
    import tensorflow_datasets as tfds

    assert prepared.name == "rendered_hands"
    real = tfds.builder_cls("rock_paper_scissors")
    source = sys.modules[real.__module__]
    features = prepared.info.features
    assert features["image"].shape == source._IMAGE_SHAPE
    assert features["image"].dtype == np.uint8
    assert features["label"].names == RS_LABELS
    assert prepared.info.supervised_keys == ("image", "label")
    sizes = {k: v.num_examples for k, v in prepared.info.splits.items()}
    assert sizes == {"train": 9, "test": 6}


def test_prepared_images_are_the_rendered_ones(prepared):
    rendered = {
        render.encode(render.render("test", i)): render.label_of(i)
        for i in range(6)
    }
    import tensorflow_datasets as tfds

    found = prepared.as_dataset(
        split="test", decoders={"image": tfds.decode.SkipDecoding()}
    )
    read = {e["image"]: int(e["label"]) for e in found.as_numpy_iterator()}
    assert read == rendered


def test_whole_data_set_has_the_size_of_rock_paper_scissors():
    from framework.data.rendered_hands import builder

    assert builder.SIZES == {"train": 2520, "test": 372}
