import functools
import io
import pathlib
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from framework.errors import UserError
from framework.evaluation import seen
from framework.evaluation.chain import Chain
from framework.model.backbones import tiny_cnn
from framework.model.classifier import classifier
from framework.model.heads import sigmoid_head, softmax_head
from framework.pages import Room, template

PAGE = """{% from "seen.html.j2" import what_it_sees, what_it_sees_style %}
<style>{{ what_it_sees_style() }}</style>{{ what_it_sees(seen, room) }}"""


def pictures(count, size=32):
    return np.random.default_rng(0).integers(
        0, 256, (count, size, size, 3), dtype=np.uint8
    )


def made(classes=3, head=softmax_head, **options):
    return classifier(
        classes,
        tiny_cnn,
        functools.partial(head, dropout=0.5, **options),
        augmentation=[keras.layers.RandomFlip()],
    )


def looked_at(built, count=4, classes=3, labels=None, **options):
    names = [f"class {number}" for number in range(classes)]
    if labels is None:
        labels = np.arange(count) % classes
    ids = [f"{number}.jpg" for number in range(count)]
    return seen.look(
        built.model,
        built.head.probabilities,
        names,
        pictures(count),
        labels,
        ids,
        **options,
    )


def printed(found, room=None, tmp_path=None):
    path = tmp_path / "page.html.j2"
    path.write_text(PAGE)
    folder = pathlib.Path(seen.__file__).parent
    shutil.copy(folder / "seen.html.j2", tmp_path)
    return template(str(path)).render(seen=found, room=room or Room(10**7))


@pytest.mark.parametrize(
    ("head", "classes"), [(softmax_head, 3), (sigmoid_head, 2)]
)
def test_examples_say_what_the_model_says(head, classes):
    built = made(classes, head)
    found = looked_at(built, 6, classes)
    expected = built.head.probabilities(
        built.model.predict(pictures(6), verbose=0)
    )
    assert len(found.examples) == 6
    for number, (example, scores) in enumerate(
        zip(found.examples, expected, strict=True)
    ):
        order = np.argsort(-scores)
        label = number % classes
        assert example.id == f"{number}.jpg"
        assert example.label == f"class {label}"
        assert example.predicted == f"class {order[0]}"
        assert example.right == (order[0] == label)
        assert [name for name, _ in example.probabilities] == [
            f"class {place}" for place in order[:3]
        ]
        np.testing.assert_allclose(
            [chance for _, chance in example.probabilities],
            scores[order[:3]],
            rtol=1e-5,
        )
        roles = {heat.class_name: heat.role for heat in example.heats}
        if example.right:
            assert roles == {example.predicted: "predicted and true"}
        else:
            assert roles == {
                example.predicted: "predicted",
                example.label: "true",
            }
    assert {example.right for example in found.examples} == {True, False}
    assert found.embeddings.wrong == sum(
        not example.right for example in found.examples
    )


def test_it_is_the_same_twice():
    built = made()
    first, second = (looked_at(built, 40) for _ in range(2))
    assert first.embeddings.method == "t-SNE"
    for one, other in zip(first.examples, second.examples, strict=True):
        assert one.picture == other.picture
        assert [h.grad_cam for h in one.heats] == [
            h.grad_cam for h in other.heats
        ]
    assert first.embeddings.picture == second.embeddings.picture
    assert first.filters.picture == second.filters.picture
    assert first.maps[0].layers[0].picture == second.maps[0].layers[0].picture


def test_occlusion_is_shown_where_grad_cam_is_not_to_be_trusted():
    for pooling in ("average", "flatten"):
        found = looked_at(made(pooling=pooling), 12)
        heats = [heat for one in found.examples for heat in one.heats]
        for heat in heats:
            assert (heat.occlusion is None) == (heat.remark == "")
            disagree = (
                heat.correlation is None
                or heat.correlation < seen.LEAST_AGREEMENT
            )
            assert bool(heat.remark) == (disagree or pooling == "flatten")
        assert ("flattens" in found.doubt) == (pooling == "flatten")
        assert any(heat.occlusion for heat in heats)
        if pooling == "average":
            assert not all(heat.occlusion for heat in heats)


def test_a_class_that_nothing_speaks_for():
    built = made(2, sigmoid_head)
    kernel, _ = built.model.get_layer("logits").get_weights()
    # What comes out of a ReLU only speaks for the second class.
    built.model.get_layer("logits").set_weights([np.abs(kernel), np.zeros(1)])
    found = looked_at(built, 2, 2, labels=[0, 0])
    for example in found.examples:
        heat = example.heats[1]
        assert (heat.class_name, heat.role) == ("class 0", "true")
        assert "0 everywhere" in heat.remark
        assert heat.occlusion and heat.correlation is None


