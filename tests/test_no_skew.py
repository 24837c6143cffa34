"""The same originals by every way: the same answers as in evaluation."""

import base64
import http.client
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded, photo
from PIL import Image
from test_serve import served

import framework
from framework.modes.export import export
from framework.run_directory import read_predictions

NAMES = ("cat", "dog")


def write(folder, count):
    """Files of all kinds, alike in nothing else."""
    turned = Image.Exif()
    turned[0x0112] = 6
    for label, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for number in range(count // 2):
            seed = 10_000 * label + number
            picture, form, options = (
                (photo(seed=seed), "JPEG", {}),
                (photo(seed=seed), "PNG", {}),
                (photo(seed=seed).convert("L"), "JPEG", {}),
                (photo(seed=seed).convert("CMYK"), "JPEG", {}),
                (photo(seed=seed), "JPEG", {"exif": turned}),
                (photo(41, 41, seed), "JPEG", {}),
                (photo(6000, 200, seed), "JPEG", {"progressive": True}),
                (photo(seed=seed), "WEBP", {}),
            )[number % 8]
            path = folder / name / f"{number}.{form.lower()}"
            path.write_bytes(encoded(picture, form, **options))


@pytest.mark.parametrize(
    "how, count",
    [
        ("crop", 32),
        pytest.param("squash", 560, marks=pytest.mark.slow),
        pytest.param("crop", 560, marks=pytest.mark.slow),
    ],
)
def test_every_way_is_that_of_evaluation(tmp_path, how, count):
    write(tmp_path / "photos", count)
    result = framework.run(
        "gin/folder.gin",
        [
            f"ImageFolder.root = {str(tmp_path / 'photos')!r}",
            "image_folder.validation = 0.9",
            "classifier.backbone = @tiny_cnn",
            "classifier.image_size = 48",
            "classifier.freeze = 'none'",
            "train.feature_views = None",
            "train.epochs = 1",
            "train.batch_size = 2",
            f"pipeline.resize = {how!r}",
            "train.report_page = False",
        ],
        workdir=str(tmp_path / "run"),
    )
    measured = read_predictions(result.directory, NAMES)
    assert len(measured.ids) >= 0.85 * count
    files = [str(tmp_path / "photos" / name) for name in measured.ids]
    answers = {}
    # The run itself, then what is exported of it.
    answers["run"] = [
        answer.probabilities
        for answer in framework.load(result.directory).predict(files)
    ]
    exported = export(result.directory)
    output = tmp_path / "out.jsonl"
    framework.predict(exported.saved_model, files, output=str(output))
    answers["predict"] = [
        [dict(row["top"])[name] for name in NAMES]
        for row in map(json.loads, output.read_text().splitlines())
    ]
    module = tf.saved_model.load(exported.saved_model)
    data = [pathlib.Path(file).read_bytes() for file in files]
    serve = module.signatures["serve_bytes"]
    answers["serve_bytes"] = np.concatenate(
        [
            serve(image_bytes=tf.constant(data[at : at + 16]))["probabilities"]
            for at in range(0, len(data), 16)
        ]
    )
    by_http = []
    with served(exported.saved_model) as (_, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for at in range(0, len(data), 8):
            body = {
                "instances": [
                    {"b64": base64.b64encode(each).decode()}
                    for each in data[at : at + 8]
                ]
            }
            connection.request(
                "POST", "/v1/models/model:predict", json.dumps(body)
            )
            found = json.loads(connection.getresponse().read())
            by_http += [row["probabilities"] for row in found["predictions"]]
        connection.close()
    answers["http"] = by_http
    for way, scores in answers.items():
        scores = np.asarray(scores)
        difference = abs(scores - measured.probabilities).max()
        assert difference < 1e-4, way
        # But for ties within that.
        other = scores.argmax(-1) != measured.predicted
        margin = abs(np.diff(measured.probabilities, axis=1))[:, 0]
        assert not (other & (margin > 2e-4)).any(), way