def test_pictures_of_which_nobody_says_what_they_are():
    found = looked_at(made(), 8, labels=[seen.UNKNOWN] * 8)
    for example in found.examples:
        assert example.label is example.right is None
        assert [heat.role for heat in example.heats] == ["predicted"]
    assert found.embeddings.by == "predicted"
    assert found.embeddings.wrong == 0
    assert sum(key.examples for key in found.embeddings.keys) == 8


def test_layers_as_they_are_asked_for():
    built = made()
    found = looked_at(built, 3, layers=["relu2", "conv1"], with_maps=2)
    assert [maps.id for maps in found.maps] == ["0.jpg", "1.jpg"]
    for maps in found.maps:
        assert [layer.stage.name for layer in maps.layers] == [
            "relu2",
            "conv1",
        ]
    relu2 = found.maps[0].layers[0]
    assert (relu2.stage.height, relu2.stage.channels, relu2.shown) == (
        8,
        32,
        32,
    )
    assert found.filters.layer == "conv1"
    assert (found.filters.count, found.filters.shown) == (16, 16)
    assert found.embeddings is None  # Of three pictures.
    with pytest.raises(UserError, match=r"relu3.*relu2"):
        looked_at(built, 3, layers=["relu3"])


def test_the_map_is_of_those_it_is_given():
    built = made()
    many = pictures(320), np.arange(320) % 3
    embeddings = looked_at(built, 3, many=many).embeddings
    assert embeddings.examples == seen.MOST_ON_MAP == 150
    assert [key.examples for key in embeddings.keys] == [50, 50, 50]
    assert [key.number for key in embeddings.keys] == [1, 2, 3]
    assert len({key.colour for key in embeddings.keys}) == 3
    outputs = built.model.predict(many[0][:150], verbose=0)
    wrong = outputs.argmax(-1) != many[1][:150]
    assert embeddings.wrong == wrong.sum()
    # The nearest neighbour, by hand.
    found, _ = Chain(built.model).judge(many[0][:150])
    distances = ((found[:, None] - found[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    same = many[1][distances.argmin(1)] == many[1][:150]
    assert embeddings.alike == pytest.approx(same.mean())


def test_pictures_that_are_all_alike_have_no_map():
    same = np.zeros((40, 32, 32, 3), np.uint8)
    found = looked_at(made(), many=(same, [0] * 40))
    assert found.embeddings is None


def test_thirty_classes_have_numbers_and_no_colours():
    built = made(30)
    embeddings = looked_at(built, 60, 30, with_maps=0).embeddings
    assert [key.number for key in embeddings.keys] == list(range(1, 31))
    assert {key.colour for key in embeddings.keys} == {None}


def test_groups_lie_apart_on_the_map():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1], 30)
    embeddings = rng.normal(size=(60, 8)) + 20 * groups[:, None]
    points, method = seen._laid_out(embeddings.astype(np.float32))
    assert method == "t-SNE"
    centres = [points[groups == group].mean(0) for group in (0, 1)]
    nearer = np.argmin(
        [((points - centre) ** 2).sum(-1) for centre in centres], axis=0
    )
    np.testing.assert_array_equal(nearer, groups)
    points, method = seen._laid_out(embeddings[:7].astype(np.float32))
    assert (method, points.shape) == ("PCA", (7, 2))
    assert seen._laid_out(embeddings[:40, :1])[0].shape == (40, 2)


def test_names_that_do_not_fit_the_model():
    built = made()
    with pytest.raises(UserError, match="3 classes apart, and 2 names"):
        looked_at(built, 4, 2)


def test_the_section_escapes_names(tmp_path):
    name = "<script>alert(1)</script>"
    built = made(2)
    found = seen.look(
        built.model,
        built.head.probabilities,
        [name, 'a"b\n'],
        pictures(8),
        [0, 1] * 4,
        [f"{number}'\"<b>\n.jpg" for number in range(8)],
    )
    html = printed(found, tmp_path=tmp_path)
    assert "<script" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "0&#39;&#34;&lt;b&gt;\\n.jpg" in html
    assert 'alt="Grad-CAM for a"' not in html


def test_the_section_without_room_for_pictures(tmp_path):
    found = looked_at(made(), 6)
    html = printed(found, Room(10), tmp_path=tmp_path)
    assert "<img" not in html
    assert "Not shown" in html
    assert "<img" in printed(found, tmp_path=tmp_path)


def test_pictures_are_pictures():
    found = looked_at(made(), 6)
    for data, kind in (
        (found.examples[0].picture, "JPEG"),
        (found.examples[0].heats[0].grad_cam, "JPEG"),
        (found.embeddings.picture, "JPEG"),
        (found.maps[0].layers[0].picture, "PNG"),
        (found.filters.picture, "PNG"),
    ):
        assert Image.open(io.BytesIO(data)).format == kind
